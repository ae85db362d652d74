#include "tests/unit/kernels.h"

#include "core/base/rng.h"

static const float SENTINEL = 12345.678f;

bool same_bits(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(isnan(a[i]) && isnan(b[i])) && memcmp(a + i, b + i, sizeof *a))
            return false;
    return true;
}

bool same1(float a, float b)
{
    return same_bits(&a, &b, 1);
}

void fill(float *x, size_t n, uint64_t stream)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t kind = deq_rng_below(11, stream, i, 40);
        x[i] = (float)deq_rng_normal(12, stream, i);
        if (kind == 0)
            x[i] = 0.0f;
        else if (kind == 1)
            x[i] = -0.0f;
        else if (kind == 2)
            x[i] *= 1e-40f; /* subnormal: a level that flushed them to zero would differ */
        else if (kind == 3)
            x[i] *= 1e8f;
    }
}

void normal(float *x, size_t n, uint64_t stream)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)deq_rng_normal(13, stream, i);
}

void sentinels(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = SENTINEL;
}

bool untouched(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (x[i] != SENTINEL)
            return false;
    return true;
}

size_t size_at(size_t i)
{
    static const size_t more[] = {95, 96, 97, 127, 128, 129, 200, 255, 256, 257, 511, 777, 1000, 1024, 1031};
    return i <= 70 ? i : i - 71 < DEQ_COUNT(more) ? more[i - 71] : 0;
}
