/* What the tests of kernels share: the levels, numbers of every size, bits and room around them.
 * "Same bits" leaves out the payload and sign of a NaN, which depend on operand order in the instruction; that it is a
 * NaN counts. */
#ifndef DEQ_TEST_KERNELS_H
#define DEQ_TEST_KERNELS_H

#include "core/math/kern.h"
#include "tests/unit/levels.h"
#include "tests/unit/test.h"

enum { MAX_N = 1100, GUARD = 20, N_SIZES = 71 + 15 };

bool same_bits(const float *a, const float *b, size_t n);
bool same1(float a, float b);
/* Mostly normal numbers, with zeros of both signs, subnormals and large ones among them; or normal ones alone. */
void fill(float *x, size_t n, uint64_t stream);
void normal(float *x, size_t n, uint64_t stream);
/* Room that nothing may write to, and whether nothing did. */
void sentinels(float *x, size_t n);
bool untouched(const float *x, size_t n);
/* i < N_SIZES: every tail of a 16-lane vector, both sides of one to five vectors, some long ones */
size_t size_at(size_t i);

#endif
