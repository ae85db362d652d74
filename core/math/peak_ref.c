/* Peaks of the level that any CPU has: one number at a time, a call of the C library for each fused multiply-add. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define PEAK ref
#define OPAQUE(v) __asm__ volatile("" : "+m"(v))
#define FLOATS float
#define FLOAT_SET(x) (x)
#define FLOAT_MADD(x, w, sum) fmaf(x, w, sum)
#define FLOAT_INSTRUCTION "fmaf"
#define FLOAT_LANES 1
#define FLOAT_CHAINS 8
#define INTEGERS int64_t
#define INTEGER_SET(x) (x)
#define INTEGER_MADD(x, w, sum) ((sum) + (x) * (w))
#define INTEGER_INSTRUCTION "64-bit multiply, add"
#define INTEGER_LANES 1
#define INTEGER_CHAINS 8
#define PER_BYTE 1
#define WORDS uint64_t
#define WORD_ZERO 0
#define WORD_LOAD(p) load(p)
#define WORD_OR(a, b) ((a) | (b))
static inline uint64_t load(const char *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}
#include "core/math/peak_body.h"
