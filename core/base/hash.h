/* SipHash-2-4 with 128 bits of output (Aumasson, Bernstein 2012): a keyed hash. Whoever does not know the key cannot
 * construct two inputs that collide, so it may name things of different clients. Pure functions. */
#ifndef DEQ_BASE_HASH_H
#define DEQ_BASE_HASH_H

#include "core/base/base.h"

struct deq_hash {
    uint64_t h[2];
};

struct deq_hash deq_siphash(const struct deq_hash *key, const void *data, size_t n);
/* A key that nobody can guess, from the system's random numbers; false when there are none. */
bool deq_hash_key(struct deq_hash *ret);

static inline bool deq_hash_equal(const struct deq_hash *a, const struct deq_hash *b)
{
    return a->h[0] == b->h[0] && a->h[1] == b->h[1];
}

#endif
