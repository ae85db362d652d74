/* The machine that a benchmark runs on: threads, a clock, and what instructions and memory of the CPU level in use do
 * at most, measured in the same run as what is judged by it.
 *
 * What one thread does is timed by its processor time, which other processes leave nearly alone; what all do, by the
 * wall's. So the two agree only where nobody else computes: bench_machine.scale. */
#ifndef DEQ_MODELS_CLI_BENCH_MACHINE_H
#define DEQ_MODELS_CLI_BENCH_MACHINE_H

#include <jansson.h>

#include "core/base/pool.h"
#include "core/math/peak.h"

enum { BENCH_ROUNDS_MAX = 64 };

/* One value a round; rounds go over all cases in turn, so that a disturbance meets all of them. */
struct bench_series {
    double x[BENCH_ROUNDS_MAX];
    size_t n;
};
void bench_series_add(struct bench_series *s, double x);
double bench_series_median(struct bench_series *s); /* sorts */

struct bench_rate {
    double one, all; /* a second, on one thread and on all */
};

enum bench_place { BENCH_L1, BENCH_L2, BENCH_L3, BENCH_DRAM, BENCH_PLACES };

struct bench_machine {
    unsigned threads, rounds;
    double sample_s; /* least time of one sample */
    const struct deq_peak *peak;
    struct bench_rate floats, integers;              /* multiply-adds a second */
    struct {
        size_t bytes;                                /* of all threads together; 0: there is no such cache */
        struct bench_rate rate;                      /* bytes a second */
    } read[BENCH_PLACES];
    double scale;      /* multiply-adds of all threads, of as many times one's; 1 on a quiet machine */
    double steadiness; /* of all threads: the slowest tenth of short samples against the middle one */
    /* inside */
    struct deq_pool *pool;
    char *memory;
    size_t memory_bytes;
};

/* quick: a few short samples, to see that it works. On failure nothing is held. */
enum deq_rc bench_machine_open(struct bench_machine *m, unsigned threads, bool quick, struct deq_err *err);
void bench_machine_close(struct bench_machine *m);
void bench_machine_measure(struct bench_machine *m);
bool bench_machine_quiet(const struct bench_machine *m);

/* Seconds: this thread's processor time where the machine has one thread, else the wall's. */
double bench_now(const struct bench_machine *m);
/* Seconds of fn on one thread, or on all. */
double bench_time(struct bench_machine *m, bool all, deq_pool_fn fn, void *ctx);
/* How often fn, which does its work *times times, is to do it for a sample to be long enough: by processor time, which
 * a disturbance does not fool. Then it has run once on all threads. */
void bench_calibrate(struct bench_machine *m, deq_pool_fn fn, void *ctx, uint64_t *times);
/* Bytes a second that all threads read of so many, each its part again and again, from wherever they lie then. */
double bench_read_rate(struct bench_machine *m, size_t bytes);

void bench_machine_print(const struct bench_machine *m);
json_t *bench_machine_json(const struct bench_machine *m);

#endif
