/* Monotonic and wall time. Nothing that enters a result may depend on them. */
#ifndef DEQ_BASE_CLOCK_H
#define DEQ_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t deq_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* CPU time of the calling thread. */
static inline uint64_t deq_thread_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* CPU time of all threads of the process so far. */
static inline double deq_process_cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline double deq_now_s(void)
{
    return (double)deq_now_ns() * 1e-9;
}

static inline uint64_t deq_wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

#endif
