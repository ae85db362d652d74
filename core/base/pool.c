#define _GNU_SOURCE
#include "core/base/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/base.h"
#include "core/base/clock.h"
#include "core/base/mem.h"

/* Every thread counts the points that it has passed: a run's beginning (the owner's is waited for), its barriers
 * (everybody's) and its end (the workers'). Only its own thread writes a count and others wait until it has come far
 * enough, so a point costs two threads one write and one read of a cache line, and no atomic update of a shared one. */
struct member {
    _Alignas(64) _Atomic uint32_t passed;
    _Atomic uint32_t sleepers; /* threads in the kernel, or on their way there, that wait for passed */
    struct deq_pool *pool;
    pthread_t thread;
    unsigned index;
};

struct deq_pool {
    deq_pool_fn fn; /* with ctx and stop: written by the owner before it passes a run's beginning */
    void *ctx;
    bool stop;
    unsigned n_threads, n_started; /* n_started: workers among members[1 ..] */
    struct member *members;        /* [n_threads], the owner's first */
};

enum { SPIN_NS = 20000 }; /* longer than the gap between two stages of one step */

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static bool has_passed(const struct member *m, uint32_t point)
{
    return (int32_t)(atomic_load_explicit(&m->passed, memory_order_acquire) - point) >= 0;
}

/* The thread's own next point. */
static uint32_t next_point(const struct member *self)
{
    return atomic_load_explicit(&self->passed, memory_order_relaxed) + 1;
}

/* What the thread wrote before is seen by all who wait for the point. Either this reads a sleeper's announcement, or
 * the sleeper's next look at the count (its own, or the kernel's) comes later and finds it changed: both orders are
 * sequentially consistent. */
static void pass(struct member *self, uint32_t point)
{
    atomic_store_explicit(&self->passed, point, memory_order_seq_cst);
    if (atomic_load_explicit(&self->sleepers, memory_order_seq_cst))
        futex_wake_all(&self->passed);
}

static void park(struct member *other, uint32_t point)
{
    uint32_t seen;
    atomic_fetch_add_explicit(&other->sleepers, 1, memory_order_seq_cst);
    while ((int32_t)((seen = atomic_load_explicit(&other->passed, memory_order_seq_cst)) - point) < 0)
        futex_wait(&other->passed, seen);
    atomic_fetch_sub_explicit(&other->sleepers, 1, memory_order_relaxed);
}

static void await(struct member *other, uint32_t point)
{
    if (has_passed(other, point))
        return;
    const uint64_t until = deq_now_ns() + SPIN_NS;
    do
        for (int i = 0; i < 16; i++) {
            cpu_relax();
            if (has_passed(other, point))
                return;
        }
    while (deq_now_ns() < until);
    park(other, point);
}

static void *worker_main(void *arg)
{
    struct member *self = arg;
    struct deq_pool *p = self->pool;
    for (;;) {
        const uint32_t point = next_point(self);
        await(&p->members[0], point);
        if (p->stop)
            return NULL;
        atomic_store_explicit(&self->passed, point, memory_order_relaxed); /* for which nobody waits */
        p->fn(p->ctx, self->index, p->n_threads);
        pass(self, next_point(self));
    }
}

enum deq_rc deq_pool_new(unsigned n_threads, struct deq_pool **ret_pool, struct deq_err *err)
{
    if (n_threads < 1 || n_threads > 256)
        return deq_fail(err, DEQ_EINVAL, "threads: %u is outside 1..256", n_threads);
    struct deq_pool *p = DEQ_NEW(struct deq_pool);
    if (!p || !(p->members = DEQ_NEW_ARRAY(struct member, n_threads))) {
        deq_free(p);
        return deq_fail(err, DEQ_ENOMEM, "no memory for %u threads", n_threads);
    }
    p->n_threads = n_threads;
    /* signals belong to the program's own thread */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = 0;
    for (unsigned i = 1; i < n_threads && !rc; i++) {
        struct member *m = &p->members[i];
        m->pool = p;
        m->index = i;
        rc = pthread_create(&m->thread, NULL, worker_main, m);
        if (!rc) {
            (void)pthread_setname_np(m->thread, "pool");
            p->n_started++;
        }
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        deq_pool_free(p);
        return deq_fail(err, DEQ_EIO, "cannot start %u threads", n_threads);
    }
    *ret_pool = p;
    return DEQ_OK;
}

uint64_t deq_pool_bytes(unsigned n_threads)
{
    return sizeof(struct deq_pool) + (uint64_t)n_threads * sizeof(struct member);
}

void deq_pool_free(struct deq_pool *p)
{
    if (!p)
        return;
    p->stop = true;
    pass(&p->members[0], next_point(&p->members[0]));
    for (unsigned i = 1; i <= p->n_started; i++)
        pthread_join(p->members[i].thread, NULL);
    deq_free(p->members);
    deq_free(p);
}

unsigned deq_pool_threads(const struct deq_pool *p)
{
    return p->n_threads;
}

void deq_pool_run(struct deq_pool *p, deq_pool_fn fn, void *ctx)
{
    if (p->n_threads == 1) {
        fn(ctx, 0, 1);
        return;
    }
    struct member *self = &p->members[0];
    p->fn = fn;
    p->ctx = ctx;
    pass(self, next_point(self));
    fn(ctx, 0, p->n_threads);
    const uint32_t end = next_point(self);
    for (unsigned i = 1; i < p->n_threads; i++)
        await(&p->members[i], end);
    atomic_store_explicit(&self->passed, end, memory_order_relaxed); /* for which nobody waits */
}

void deq_pool_barrier(struct deq_pool *p, unsigned thread, unsigned n_threads)
{
    if (n_threads == 1)
        return;
    struct member *self = &p->members[thread];
    const uint32_t point = next_point(self);
    pass(self, point);
    for (unsigned i = 1; i < n_threads; i++)
        await(&p->members[(thread + i) % n_threads], point);
}

enum { WORTH_A_THREAD = 1 << 15 };

void deq_pool_stage(struct deq_pool *pool, deq_pool_fn stage, void *ctx, size_t work)
{
    if (work < WORTH_A_THREAD)
        stage(ctx, 0, 1);
    else
        deq_pool_run(pool, stage, ctx);
}
