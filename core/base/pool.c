#define _GNU_SOURCE
#include "core/base/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/base.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/mem.h"

enum { THREADS_MAX = 256 };

/* Every thread counts the points that it has passed, and others wait until it has come far enough: of a run with k
 * barriers the owner counts its beginning and the k, a worker the k and its end, so that between two runs all counts
 * are equal and in a run the owner is one ahead. Only its own thread writes a count, in a cache line of its own, so a
 * point costs two threads one write and one read of a line, and no atomic update of a shared one. */
struct member {
    _Alignas(64) _Atomic uint32_t passed; /* what others wait for */
    deq_pool_fn fn;                       /* and ctx: of the owner, the run that it began; NULL: stop */
    void *ctx;
    _Alignas(64) _Atomic uint32_t sleepers; /* threads in the kernel, or on their way there, that wait for passed */
    struct deq_pool *pool;
    pthread_t thread;
    unsigned index;
};

struct deq_pool {
    unsigned n_threads, n_started; /* n_started: workers among members[1 ..] */
    struct member *members;        /* [n_threads], the owner's first */
    bool bound;                    /* to these cores, which it holds: */
    uint16_t core[THREADS_MAX];    /* [n_threads] */
    cpu_set_t workers_cores;
    /* The owner's: what it waited in the current run; how long stages took since they were judged, and what of it was
     * waiting; until when it works alone. */
    uint64_t waited_ns, stages_ns, stages_waited_ns, alone_until_ns;
};

enum {
    SPIN_NS = 100000, /* longer than the gap between two steps, in which tokens are told; waking a core costs as much */
    SPINS_A_LOOK = 32 /* at the clock */
};

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

static uint32_t count(const struct member *self)
{
    return atomic_load_explicit(&self->passed, memory_order_relaxed);
}

/* What the thread wrote before is seen by all who wait for the point. Of the two updates of sleepers, here and in park,
 * one is first: either this one finds the sleeper's, or the sleeper's finds the new count with it and does not sleep.
 * A plain write of the count, with what stands beside it, and the locked update in a line that nobody polls: the other
 * way round a poller takes the line away in between. */
static void pass(struct member *self)
{
    atomic_store_explicit(&self->passed, count(self) + 1, memory_order_release);
    if (atomic_fetch_add_explicit(&self->sleepers, 0, memory_order_acq_rel))
        futex_wake_all(&self->passed);
}

static void park(struct member *other, uint32_t point)
{
    uint32_t seen;
    atomic_fetch_add_explicit(&other->sleepers, 1, memory_order_acq_rel);
    while ((int32_t)((seen = atomic_load_explicit(&other->passed, memory_order_acquire)) - point) < 0)
        futex_wait(&other->passed, seen);
    atomic_fetch_sub_explicit(&other->sleepers, 1, memory_order_acq_rel);
}

/* Returns the time that it took, or 0 where it was too short for a look at the clock. */
static uint64_t await(struct member *other, uint32_t point)
{
    uint64_t begin = 0, now = 0;
    for (unsigned spins = 1; !has_passed(other, point); spins++) {
        cpu_relax();
        if (spins % SPINS_A_LOOK)
            continue;
        now = deq_now_ns();
        if (!begin)
            begin = now;
        else if (now - begin >= SPIN_NS)
            park(other, point);
    }
    return begin ? deq_now_ns() - begin : 0;
}

static void *worker_main(void *arg)
{
    struct member *self = arg, *owner = self->pool->members;
    (void)pthread_setname_np(pthread_self(), "pool"); /* another thread's name is a file to write */
    for (;;) {
        await(owner, count(self) + 1);
        if (!owner->fn)
            return NULL;
        owner->fn(owner->ctx, self->index, self->pool->n_threads);
        pass(self);
    }
}

enum deq_rc deq_pool_new(unsigned n_threads, struct deq_pool **ret_pool, struct deq_err *err)
{
    if (n_threads < 1 || n_threads > THREADS_MAX)
        return deq_fail(err, DEQ_EINVAL, "threads: %u is outside 1..%d", n_threads, THREADS_MAX);
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
        rc = DEQ_THREAD(pthread_create(&m->thread, NULL, worker_main, m));
        p->n_started += !rc;
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
    p->members[0].fn = NULL;
    pass(&p->members[0]);
    for (unsigned i = 1; i <= p->n_started; i++)
        pthread_join(p->members[i].thread, NULL);
    if (p->bound)
        deq_cores_give_back(p->n_threads, p->core);
    deq_free(p->members);
    deq_free(p);
}

