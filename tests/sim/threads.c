/* The daemon's threads as coroutines. One runs until it waits, or is held up at a lock; then the loop in sim.c chooses
 * what goes on. A mutex is the word that pthread_mutex_t begins with, so that zeros are a free one; who waits for it
 * asks again when it is chosen. A condition wakes who lies on it now, and is forgotten if nobody does, as by POSIX. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include "tests/sim/sim.h"

enum { THREADS = 64, STACK_BYTES = 1 << 20, SPURIOUS = 200 };

struct thread {
    bool used, ended, joined, detached, signalled;
    ucontext_t context;
    char *stack;
    void *(*fn)(void *);
    void *arg, *ret;
    char name[16];
    ready_fn *ready;
    const void *on;
    const void *cond;
    uint64_t until_ns;
};

static struct thread threads[THREADS];
static struct thread *current; /* NULL: the simulation's own */
static ucontext_t outside;
static uint32_t signals;

/* The daemon's own function, before it is wrapped. */
int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);

bool thread_is_one(void)
{
    return current != NULL;
}

const char *thread_name(void)
{
    return current ? current->name : "-";
}

static void leave(void)
{
    if (swapcontext(&current->context, &outside))
        abort();
}

void thread_wait(ready_fn *ready, const void *on, uint64_t until_ns)
{
    if (!current)
        sim_fail("the simulation itself would wait");
    current->ready = ready;
    current->on = on;
    current->until_ns = until_ns;
    leave();
    current->ready = NULL;
    current->until_ns = 0;
}

static bool at_once(const void *on)
{
    (void)on;
    return true;
}

void thread_maybe_switch(void)
{
    if (current && sim.switch_one_in && sim_one_in(sim.switch_one_in))
        thread_wait(at_once, NULL, 0);
}

static void body(void)
{
    current->ret = current->fn(current->arg);
    current->ended = true;
    leave();
}

static struct thread *thread_new(const char *name, void *(*fn)(void *), void *arg)
{
    struct thread *t = threads;
    while (t < threads + THREADS && t->used)
        t++;
    if (t == threads + THREADS)
        sim_fail("more than %d threads", THREADS);
    char *stack = t->stack;
    if (!stack) {
        stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        if (stack == MAP_FAILED || mprotect(stack, 4096, PROT_NONE))
            abort();
    }
    *t = (struct thread){.used = true, .stack = stack, .fn = fn, .arg = arg, .ready = at_once};
    snprintf(t->name, sizeof t->name, "%s", name);
    getcontext(&t->context);
    t->context.uc_stack.ss_sp = stack;
    t->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&t->context, body, 0);
    return t;
}

void thread_start(const char *name, void *(*fn)(void *), void *arg)
{
    thread_new(name, fn, arg)->detached = true;
}

static bool can_go(const struct thread *t)
{
    if (!t->used || t->ended)
        return false;
    return (t->ready && t->ready(t->on)) || (t->until_ns && sim.now_ns >= t->until_ns);
}

bool threads_go(void)
{
    struct thread *can[THREADS];
    size_t n = 0;
    for (struct thread *t = threads; t < threads + THREADS; t++)
        if (can_go(t))
            can[n++] = t;
    if (!n)
        return false;
    current = can[sim_below(n)];
    struct thread *t = current;
    if (swapcontext(&outside, &t->context))
        abort();
    current = NULL;
    sim_mix(t->name, strlen(t->name));
    if (t->ended && (t->detached || t->joined))
        t->used = false;
    return true;
}

uint64_t threads_next_ns(void)
{
    uint64_t next = UINT64_MAX;
    for (const struct thread *t = threads; t < threads + THREADS; t++)
        if (t->used && !t->ended && t->until_ns)
            next = DEQ_MIN(next, t->until_ns);
    return next;
}

size_t threads_alive(void)
{
    size_t n = 0;
    for (const struct thread *t = threads; t < threads + THREADS; t++)
        n += t->used;
    return n;
}

