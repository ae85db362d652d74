/* The body of a level's peaks: the including file defines PEAK (name) and, for floats and integers, what it calls its
 * instruction, its vector and how many lanes and independent chains of it there are; OPAQUE(v) hides a vector's value
 * from the compiler, in a register. RUN_INTEGERS: a loop of its own, where the instruction is not one of
 * vectors. PER_BYTE is peak.h's per_byte. */
#include "core/math/peak.h"

static void run_floats(uint64_t rounds)
{
    FLOATS x = FLOAT_SET(1e-9f), w = FLOAT_SET(0.5f), sum[FLOAT_CHAINS];
    OPAQUE(x);
    OPAQUE(w);
    for (int i = 0; i < FLOAT_CHAINS; i++)
        sum[i] = FLOAT_SET(0.0f);
    for (; rounds; rounds--)
#pragma GCC unroll 32
        for (int i = 0; i < FLOAT_CHAINS; i++)
            sum[i] = FLOAT_MADD(x, w, sum[i]);
    for (int i = 0; i < FLOAT_CHAINS; i++)
        OPAQUE(sum[i]);
}

#ifndef RUN_INTEGERS
#define RUN_INTEGERS run_integers
static void run_integers(uint64_t rounds)
{
    INTEGERS x = INTEGER_SET(3), w = INTEGER_SET(5), sum[INTEGER_CHAINS];
    OPAQUE(w);
    for (int i = 0; i < INTEGER_CHAINS; i++)
        sum[i] = INTEGER_SET(0);
    for (; rounds; rounds--)
#pragma GCC unroll 32
        for (int i = 0; i < INTEGER_CHAINS; i++) {
            OPAQUE(x); /* else one product would do for all */
            sum[i] = INTEGER_MADD(x, w, sum[i]);
        }
    for (int i = 0; i < INTEGER_CHAINS; i++)
        OPAQUE(sum[i]);
}
#endif

/* Eight loads that wait for nobody: a reader with one sum finds the latency of adding. */
static void read_all(const void *p, size_t bytes)
{
    enum { LOADS = 8 };
    WORDS sum[LOADS];
    for (int i = 0; i < LOADS; i++)
        sum[i] = WORD_ZERO;
    for (const char *at = p, *end = at + bytes; at < end; at += LOADS * sizeof(WORDS))
#pragma GCC unroll 8
        for (size_t i = 0; i < LOADS; i++)
            sum[i] = WORD_OR(sum[i], WORD_LOAD(at + i * sizeof(WORDS)));
    for (int i = 0; i < LOADS; i++)
        OPAQUE(sum[i]);
}

#define PEAK_STR2(x) #x
#define PEAK_STR(x) PEAK_STR2(x)
#define PEAK_TABLE2(x) deq_peak_##x
#define PEAK_TABLE(x) PEAK_TABLE2(x)
extern const struct deq_peak PEAK_TABLE(PEAK);
const struct deq_peak PEAK_TABLE(PEAK) = {
    .level = PEAK_STR(PEAK),
    .floats = {FLOAT_INSTRUCTION, FLOAT_CHAINS * FLOAT_LANES, run_floats},
    .integers = {INTEGER_INSTRUCTION, INTEGER_CHAINS * INTEGER_LANES, RUN_INTEGERS},
    .per_byte = PER_BYTE,
    .read = read_all,
};
