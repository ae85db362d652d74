/* Pairs (z, f(z)) that come from no solver run: a rough contraction with noise, so that nothing cancels. One step at a
 * time is checked on them against the formulas of solver.h, in double and with full matrices. */
#ifndef DEQ_TEST_PAIRS_H
#define DEQ_TEST_PAIRS_H

#include <stdint.h>

#include "core/base/rng.h"

enum { PAIR_DIM = 24 };

static inline void random_pair(uint64_t seed, uint64_t step, float *z, float *fz)
{
    for (uint64_t i = 0; i < PAIR_DIM; i++)
        z[i] = (float)deq_rng_normal(seed, 3 * step, i);
    for (uint64_t i = 0; i < PAIR_DIM; i++)
        fz[i] = 0.3f * z[(i + 1) % PAIR_DIM] + 0.5f * (float)deq_rng_normal(seed, 3 * step + 1, i);
    fz[PAIR_DIM - 1] = (float)deq_rng_normal(seed, 3 * step + 2, 0);
}

#endif
