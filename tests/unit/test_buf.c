/* core/base/buf.c: buffers with a maximum at birth, and failures that are carried on. */
#include "core/base/buf.h"

#include <string.h>

#include "core/base/mem.h"
#include "tests/unit/test.h"

TEST(buf_keeps_to_its_maximum)
{
    struct deq_buf b;
    deq_buf_init(&b, 10);
    CHECK(deq_buf_add(&b, NULL, 0) && b.len == 0);
    CHECK(deq_buf_str(&b, "abcd"));
    CHECK(deq_buf_add(&b, "e\0f", 3));
    CHECK(b.len == 7 && !memcmp(b.data, "abcde\0f", 8)); /* 8: the terminating NUL too */
    CHECK(!deq_buf_str(&b, "1234"));
    CHECK(b.failed && b.full && !b.len && !b.data); /* nothing that could be taken for the whole */
    CHECK(!deq_buf_str(&b, "1")); /* would fit, but a failure stays until it is freed */
    CHECK(!deq_buf_fmt(&b, "%d", 1));
    deq_buf_reset(&b);
    CHECK(b.failed && !b.len);
    deq_buf_free(&b);
    CHECK(!b.failed && !b.full && b.max == 10);
    CHECK(deq_buf_fmt(&b, "%s-%05d", "abcd", 42) && b.len == 10 && !strcmp(b.data, "abcd-00042"));
    CHECK(!deq_buf_try(&b, "x", 1) && !b.failed && b.len == 10);
    CHECK(!deq_buf_add(&b, "x", 1));
    deq_buf_free(&b);
    CHECK(!deq_buf_fmt(&b, "%011d", 1) && b.failed && b.len == 0);
    deq_buf_free(&b);
    CHECK(!b.data && b.max == 10);
    deq_buf_free(&b); /* twice is harmless */

    deq_buf_init(&b, 0);
    CHECK(deq_buf_str(&b, ""));
    CHECK(!deq_buf_str(&b, "x"));
    deq_buf_free(&b);
}

TEST(buf_grows_and_drops_front)
{
    struct deq_buf b;
    deq_buf_init(&b, 100000);
    for (unsigned i = 0; i < 20000; i++)
        deq_buf_fmt(&b, "%u", i % 10);
    bool same = b.len == 20000 && b.data[20000] == 0;
    for (unsigned i = 0; same && i < 20000; i++)
        same = b.data[i] == (char)('0' + i % 10);
    CHECK(same);
    deq_buf_drop_front(&b, 0);
    CHECK(b.len == 20000);
    deq_buf_drop_front(&b, 19997);
    CHECK(b.len == 3 && !strcmp(b.data, "789"));
    deq_buf_drop_front(&b, 4); /* more than there is: all of it */
    CHECK(b.len == 0 && b.data[0] == 0);
    deq_buf_free(&b);
}

/* Text that fits, that just does not, and that wants new memory, each after some and each twice. */
TEST(buf_formats_at_the_edge_of_its_room)
{
    char want[512];
    for (int width = 1; width < 200; width++) {
        struct deq_buf b;
        deq_buf_init(&b, 4096);
        CHECK(deq_buf_fmt(&b, "ab%*d%s", width, 7, "c") && deq_buf_fmt(&b, "%*d", width, 8));
        snprintf(want, sizeof want, "ab%*dc%*d", width, 7, width, 8);
        CHECK_MSG(b.len == strlen(want) && b.len < b.cap && !strcmp(b.data, want), "width %d", width);
        deq_buf_free(&b);
    }
}

TEST(buf_numbers)
{
    static const uint64_t numbers[] = {0, 9, 10, 1234567890, UINT64_MAX};
    struct deq_buf b;
    deq_buf_init(&b, 64);
    for (size_t i = 0; i < DEQ_COUNT(numbers); i++)
        CHECK(deq_buf_uint(&b, numbers[i]) && deq_buf_str(&b, " "));
    CHECK_EQ(b.data, "0 9 10 1234567890 18446744073709551615 ");
    deq_buf_free(&b);
}

TEST(buf_without_memory)
{
    struct deq_buf b;
    deq_buf_init(&b, 1 << 20);
    deq_buf_str(&b, "kept");
    deq_mem_fault(1, true);
    char big[500];
    memset(big, 'x', sizeof big);
    bool ok = deq_buf_add(&b, big, sizeof big);
    deq_mem_fault(0, false);
    CHECK(!ok && b.failed && !b.full && !b.len);
    deq_buf_free(&b);
    deq_buf_str(&b, "kept");
    deq_mem_fault(1, true);
    ok = deq_buf_try(&b, big, sizeof big);
    deq_mem_fault(0, false);
    CHECK(!ok && !b.failed && b.len == 4 && !strcmp(b.data, "kept"));
    deq_buf_free(&b);
}

/* A failure goes on to whatever is built from the buffer, through every function that takes one. */
TEST(buf_failure_is_carried_on)
{
    struct deq_buf bad = {.max = 100}, out;
    deq_buf_init(&out, 100);
    deq_buf_str(&bad, "part");
    CHECK(deq_buf_append(&out, &bad) && !strcmp(out.data, "part") && deq_buf_carry(&out, &bad));
    deq_buf_fail(&bad);
    CHECK(!deq_buf_append(&out, &bad) && out.failed && !out.len);
    deq_buf_free(&out);
    CHECK(!deq_buf_carry(&out, &bad) && out.failed);
    deq_buf_free(&out);
    struct deq_buf to = {.max = 10};
    deq_buf_str(&to, "old");
    deq_buf_move(&to, &bad);
    CHECK(to.failed && !to.data && !bad.failed);
    deq_buf_free(&to);
    deq_buf_str(&bad, "more than ten bytes");
    const char *const data = bad.data;
    deq_buf_move(&to, &bad);
    CHECK(to.data == data && to.len == 19 && !bad.data && !bad.len && bad.max == 100);
    deq_buf_free(&to);
}
