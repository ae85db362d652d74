/* core/base/pool.c: every thread once a run, and all together at a barrier. */
#define _GNU_SOURCE
#include "core/base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "tests/unit/test.h"

enum { MANY = 64 };

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

struct barrier_probe {
    struct deq_pool *pool;
    unsigned n, rounds, late; /* late: in every so many rounds one thread sleeps, and the others with it; 0: never */
    unsigned wrote[MANY];     /* [n] the round that a thread was in, written plainly */
    unsigned bad[MANY];
};

static void barrier_fn(void *ctx, unsigned i, unsigned n)
{
    struct barrier_probe *p = ctx;
    for (unsigned round = 1; round <= p->rounds; round++) {
        if (p->late && round % p->late == 0 && round / p->late % n == i)
            usleep(300);
        p->wrote[i] = round;
        deq_pool_barrier(p->pool, i, n);
        for (unsigned j = 0; j < n; j++)
            p->bad[i] += p->wrote[j] != round;
        deq_pool_barrier(p->pool, i, n); /* nobody writes while others read */
    }
}

static unsigned wrong_rounds(struct barrier_probe *p, unsigned runs)
{
    unsigned bad = 0;
    CHECK(!deq_pool_new(p->n, &p->pool, NULL));
    for (unsigned run = 0; run < runs; run++) {
        deq_pool_run(p->pool, barrier_fn, p);
        for (unsigned i = 0; i < p->n; i++)
            bad += p->bad[i] + (p->wrote[i] != p->rounds);
        memset(p->wrote, 0, sizeof p->wrote);
    }
    deq_pool_free(p->pool);
    return bad;
}

/* Of few threads, and of more than any machine that runs the tests has cores. */
TEST(pool_barrier_shows_all_that_was_written)
{
    static const struct {
        unsigned n, rounds, runs;
    } cases[] = {{1, 500, 5}, {2, 500, 5}, {3, 50, 2}, {5, 20, 2}, {MANY, 2, 2}};
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        struct barrier_probe p = {.n = cases[i].n, .rounds = cases[i].rounds};
        const unsigned bad = wrong_rounds(&p, cases[i].runs);
        CHECK_MSG(bad == 0, "%u threads: %u", cases[i].n, bad);
    }
}

TEST(pool_barrier_waits_for_a_thread_that_sleeps)
{
    struct barrier_probe p = {.n = 3, .rounds = 18, .late = 3};
    CHECK(wrong_rounds(&p, 2) == 0);
}

/* A stage on the caller's thread alone: nobody else is there to be waited for. */
TEST(pool_barrier_of_one)
{
    struct barrier_probe p = {.n = 3, .rounds = 5};
    CHECK(!deq_pool_new(p.n, &p.pool, NULL));
    deq_pool_stage(p.pool, barrier_fn, &p, 1);
    CHECK(p.wrote[0] == p.rounds && !p.wrote[1] && !p.bad[0]);
    deq_pool_run(p.pool, barrier_fn, &p);
    CHECK(p.wrote[2] == p.rounds && !p.bad[0] && !p.bad[1] && !p.bad[2]);
    deq_pool_free(p.pool);
}

/* Workers that went to sleep between two runs are woken by the second. */
TEST(pool_wakes_sleepers)
{
    struct deq_pool *pool = NULL;
    struct pool_probe p = {.n = 4, .thread0 = true, .owner = pthread_self(), .value = {1, 1, 1, 1}};
    CHECK(!deq_pool_new(4, &pool, NULL));
    for (unsigned run = 1; run <= 20; run++) {
        usleep(300);
        deq_pool_run(pool, pool_fn, &p);
        CHECK_MSG(atomic_load(&p.sum) == 4 * run, "run %u: %u", run, atomic_load(&p.sum));
    }
    deq_pool_free(pool);
}

static void late_fn(void *ctx, unsigned i, unsigned n)
{
    if (i == 0)
        *(unsigned *)ctx = n;
    else
        usleep(1000);
}

/* A worker that never comes in time is done without, and asked again after a while. */
TEST(pool_stage_goes_on_without_who_is_late)
{
    struct deq_pool *pool = NULL;
    unsigned n = 3, calls = 0;
    CHECK(!deq_pool_new(3, &pool, NULL));
    for (; n == 3 && calls < 1000; calls++)
        deq_pool_stage(pool, late_fn, &n, SIZE_MAX);
    CHECK_MSG(n == 1, "%u threads after %u stages", n, calls);
    for (calls = 0; n == 1 && calls < 1000000000; calls++)
        deq_pool_stage(pool, late_fn, &n, SIZE_MAX);
    CHECK_MSG(n == 3, "%u threads after %u stages", n, calls);
    deq_pool_free(pool);
}

static void affinity_fn(void *ctx, unsigned i, unsigned n)
{
    cpu_set_t *set = ctx;
    (void)n;
    if (sched_getaffinity(0, sizeof *set, &set[i]))
        CPU_ZERO(&set[i]); /* which no thread has */
}

/* Workers each to one, the caller's thread to where it was. */
TEST(pool_binds_its_threads_to_cores)
{
    struct deq_pool *pool = NULL;
    cpu_set_t before, both, of[2];
    if (sched_getaffinity(0, sizeof before, &before) || CPU_COUNT(&before) < 2)
        SKIP("one processor only");
    CHECK(!deq_pool_new(2, &pool, NULL));
    deq_pool_run(pool, affinity_fn, of);
    CHECK(CPU_EQUAL(&of[0], &before) && CPU_EQUAL(&of[1], &before));
    deq_pool_bind(pool, DEQ_PIN_ALWAYS);
    deq_pool_run(pool, affinity_fn, of);
    CPU_AND(&both, &before, &of[1]);
    CHECK(CPU_EQUAL(&of[0], &before) && CPU_COUNT(&of[1]) == 1 && CPU_COUNT(&both) == 1);
    deq_pool_free(pool);
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
