/* core/base/err.c: what an error says is one line of UTF-8 that fits, whatever it was made of. */
#include "core/base/err.h"

#include "core/base/utf8.h"
#include "tests/unit/test.h"

TEST(err_text)
{
    struct deq_err e;
    CHECK(deq_fail(NULL, DEQ_EIO, "%s", "x") == DEQ_EIO);
    CHECK(deq_fail(&e, DEQ_EFORMAT, "%s has %d", "a\nb\x1b[\x7f", 3) == DEQ_EFORMAT);
    CHECK(e.code == DEQ_EFORMAT && !strcmp(e.text, "a?b?[? has 3"));
    CHECK(deq_fail_prefix(&e, DEQ_EINVAL, "file\t1") == DEQ_EINVAL);
    CHECK(e.code == DEQ_EINVAL && !strcmp(e.text, "file?1: a?b?[? has 3"));
    CHECK(deq_fail_prefix(NULL, DEQ_EINVAL, "p") == DEQ_EINVAL);

    char big[2000];
    memset(big, 'y', sizeof big - 1);
    big[sizeof big - 1] = 0;
    deq_fail(&e, DEQ_EIO, "%s", big);
    CHECK(strlen(e.text) == sizeof e.text - 1);
    deq_fail_prefix(&e, DEQ_EIO, "front");
    CHECK(!strncmp(e.text, "front: yyy", 10) && strlen(e.text) < sizeof e.text);
    deq_fail_prefix(&e, DEQ_EIO, big);
    CHECK(strlen(e.text) == sizeof e.text - 1);

    /* any bytes make a line of UTF-8, cut at a whole character */
    deq_fail(&e, DEQ_EIO, "%s", "\xff\xc3\xa9\xed\xa0\x80\xf0\x9f\x98\x80");
    CHECK(!strcmp(e.text, "?\xc3\xa9???\xf0\x9f\x98\x80"));
    deq_fail(&e, DEQ_EIO, "x\xf0\x9f\x98");
    CHECK(!strcmp(e.text, "x"));
    for (size_t shift = 0; shift < 4; shift++) {
        memset(big, 'x', shift);
        for (size_t i = shift; i + 4 < sizeof big; i += 4)
            memcpy(big + i, "\xf0\x9f\x98\x80", 4);
        for (int prefixed = 0; prefixed < 2; prefixed++) {
            deq_fail(&e, DEQ_EIO, "%s", big);
            if (prefixed)
                deq_fail_prefix(&e, DEQ_EIO, "front");
            CHECK(deq_utf8_valid(e.text, strlen(e.text)) && !strchr(e.text, '?') && strlen(e.text) > 390);
        }
    }

    for (int a = DEQ_ENOTFOUND; a <= DEQ_OK; a++) {
        CHECK(strcmp(deq_rc_name((enum deq_rc)a), "unknown"));
        for (int b = DEQ_ENOTFOUND; b < a; b++)
            CHECK(strcmp(deq_rc_name((enum deq_rc)a), deq_rc_name((enum deq_rc)b)));
    }
    CHECK(!strcmp(deq_rc_name((enum deq_rc)-99), "unknown"));
}
