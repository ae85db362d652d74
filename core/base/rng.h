/* Counter-based random numbers: a number is a function of (seed, stream, position) and of nothing else, so that a
 * result does not depend on what was drawn before it, by whom, or in which batch. The mixer is SplitMix64's
 * finaliser (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), applied once per
 * key word. Pure functions. */
#ifndef DEQ_BASE_RNG_H
#define DEQ_BASE_RNG_H

#include <math.h>
#include <stdint.h>

static inline uint64_t deq_mix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline uint64_t deq_rng_u64(uint64_t seed, uint64_t stream, uint64_t position)
{
    return deq_mix64(deq_mix64(deq_mix64(seed) ^ stream) ^ position);
}

/* Uniform in [0, 1) with 53 bits. */
static inline double deq_rng_uniform(uint64_t seed, uint64_t stream, uint64_t position)
{
    return (double)(deq_rng_u64(seed, stream, position) >> 11) * 0x1p-53;
}

/* Uniform integer in [0, n). The bias is below n * 2^-64. */
static inline uint64_t deq_rng_below(uint64_t seed, uint64_t stream, uint64_t position, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)deq_rng_u64(seed, stream, position) * n) >> 64);
}

/* Standard normal (Box-Muller on two numbers of the same counter). */
static inline double deq_rng_normal(uint64_t seed, uint64_t stream, uint64_t position)
{
    double u = 1.0 - deq_rng_uniform(seed, stream * 2, position), v = deq_rng_uniform(seed, stream * 2 + 1, position);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

#endif
