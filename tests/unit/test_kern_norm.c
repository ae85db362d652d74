/* LayerNorm of core/math/kern_body.h and its VJP at every CPU level, against double. */
#include "core/math/kern.h"

#include <stdlib.h>

#include "core/base/rng.h"
#include "tests/unit/kernels.h"
#include "tests/unit/test.h"

static void plain_norm(const double *x, size_t n, double eps, const float *gain, const float *bias, double *y)
{
    double mean = 0, var = 0;
    for (size_t i = 0; i < n; i++)
        mean += x[i];
    mean /= (double)n;
    for (size_t i = 0; i < n; i++)
        var += (x[i] - mean) * (x[i] - mean);
    double rstd = 1 / sqrt(var / (double)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (x[i] - mean) * rstd * (gain ? (double)gain[i] : 1) + (gain ? (double)bias[i] : 0);
}

TEST(kern_layernorm)
{
    static float x[MAX_N], gain[MAX_N], bias[MAX_N], y[MAX_N + GUARD], first[MAX_N];
    static double xd[MAX_N], want[MAX_N];
    const float eps = 1e-5f;
    find_levels();
    for (size_t s = 0; s < N_SIZES; s++)
        for (int affine = 0; affine < 2; affine++) {
            const size_t n = size_at(s);
            float stats0[2] = {0};
            if (!n)
                continue;
            normal(x, n, s);
            normal(gain, n, s + 1000);
            normal(bias, n, s + 2000);
            for (size_t i = 0; i < n; i++)
                xd[i] = (double)(x[i] += 0.5f);
            plain_norm(xd, n, (double)eps, affine ? gain : NULL, bias, want);
            for (int l = 0; l < LEVELS; l++) {
                const struct deq_kern *k = levels[l];
                if (!k)
                    continue;
                float stats[2];
                sentinels(y, n + GUARD);
                k->layernorm(x, n, eps, affine ? gain : NULL, affine ? bias : NULL, y, stats);
                CHECK_MSG(untouched(y + n, GUARD), "%s n=%zu", level_names[l], n);
                if (!l) {
                    memcpy(first, y, n * sizeof *y);
                    memcpy(stats0, stats, sizeof stats);
                    /* The mean is a sum of n/16 + 4 rounded additions; its error, seen through rstd (at most about 30
                     * for these inputs with n >= 2; n = 1 gives exactly 0), is the largest part. Factor 8: rstd, the
                     * product and the affine part. */
                    double tol = 8 * ((double)n / 16 + 4) * 0x1p-24 * DEQ_MAX(1.0, (double)stats[1]) * 4;
                    for (size_t i = 0; i < n; i++)
                        CHECK_MSG(fabs((double)y[i] - want[i]) <= tol, "n=%zu [%zu]: %g %g", n, i, (double)y[i],
                                  want[i]);
                }
                CHECK_MSG(same_bits(y, first, n) && same_bits(stats, stats0, 2), "%s n=%zu affine=%d", level_names[l],
                          n, affine);
                sentinels(y, n);
                k->layernorm(x, n, eps, affine ? gain : NULL, affine ? bias : NULL, y, NULL);
                CHECK_MSG(same_bits(y, first, n), "%s n=%zu without stats", level_names[l], n);
                const float was = x[n / 2];
                x[n / 2] = NAN;
                k->layernorm(x, n, eps, NULL, NULL, y, NULL);
                bool all = true;
                for (size_t i = 0; i < n; i++)
                    all = all && isnan(y[i]);
                CHECK_MSG(all, "%s n=%zu: a NaN must reach the whole row", level_names[l], n);
                x[n / 2] = was;
            }
        }
}

TEST(kern_layernorm_vjp)
{
    static float x[MAX_N], gain[MAX_N], bias[MAX_N], dy[MAX_N], y[MAX_N], dx[MAX_N + GUARD], dg[MAX_N + GUARD],
        db[MAX_N + GUARD];
    static float dx0[MAX_N], dg0[MAX_N], db0[MAX_N];
    static double xd[MAX_N], yp[MAX_N], ym[MAX_N];
    const float eps = 1e-5f;
    find_levels();
    for (size_t s = 2; s < N_SIZES; s++) /* from n = 2: one element has no variance and no gradient */
        for (int affine = 0; affine < 2; affine++) {
            const size_t n = size_at(s);
            float stats[2];
            normal(x, n, 3 * s);
            normal(gain, n, s + 1000);
            normal(bias, n, s + 2000);
            normal(dy, n, s + 3000);
            levels[0]->layernorm(x, n, eps, affine ? gain : NULL, bias, y, stats);
            for (int l = 0; l < LEVELS; l++) {
                if (!levels[l])
                    continue;
                sentinels(dx, n + GUARD);
                sentinels(dg, n + GUARD);
                sentinels(db, n + GUARD);
                for (size_t i = 0; i < n; i++) /* they accumulate */
                    dg[i] = 2, db[i] = -3;
                levels[l]->layernorm_vjp(x, stats, n, affine ? gain : NULL, dy, dx, affine ? dg : NULL,
                                         affine ? db : NULL);
                CHECK_MSG(untouched(dx + n, GUARD) && untouched(dg + n, GUARD) && untouched(db + n, GUARD), "%s n=%zu",
                          level_names[l], n);
                if (!l) {
                    memcpy(dx0, dx, n * sizeof *dx);
                    memcpy(dg0, dg, n * sizeof *dx);
                    memcpy(db0, db, n * sizeof *dx);
                }
                CHECK_MSG(same_bits(dx, dx0, n) && same_bits(dg, dg0, n) && same_bits(db, db0, n), "%s n=%zu affine=%d",
                          level_names[l], n, affine);
                sentinels(dx, n);
                levels[l]->layernorm_vjp(x, stats, n, affine ? gain : NULL, dy, dx, NULL, NULL);
                CHECK_MSG(same_bits(dx, dx0, n), "%s n=%zu: dx must not depend on d_gain", level_names[l], n);
            }
            /* finite differences of L = sum dy*y in double: a central step of 1e-5 is good to about 1e-9 */
            for (size_t i = 0; i < n; i++)
                xd[i] = (double)x[i];
            const double h = 1e-5, rstd = (double)stats[1];
            for (size_t i = 0; i < n; i += n > 100 ? 37 : 1) {
                double keep = xd[i], fd = 0;
                xd[i] = keep + h;
                plain_norm(xd, n, (double)eps, affine ? gain : NULL, bias, yp);
                xd[i] = keep - h;
                plain_norm(xd, n, (double)eps, affine ? gain : NULL, bias, ym);
                xd[i] = keep;
                for (size_t j = 0; j < n; j++)
                    fd += (double)dy[j] * (yp[j] - ym[j]);
                fd /= 2 * h;
                /* dx is rstd times a difference of numbers of size up to about 10 with n/16 + 8 roundings; rstd^3 * h^2
                 * is what the finite difference itself is off when the variance is small */
                double tol = rstd * 10 * ((double)n / 16 + 8) * 0x1p-23 * DEQ_MAX(1.0, rstd) +
                             10 * rstd * rstd * rstd * h * h + 1e-8;
                CHECK_MSG(fabs((double)dx0[i] - fd) <= tol, "n=%zu affine=%d [%zu]: %.9g, differences %.9g, bound %g",
                          n, affine, i, (double)dx0[i], fd, tol);
            }
            for (size_t i = 0; affine && i < n; i++) { /* y is linear in gain and bias */
                double xhat = (xd[i] - (double)stats[0]) * rstd;
                /* two roundings of xhat, one of the sum with 2 */
                CHECK_MSG(fabs((double)dg0[i] - 2 - (double)dy[i] * xhat) <=
                              4 * 0x1p-24 * (2 + fabs((double)dy[i] * xhat) * 2),
                          "n=%zu", n);
                CHECK(db0[i] == dy[i] + -3.0f);
            }
        }
}
