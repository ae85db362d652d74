/* core/base/pool.c: every thread once a run. */
#include "core/base/pool.h"

#include <pthread.h>
#include <stdatomic.h>

#include "core/base/mem.h"
#include "tests/unit/test.h"

struct pool_probe {
    unsigned n, calls[8];
    bool wrong, thread0;
    pthread_t owner;
    _Atomic unsigned sum;
    unsigned value[8];
};

static void pool_fn(void *ctx, unsigned i, unsigned n)
{
    struct pool_probe *p = ctx;
    if (n != p->n || i >= n) {
        p->wrong = true;
        return;
    }
    p->calls[i]++; /* private to thread i; the owner reads it after the run */
    if (i == 0)
        p->thread0 = p->thread0 && pthread_equal(pthread_self(), p->owner);
    atomic_fetch_add(&p->sum, p->value[i]);
}

TEST(pool_runs_every_thread_once)
{
    for (unsigned n = 1; n <= 5; n++) {
        struct deq_pool *pool = NULL;
        CHECK(!deq_pool_new(n, &pool, NULL));
        if (!pool)
            return;
        CHECK(deq_pool_threads(pool) == n);
        struct pool_probe p = {.n = n, .thread0 = true, .owner = pthread_self()};
        unsigned bad = 0;
        for (unsigned run = 1; run <= 300; run++) {
            unsigned want = 0;
            for (unsigned i = 0; i < n; i++)
                want += p.value[i] = run * (i + 1); /* written before the run, seen by every thread in it */
            atomic_store(&p.sum, 0);
            deq_pool_run(pool, pool_fn, &p);
            bad += atomic_load(&p.sum) != want;
            for (unsigned i = 0; i < n; i++)
                bad += p.calls[i] != run;
        }
        CHECK_MSG(bad == 0, "%u threads: %u", n, bad);
        CHECK(!p.wrong);
        CHECK(p.thread0);
        deq_pool_free(pool);
    }
}

TEST(pool_limits_and_faults)
{
    struct deq_pool *pool = NULL;
    struct deq_err e;
    CHECK(deq_pool_new(0, &pool, &e) == DEQ_EINVAL && !pool);
    CHECK(deq_pool_new(257, &pool, &e) == DEQ_EINVAL && !pool && strstr(e.text, "257"));
    deq_pool_free(NULL);
    unsigned n = 1;
    for (; n < 20; n++) {
        deq_mem_fault(n, false);
        enum deq_rc rc = deq_pool_new(3, &pool, &e);
        deq_mem_fault(0, false);
        if (!rc)
            break;
        CHECK(rc == DEQ_ENOMEM && !pool);
    }
    CHECK(n > 1 && n < 20);
    deq_pool_free(pool); /* never ran */
}
