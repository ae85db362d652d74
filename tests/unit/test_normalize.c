/* core/text/normalize.c: the four normal forms, around bytes that are no text. */
#include "core/text/normalize.h"

#include "tests/unit/tokenizers.h"

static bool normal(enum deq_form form, const char *s, const char *want)
{
    struct deq_buf out;
    deq_buf_init(&out, 1 << 20);
    const bool ok = deq_normalize(form, s, strlen(s), &out) && out.len == strlen(want) &&
                    !memcmp(out.len ? out.data : "", want, out.len);
    deq_buf_free(&out);
    return ok;
}

TEST(normal_forms)
{
    CHECK(normal(DEQ_NFC, "", "") && normal(DEQ_NFC, "plain", "plain"));
    CHECK(normal(DEQ_NFC, "e\xcc\x81t e\xcc\x81", "\xc3\xa9t \xc3\xa9"));
    CHECK(normal(DEQ_NFD, "\xc3\xa9", "e\xcc\x81"));
    CHECK(normal(DEQ_NFKC, "\xef\xac\x81 \xc2\xbd", "fi 1\xe2\x81\x84" "2"));
    CHECK(normal(DEQ_NFC, "\xef\xac\x81", "\xef\xac\x81"));
    CHECK(normal(DEQ_NFKD, "\xe1\xba\x9b\xcc\xa3", "s\xcc\xa3\xcc\x87"));
    CHECK(normal(DEQ_NFC, "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81")); /* Hangul */
    CHECK(normal(DEQ_NFC, "a\xff" "e\xcc\x81\xcc\xff\xcc\x81", "a\xff\xc3\xa9\xcc\xff\xcc\x81")); /* other bytes stay */
    CHECK(normal(DEQ_NFC, "a\xcc\x81\xcc\xa3", "\xe1\xba\xa1\xcc\x81")); /* marks in order first */
}
