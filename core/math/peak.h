/* What a CPU level can do at most: loops of its multiply-add instructions on registers, and a reader of memory. The
 * floors of `deq bench` are measured with them, in the run whose figures they judge; no result comes of them. One table
 * a level, as of the kernels (kern.h). Any thread. */
#ifndef DEQ_MATH_PEAK_H
#define DEQ_MATH_PEAK_H

#include "core/base/base.h"

/* The instruction that products of a kind are made of. */
struct deq_unit {
    const char *instruction;
    unsigned madds; /* multiply-adds of one round: independent chains, as many as hide the latency, times lanes */
    void (*run)(uint64_t rounds);
};

struct deq_peak {
    const char *level; /* deq_kern()->name */
    struct deq_unit floats, integers;
    /* multiply-adds of `integers` that a 16-bit activation takes with each byte of a weight: 1 where it multiplies
     * 16-bit numbers, 2 where it multiplies bytes */
    unsigned per_byte;
    void (*read)(const void *p, size_t bytes); /* every byte, with plain loads; a multiple of DEQ_PEAK_READ */
};

enum { DEQ_PEAK_READ = 512 };

/* Of the level in use. */
const struct deq_peak *deq_peak(void);

#endif