/* --- pthread_* --- */

static pthread_t id_of(const struct thread *t)
{
    return t ? (pthread_t)(t - threads + 1) : (pthread_t)(THREADS + 1);
}

int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
    int detached = PTHREAD_CREATE_JOINABLE;
    if (attr)
        pthread_attr_getdetachstate(attr, &detached);
    if (sim.chaos && sim.serving && sim_one_in(50))
        return EAGAIN;
    struct thread *t = thread_new("thread", fn, arg);
    t->detached = detached == PTHREAD_CREATE_DETACHED;
    *ret = id_of(t);
    thread_maybe_switch();
    return 0;
}

static bool has_ended(const void *on)
{
    return ((const struct thread *)on)->ended;
}

int __wrap_pthread_join(pthread_t thread, void **ret)
{
    struct thread *t = &threads[thread - 1];
    if (!t->used || t->joined || t->detached)
        sim_fail("a thread is joined that is not there");
    t->joined = true;
    thread_wait(has_ended, t, 0);
    if (ret)
        *ret = t->ret;
    t->used = false;
    return 0;
}

int __wrap_pthread_detach(pthread_t thread)
{
    threads[thread - 1].detached = true;
    return 0;
}

pthread_t __wrap_pthread_self(void)
{
    return id_of(current);
}

int __wrap_pthread_setname_np(pthread_t thread, const char *name)
{
    snprintf(threads[thread - 1].name, sizeof threads->name, "%s", name);
    return 0;
}

static bool mutex_ready(const void *on)
{
    return !((const pthread_mutex_t *)on)->__data.__lock;
}

bool mutex_is_free(const void *mutex)
{
    return mutex_ready(mutex);
}

/* Who waits for a mutex whose owner waits for one, and so on, back to who asks. */
static void find_deadlock(const pthread_mutex_t *m)
{
    for (int k = 0; k < THREADS; k++) {
        const struct thread *owner = &threads[m->__data.__owner - 1];
        if (owner == current)
            sim_fail("deadlock: thread \"%s\" waits for a lock that waits for it", current->name);
        if (!owner->used || owner->ready != mutex_ready)
            return;
        m = owner->on;
    }
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *m)
{
    thread_maybe_switch();
    while (m->__data.__lock) {
        if (!current)
            sim_fail("the simulation itself would wait for a lock");
        find_deadlock(m);
        thread_wait(mutex_ready, m, 0);
    }
    m->__data.__lock = 1;
    m->__data.__owner = (int)id_of(current);
    return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *m)
{
    if (!m->__data.__lock || m->__data.__owner != (int)id_of(current))
        sim_fail("a lock is given back that was not taken");
    m->__data.__lock = m->__data.__owner = 0;
    thread_maybe_switch();
    return 0;
}

int __wrap_pthread_mutex_destroy(pthread_mutex_t *m)
{
    if (m->__data.__lock)
        sim_fail("a lock is destroyed while it is held");
    for (const struct thread *t = threads; t < threads + THREADS; t++)
        if (t->used && !t->ended && t->on == m && t->ready == mutex_ready)
            sim_fail("a lock is destroyed while thread \"%s\" waits for it", t->name);
    return 0;
}

static bool writer_gone(const void *on)
{
    return !((const pthread_rwlock_t *)on)->__data.__writers;
}

static bool all_gone(const void *on)
{
    return writer_gone(on) && !((const pthread_rwlock_t *)on)->__data.__readers;
}

int __wrap_pthread_rwlock_rdlock(pthread_rwlock_t *l)
{
    thread_maybe_switch();
    while (!writer_gone(l))
        thread_wait(writer_gone, l, 0);
    l->__data.__readers++;
    return 0;
}

int __wrap_pthread_rwlock_wrlock(pthread_rwlock_t *l)
{
    thread_maybe_switch();
    while (!all_gone(l))
        thread_wait(all_gone, l, 0);
    l->__data.__writers = 1;
    return 0;
}

