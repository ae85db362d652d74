#include "core/base/hash.h"

#include <string.h>
#include <sys/random.h>

static uint64_t rotl(uint64_t x, int b)
{
    return (x << b) | (x >> (64 - b));
}

static void rounds(uint64_t v[4], int n)
{
    while (n--) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotl(v[1], 13) ^ v[0];
        v[3] = rotl(v[3], 16) ^ v[2];
        v[0] = rotl(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotl(v[1], 17) ^ v[2];
        v[3] = rotl(v[3], 21) ^ v[0];
        v[2] = rotl(v[2], 32);
    }
}

static uint64_t little_endian(const unsigned char *p, size_t n)
{
    uint64_t x = 0;
    for (size_t i = 0; i < n; i++)
        x |= (uint64_t)p[i] << (8 * i);
    return x;
}

struct deq_hash deq_siphash(const struct deq_hash *key, const void *data, size_t n)
{
    const unsigned char *p = data;
    uint64_t v[4] = {key->h[0] ^ 0x736f6d6570736575u, key->h[1] ^ 0x646f72616e646f6du ^ 0xee,
                     key->h[0] ^ 0x6c7967656e657261u, key->h[1] ^ 0x7465646279746573u};
    const uint64_t last = (uint64_t)n << 56;
    struct deq_hash out;
    for (; n >= 8; p += 8, n -= 8) {
        const uint64_t m = little_endian(p, 8);
        v[3] ^= m;
        rounds(v, 2);
        v[0] ^= m;
    }
    const uint64_t m = last | little_endian(p, n);
    v[3] ^= m;
    rounds(v, 2);
    v[0] ^= m;
    v[2] ^= 0xee;
    rounds(v, 4);
    out.h[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    rounds(v, 4);
    out.h[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
    return out;
}

bool deq_hash_key(struct deq_hash *ret)
{
    return getrandom(ret, sizeof *ret, 0) == (ssize_t)sizeof *ret;
}
