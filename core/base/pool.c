#define _GNU_SOURCE
#include "core/base/pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/base.h"
#include "core/base/mem.h"

enum { SPINS = 4000 }; /* about 10 us: longer than the gap between two kernels of one step */

struct worker {
    struct deq_pool *pool;
    pthread_t thread;
    unsigned index;
};

struct deq_pool {
    _Alignas(64) _Atomic uint32_t generation; /* written by the owner: a new run began (or stop) */
    _Alignas(64) _Atomic uint32_t pending;    /* workers that have not finished the current run */
    deq_pool_fn fn;                           /* written by the owner before generation */
    void *ctx;
    bool stop;
    unsigned n_threads, n_started;
    struct worker *workers; /* [n_threads - 1] */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct deq_pool *p = w->pool;
    uint32_t seen = 0;
    for (;;) {
        uint32_t now;
        int spins = 0;
        while ((now = atomic_load_explicit(&p->generation, memory_order_acquire)) == seen) {
            if (++spins < SPINS)
                cpu_relax();
            else
                futex_wait(&p->generation, seen);
        }
        seen = now;
        if (p->stop)
            return NULL;
        p->fn(p->ctx, w->index, p->n_threads);
        if (atomic_fetch_sub_explicit(&p->pending, 1, memory_order_acq_rel) == 1)
            futex_wake_all(&p->pending);
    }
}

static void start_run(struct deq_pool *p)
{
    atomic_fetch_add_explicit(&p->generation, 1, memory_order_release);
    futex_wake_all(&p->generation);
}

enum deq_rc deq_pool_new(unsigned n_threads, struct deq_pool **ret_pool, struct deq_err *err)
{
    if (n_threads < 1 || n_threads > 256)
        return deq_fail(err, DEQ_EINVAL, "threads: %u is outside 1..256", n_threads);
    struct deq_pool *p = DEQ_NEW(struct deq_pool);
    if (!p || !(p->workers = DEQ_NEW_ARRAY(struct worker, n_threads))) {
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
        p->workers[i - 1] = (struct worker){.pool = p, .index = i};
        rc = pthread_create(&p->workers[i - 1].thread, NULL, worker_main, &p->workers[i - 1]);
        if (!rc) {
            (void)pthread_setname_np(p->workers[i - 1].thread, "pool");
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
    return sizeof(struct deq_pool) + (uint64_t)n_threads * sizeof(struct worker);
}

void deq_pool_free(struct deq_pool *p)
{
    if (!p)
        return;
    p->stop = true;
    start_run(p);
    for (unsigned i = 0; i < p->n_started; i++)
        pthread_join(p->workers[i].thread, NULL);
    deq_free(p->workers);
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
    p->fn = fn;
    p->ctx = ctx;
    atomic_store_explicit(&p->pending, p->n_threads - 1, memory_order_relaxed);
    start_run(p);
    fn(ctx, 0, p->n_threads);
    uint32_t left;
    int spins = 0;
    while ((left = atomic_load_explicit(&p->pending, memory_order_acquire))) {
        if (++spins < SPINS)
            cpu_relax();
        else
            futex_wait(&p->pending, left);
    }
}

enum { WORTH_A_THREAD = 1 << 15 };

void deq_pool_stage(struct deq_pool *pool, deq_pool_fn stage, void *ctx, size_t work)
{
    if (work < WORTH_A_THREAD)
        stage(ctx, 0, 1);
    else
        deq_pool_run(pool, stage, ctx);
}
