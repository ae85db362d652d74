/* core/base/rng.h: known first outputs, and moments. */
#include "core/base/rng.h"

#include "tests/unit/test.h"

TEST(rng_known_values_and_moments)
{
    /* first outputs of the published SplitMix64 for the states 0 and 1 */
    CHECK(deq_mix64(0) == 0xe220a8397b1dcdafu);
    CHECK(deq_mix64(1) == 0x910a2dec89025cc1u);
    CHECK(deq_rng_u64(1, 2, 3) == deq_mix64(deq_mix64(deq_mix64(1) ^ 2) ^ 3));
    CHECK(deq_rng_u64(1, 2, 3) != deq_rng_u64(1, 3, 2) && deq_rng_u64(1, 2, 3) != deq_rng_u64(2, 1, 3));

    enum { N = 100000 };
    double s = 0, ss = 0, g = 0, gg = 0;
    unsigned outside = 0, count[7] = {0};
    for (uint64_t i = 0; i < N; i++) {
        double u = deq_rng_uniform(7, 1, i), z = deq_rng_normal(7, 2, i);
        uint64_t k = deq_rng_below(7, 3, i, 7);
        outside += !(u >= 0 && u < 1) || k >= 7 || !isfinite(z);
        s += u;
        ss += u * u;
        g += z;
        gg += z * z;
        count[k < 7 ? k : 0]++;
    }
    CHECK(outside == 0);
    /* five standard errors of each mean; the numbers are fixed, so this passes always or never */
    CHECK(fabs(s / N - 0.5) < 5 * sqrt(1.0 / 12 / N));
    CHECK(fabs(ss / N - 1.0 / 3) < 5 * sqrt(4.0 / 45 / N));
    CHECK(fabs(g / N) < 5 * sqrt(1.0 / N));
    CHECK(fabs(gg / N - 1) < 5 * sqrt(2.0 / N));
    for (int k = 0; k < 7; k++)
        CHECK(fabs(count[k] - N / 7.0) < 5 * sqrt(N * 6.0 / 49));
    CHECK(deq_rng_below(1, 1, 1, 1) == 0);
}
