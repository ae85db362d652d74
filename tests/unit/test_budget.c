/* What answers may hold: reservations, growth beyond them, and that nobody has it all. */
#include "core/base/buf.h"
#include "core/base/mem.h"
#include "tests/unit/test.h"

TEST(budget_reserves_and_takes)
{
    struct deq_budget b;
    struct deq_allowance a, none = {0};
    deq_budget_init(&b, 1000);
    deq_allowance_open(&a, &b, 1);
    CHECK(deq_allowance_reserve(&a, 600) && deq_budget_used(&b) == 600);
    CHECK(!deq_allowance_reserve(&a, 401) && deq_budget_used(&b) == 600);
    CHECK(deq_allowance_take(&a, 500) && deq_budget_used(&b) == 600); /* within what is kept for it */
    CHECK(deq_allowance_take(&a, 200) && deq_budget_used(&b) == 700);
    CHECK(!deq_allowance_take(&a, 301) && deq_budget_used(&b) == 700);
    deq_allowance_give(&a, 650);
    CHECK(deq_budget_used(&b) == 600);
    deq_allowance_unreserve(&a, 590);
    CHECK(deq_budget_used(&b) == 50);
    deq_allowance_give(&a, 50);
    deq_allowance_close(&a);
    CHECK(deq_budget_used(&b) == 0 && !b.open);
    CHECK(deq_allowance_take(&none, 1 << 30) && deq_allowance_take(NULL, 1)); /* not counted */
    deq_allowance_give(&none, 1 << 30);
    deq_allowance_close(&none);
    pthread_mutex_destroy(&b.lock);
}

/* However many an owner opens, what stays free is as much as he has; his first may have all that is free. */
TEST(budget_leaves_room_for_others)
{
    enum { N = 40 };
    struct deq_budget b;
    struct deq_allowance a[3][N];
    deq_budget_init(&b, 1000);
    for (uint64_t owner = 0; owner < 3; owner++)
        for (size_t i = 0; i < N; i++)
            deq_allowance_open(&a[owner][i], &b, owner);
    size_t n = 0;
    while (n < N && deq_allowance_reserve(&a[0][n], 30))
        n++;
    CHECK_MSG(n == 16, "%zu", n); /* 480 of 1000: one more would leave less free than he has */
    CHECK(deq_allowance_reserve(&a[1][0], 520)); /* another's first */
    CHECK(!deq_allowance_reserve(&a[2][0], 1));
    deq_allowance_unreserve(&a[1][0], 490);
    for (n = 1; n < N && deq_allowance_reserve(&a[1][n], 30);)
        n++;
    CHECK_MSG(n == 8, "%zu", n); /* 240, and 280 free */
    CHECK(deq_allowance_reserve(&a[2][0], 280));
    for (size_t owner = 0; owner < 3; owner++)
        for (size_t i = 0; i < N; i++)
            deq_allowance_close(&a[owner][N - 1 - i]);
    CHECK(deq_budget_used(&b) == 0 && !b.open);
    pthread_mutex_destroy(&b.lock);
}

/* A buffer's memory is what is counted, whatever becomes of it. */
TEST(budget_counts_buffers)
{
    struct deq_budget b;
    struct deq_allowance a;
    struct deq_buf buf = {.max = 1 << 20, .allowance = &a}, other = {.max = 1 << 20};
    deq_budget_init(&b, 10000);
    deq_allowance_open(&a, &b, 1);
    for (int i = 0; i < 1000; i++)
        CHECK(deq_buf_str(&buf, "abc") && deq_budget_used(&b) == buf.cap);
    deq_mem_fault(1, false);
    CHECK(!deq_buf_reserve(&buf, 5000)); /* the system has none */
    CHECK(buf.failed && deq_budget_used(&b) == 0);
    deq_buf_free(&buf);
    CHECK(deq_buf_reserve(&buf, 6000) && deq_budget_used(&b) == 6001);
    /* both at once are too much */
    CHECK(!deq_buf_reserve(&buf, 7000) && buf.failed && !buf.full && deq_budget_used(&b) == 0);
    deq_buf_free(&buf);
    CHECK(deq_buf_str(&buf, "x"));
    deq_buf_move(&other, &buf);
    CHECK(deq_budget_used(&b) == other.cap);
    deq_buf_free(&other);
    CHECK(deq_budget_used(&b) == 0 && deq_buf_str(&other, "y") && deq_budget_used(&b) == other.cap);
    deq_buf_free(&other);
    deq_allowance_close(&a);
    pthread_mutex_destroy(&b.lock);
}