unsigned deq_pool_threads(const struct deq_pool *p)
{
    return p->n_threads;
}

void deq_pool_bind(struct deq_pool *p, enum deq_pin pin)
{
    if (!deq_cores_take(pin, p->n_threads, p->core))
        return;
    p->bound = true;
    for (unsigned i = 1; i < p->n_threads; i++) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(p->core[i], &one);
        if (!pthread_setaffinity_np(p->members[i].thread, sizeof one, &one)) /* fails where a sandbox forbids it */
            CPU_SET(p->core[i], &p->workers_cores);
    }
}

/* After a pause the scheduler may wake the owner on a worker's core, where each would wait for the other's turn. */
static void leave_worker(const struct deq_pool *p)
{
    cpu_set_t before, own;
    const int cpu = sched_getcpu();
    if (cpu < 0 || cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &p->workers_cores) ||
        sched_getaffinity(0, sizeof before, &before))
        return;
    CPU_ZERO(&own);
    CPU_SET(p->core[0], &own);
    if (!sched_setaffinity(0, sizeof own, &own))
        (void)sched_setaffinity(0, sizeof before, &before);
}

void deq_pool_run(struct deq_pool *p, deq_pool_fn fn, void *ctx)
{
    if (p->n_threads == 1) {
        fn(ctx, 0, 1);
        return;
    }
    struct member *self = p->members;
    if (p->bound)
        leave_worker(p);
    self->fn = fn;
    self->ctx = ctx;
    p->waited_ns = 0;
    pass(self);
    fn(ctx, 0, p->n_threads);
    for (unsigned i = 1; i < p->n_threads; i++)
        p->waited_ns += await(&p->members[i], count(self));
}

void deq_pool_barrier(struct deq_pool *p, unsigned thread, unsigned n_threads)
{
    if (n_threads == 1)
        return;
    struct member *self = &p->members[thread];
    const uint32_t workers = count(self) + (thread != 0); /* as far as they must be */
    pass(self);
    for (unsigned i = 1; i < n_threads; i++) {
        const unsigned other = (thread + i) % n_threads;
        const uint64_t waited_ns = await(&p->members[other], workers + (other == 0));
        if (thread == 0)
            p->waited_ns += waited_ns;
    }
}

enum {
    WORTH_A_THREAD = 1 << 15,
    JUDGED_NS = 100000000, /* several slices of a scheduler: who is away for one of them is not away for good */
    COST_SPREAD = 16,   /* tries that lose cost a sixteenth */
    ALONE_MAX_NS = 1000000000
};

/* Where the owner waits for more than (n - 1) / n of the time, it would have done all the work itself in less: somebody
 * else computes on these cores, and the thread that has none keeps all others waiting. Then it does so for a multiple
 * of the time that the losing try took, and tries again. */
static void judge(struct deq_pool *p, uint64_t now_ns)
{
    if (p->stages_waited_ns * p->n_threads > p->stages_ns * (p->n_threads - 1))
        p->alone_until_ns = now_ns + DEQ_MIN(p->stages_ns * COST_SPREAD, (uint64_t)ALONE_MAX_NS);
    p->stages_ns = p->stages_waited_ns = 0;
}

void deq_pool_stage(struct deq_pool *p, deq_pool_fn stage, void *ctx, size_t work)
{
    uint64_t begin_ns;
    if (work < WORTH_A_THREAD || p->n_threads == 1 || (begin_ns = deq_now_ns()) < p->alone_until_ns) {
        stage(ctx, 0, 1);
        return;
    }
    deq_pool_run(p, stage, ctx);
    const uint64_t now_ns = deq_now_ns();
    p->stages_ns += now_ns - begin_ns;
    p->stages_waited_ns += p->waited_ns;
    if (p->stages_ns >= JUDGED_NS)
        judge(p, now_ns);
}