int __wrap_pthread_rwlock_unlock(pthread_rwlock_t *l)
{
    if (l->__data.__writers)
        l->__data.__writers = 0;
    else
        l->__data.__readers--;
    return 0;
}

static bool was_signalled(const void *on)
{
    return ((const struct thread *)on)->signalled;
}

static int cond_wait(pthread_cond_t *c, pthread_mutex_t *m, uint64_t until_ns)
{
    current->signalled = sim_one_in(SPURIOUS);
    current->cond = c;
    m->__data.__lock = m->__data.__owner = 0;
    thread_wait(was_signalled, current, until_ns);
    const bool late = !current->signalled;
    current->cond = NULL;
    while (m->__data.__lock)
        thread_wait(mutex_ready, m, 0);
    m->__data.__lock = 1;
    m->__data.__owner = (int)id_of(current);
    return late ? ETIMEDOUT : 0;
}

static uint64_t ns_of(const struct timespec *t)
{
    return (uint64_t)t->tv_sec * 1000000000u + (uint64_t)t->tv_nsec;
}

int __wrap_pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
    return cond_wait(c, m, 0);
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until)
{
    return cond_wait(c, m, DEQ_MAX(ns_of(until), 1u));
}

/* One of those that lie on it, or all. */
static void wake(const pthread_cond_t *c, bool all)
{
    struct thread *lying[THREADS];
    size_t n = 0;
    for (struct thread *t = threads; t < threads + THREADS; t++)
        if (t->used && t->cond == c && !t->signalled)
            lying[n++] = t;
    if (n && !all)
        lying[sim_below(n)]->signalled = true;
    for (size_t i = 0; all && i < n; i++)
        lying[i]->signalled = true;
}

int __wrap_pthread_cond_signal(pthread_cond_t *c)
{
    wake(c, false);
    return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *c)
{
    wake(c, true);
    return 0;
}

bool thread_sleeps_on(const void *cond)
{
    for (const struct thread *t = threads; t < threads + THREADS; t++)
        if (t->used && t->cond == cond && !t->signalled && !can_go(t))
            return true;
    return false;
}

/* --- The clock, sleep, signals --- */

static bool never(const void *on)
{
    (void)on;
    return false;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *ret)
{
    const uint64_t ns = sim.now_ns + (clock == CLOCK_REALTIME ? 1700000000000000000u : 0);
    *ret = (struct timespec){.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    return 0;
}

int __wrap_nanosleep(const struct timespec *t, struct timespec *left)
{
    (void)left;
    thread_wait(never, NULL, sim.now_ns + ns_of(t));
    return 0;
}

void sim_signal(int sig)
{
    signals |= 1u << sig;
}

static int pending(const sigset_t *set)
{
    for (int sig = 1; sig < 32; sig++)
        if (signals >> sig & 1 && sigismember(set, sig) == 1)
            return sig;
    return 0;
}

static bool signal_there(const void *set)
{
    return pending(set) != 0;
}

static int take_signal(const sigset_t *set)
{
    const int sig = pending(set);
    signals &= ~(1u << sig);
    return sig ? sig : -1;
}

int __wrap_sigtimedwait(const sigset_t *set, siginfo_t *info, const struct timespec *t)
{
    (void)info;
    thread_wait(signal_there, set, DEQ_MAX(sim.now_ns + ns_of(t), 1u));
    return take_signal(set);
}

int __wrap_sigwaitinfo(const sigset_t *set, siginfo_t *info)
{
    (void)info;
    thread_wait(signal_there, set, 0);
    return take_signal(set);
}

/* Signals and limits of this process are the simulation's. */
int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
    (void)how;
    (void)set;
    (void)old;
    return 0;
}

int __wrap_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
    (void)sig;
    (void)act;
    (void)old;
    return 0;
}
