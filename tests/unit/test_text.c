/* core/base/text.c: texts as editors of other systems write them. */
#include "core/base/text.h"

#include "core/base/io.h"
#include "core/base/mem.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

TEST(text_files)
{
    REQUIRE(scratch_begin());
#define U "\xef\xbb\xbf"
#define N(x) x, sizeof x - 1
    static const struct {
        const char *in;
        size_t n_in;
        const char *out; /* NULL: refused */
        size_t n_out;
    } t[] = {
        {N(""), N("")},
        {N("a\nb"), N("a\nb")},
        {N("a\r\nb\r\n"), N("a\nb\n")},
        {N("\r\n\r\n"), N("\n\n")},
        {N("a\rb\r"), N("a\rb\r")}, /* no line end: as it stands */
        {N("\r\r\n\r"), N("\r\n\r")},
        {N(U), N("")},
        {N(U "a\r\n" U), N("a\n" U)}, /* only the first is a mark */
        {N("\xef\xbb"), N("\xef\xbb")},
        {N("a\0b\r\n"), N("a\0b\n")},
        {N("\0\0\0\0\0\0\0\0"), N("\0\0\0\0\0\0\0\0")},
        {N("\xff\xfe" "a\0"), NULL, 0},
        {N("\xfe\xff" "\0a"), NULL, 0},
        {N("\0\0\xfe\xff\0\0\0a"), NULL, 0},
        {N("p\0l\0a\0i\0n\0\r\0\n\0"), NULL, 0},
        {N("\0p\0l\0a\0i\0n\0\r\0\n"), NULL, 0},
    };
    struct deq_err e;
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        char *text = NULL;
        size_t n = 0;
        CHECK(!deq_io_replace(scratch_path("f"), &(struct deq_part){t[i].in, t[i].n_in}, 1, &e));
        const enum deq_rc rc = deq_text_read(scratch_path("f"), 100, &text, &n, &e);
        if (t[i].out)
            CHECK_MSG(!rc && n == t[i].n_out && !memcmp(text, t[i].out, n) && !text[n], "case %zu", i);
        else
            CHECK_MSG(rc == DEQ_EFORMAT && strstr(e.text, "/f: UTF-16"), "case %zu", i);
        deq_free(text);
    }
#undef N
#undef U
    scratch_end("f", NULL);
}
