/* Elementary functions against the C library's, which are within an ulp of the truth; and their own bits,
 * which every machine must give. */
#include "core/math/elementary.h"

#include "core/base/base.h"
#include "core/base/hash.h"
#include "core/base/rng.h"
#include "tests/unit/test.h"

static double relative(double got, double truth)
{
    return truth == got ? 0 : fabs(got - truth) / fabs(truth);
}

TEST(elementary_near_the_truth)
{
    double e = 0, l = 0, sc = 0;
    for (uint64_t i = 0; i < 200000; i++) {
        const double u = deq_rng_uniform(1, 0, i), x = (u - 0.5) * (i % 2 ? 2 : 1400),
                     p = exp((deq_rng_uniform(1, 1, i) - 0.5) * (i % 2 ? 1 : 1400));
        double s, c;
        e = worse(e, relative(deq_exp(x), exp(x)));
        l = worse(l, fabs(p - 1) < 1e-3 ? fabs(deq_log(p) - log(p)) / fabs(p - 1) : relative(deq_log(p), log(p)));
        const double angle = (u - 0.5) * (i % 2 ? 10 : 2e5);
        deq_sincos(angle, &s, &c);
        sc = worse(sc, fmax(fabs(s - sin(angle)), fabs(c - cos(angle))));
    }
    /* a few roundings of 1.1e-16 each; the argument's own rounding is multiplied by up to 700 in exp, but
     * both start from the same x */
    CHECK_MSG(e < 1e-15 && l < 1e-15 && sc < 1e-15, "exp %g, log %g, sine and cosine %g", e, l, sc);
}

TEST(elementary_limits)
{
    double s, c;
    CHECK(deq_exp(0) == 1 && deq_exp(-709) == 0 && deq_exp(-INFINITY) == 0 && isinf(deq_exp(710)) &&
          isnan(deq_exp(NAN)));
    CHECK(isfinite(deq_exp(709)) && relative(deq_exp(709), exp(709)) < 1e-15 &&
          relative(deq_exp(-708), exp(-708)) < 1e-15);
    CHECK(deq_log(1) == 0 && deq_log(0) == -INFINITY && isnan(deq_log(-1)) && isnan(deq_log(NAN)) &&
          isinf(deq_log(INFINITY)));
    deq_sincos(0, &s, &c);
    CHECK(s == 0 && c == 1);
}

/* What this test was written on gave this; so must any other machine, compiler and level of optimisation. */
TEST(elementary_bits)
{
    struct deq_hash h = {{1, 2}};
    for (uint64_t i = 0; i < 10000; i++) {
        double all[4];
        const double u = deq_rng_uniform(2, 0, i);
        all[0] = deq_exp((u - 0.5) * 1400);
        all[1] = deq_log(u + 1e-9);
        deq_sincos((u - 0.5) * 1e5, &all[2], &all[3]);
        h = deq_siphash(&h, all, sizeof all);
    }
    CHECK_MSG(h.h[0] == 0x3fff49905ea19c30u, "%016llx", (unsigned long long)h.h[0]);
}
