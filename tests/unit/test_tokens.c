/* core/base/tokens.c: a list that grows, and stays as it was when there is no memory. */
#include "core/base/tokens.h"

#include "core/base/mem.h"
#include "tests/unit/test.h"

TEST(tokens_grow)
{
    struct deq_tokens t = {0};
    for (uint32_t i = 0; i < 1000; i++)
        CHECK(deq_tokens_push(&t, i * i));
    size_t wrong = 0;
    for (uint32_t i = 0; i < 1000; i++)
        wrong += t.ids[i] != i * i;
    CHECK_EQ(t.n, 1000u);
    CHECK_EQ(wrong, 0u);
    while (t.n < t.cap)
        CHECK(deq_tokens_push(&t, 7));
    const size_t n = t.n;
    deq_mem_fault(1, false);
    CHECK(!deq_tokens_push(&t, 8));
    deq_mem_fault(0, false);
    CHECK(t.n == n && t.ids[n - 1] == 7);
    CHECK(deq_tokens_push(&t, 8) && t.ids[n] == 8);
    deq_tokens_free(&t);
    CHECK(!t.ids && !t.n && !t.cap);
    deq_tokens_free(&t);
}
