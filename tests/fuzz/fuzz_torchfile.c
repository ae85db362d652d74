/* Whole checkpoints: the zip container, its records, the pickle in it, and every tensor read.
 *
 * Under libFuzzer most mutated inputs get the checksums of their stored entries corrected, or
 * nearly all would end there. */
#include <math.h>

#include "core/data/torchfile.h"
#include "tests/fuzz/mutate.h"

enum { ELEMENTS_MAX = 4096 }; /* read of one tensor */

FUZZ(torchfile)
{
    static float out[ELEMENTS_MAX];
    struct deq_torchfile *f;
    struct deq_err err;
    const enum deq_rc rc = deq_torchfile_open_memory(data, n, "fuzz", &f, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
        return;
    }
    for (size_t i = 0; i < deq_torchfile_count(f); i++) {
        const struct deq_torchfile_tensor *t = deq_torchfile_at(f, i);
        FUZZ_HOLDS(deq_torchfile_find(f, t->name) == t);
        if (t->count > ELEMENTS_MAX || deq_torchfile_read(f, t, 0, t->count, out, &err))
            continue;
        for (uint64_t j = 0; j < t->count; j++)
            FUZZ_HOLDS(isfinite(out[j]));
    }
    deq_torchfile_close(f);
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
static uint32_t get(const uint8_t *p, unsigned bytes)
{
    uint32_t v = 0;
    while (bytes--)
        v = v << 8 | p[bytes];
    return v;
}

static uint32_t crc32(const uint8_t *p, size_t n)
{
    static uint32_t table[256];
    uint32_t c = ~0u;
    for (uint32_t i = 0; !table[255] && i < 256; i++) {
        table[i] = i;
        for (int k = 0; k < 8; k++)
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
    }
    for (size_t i = 0; i < n; i++)
        c = c >> 8 ^ table[(c ^ p[i]) & 255];
    return ~c;
}

/* Corrects the checksums in the central directory, wherever its entries stand. */
static void correct(uint8_t *p, size_t n)
{
    for (size_t at = 0; at + 46 <= n; at++) {
        if (p[at] != 'P' || memcmp(p + at, "PK\1\2", 4))
            continue;
        const size_t size = get(p + at + 20, 4), local = get(p + at + 42, 4);
        if (local > n || n - local < 30)
            continue;
        const size_t begin = local + 30 + get(p + local + 26, 2) + get(p + local + 28, 2);
        if (begin > n || size > n - begin)
            continue;
        const uint32_t c = crc32(p + begin, size);
        for (int k = 0; k < 4; k++)
            p[at + 16 + (size_t)k] = (uint8_t)(c >> 8 * k);
    }
}

FUZZ_MUTATOR
{
    /* a change of length moves every offset after it: mostly keep it */
    const size_t after = LLVMFuzzerMutate(data, n, seed % 4 ? n : max);
    if (seed % 8 != 7)
        correct(data, after);
    return after;
}
#endif
