/* What layers of today's transformers are made of, at every CPU level: RMSNorm, SwiGLU, squared ReLU, rotary embeddings
 * of core/math/kern_body.h and their VJPs, against double. */
#include <stdlib.h>

#include "core/base/rng.h"
#include "core/math/kern.h"
#include "tests/unit/kernels.h"
#include "tests/unit/test.h"

static void plain_rms(const double *x, size_t n, double eps, const float *gain, double *y)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    const double rstd = 1 / sqrt(sum / (double)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * rstd * (gain ? (double)gain[i] : 1);
}

TEST(kern_rmsnorm)
{
    static float x[MAX_N], gain[MAX_N], y[MAX_N + GUARD], first[MAX_N];
    static double xd[MAX_N], want[MAX_N];
    find_levels();
    for (size_t s = 1; s < N_SIZES - 1; s++)
        for (int gained = 0; gained < 2; gained++) {
            const size_t n = size_at(s);
            const float *g = gained ? gain : NULL, eps = s % 2 ? 1e-5f : 0x1p-7f;
            float rstd0 = 0;
            normal(x, n, s);
            normal(gain, n, s + 1000);
            for (size_t i = 0; i < n; i++)
                xd[i] = (double)x[i];
            plain_rms(xd, n, (double)eps, g, want);
            for (int l = 0; l < LEVELS; l++) {
                const struct deq_kern *k = levels[l];
                float rstd;
                if (!k)
                    continue;
                sentinels(y, n + GUARD);
                k->rmsnorm(x, n, eps, g, y, &rstd);
                CHECK_MSG(untouched(y + n, GUARD), "%s n=%zu", level_names[l], n);
                if (!l) {
                    memcpy(first, y, n * sizeof *y);
                    rstd0 = rstd;
                    /* half the error of a sum of positive numbers, n/16 + 4 additions, and six roundings behind it */
                    for (size_t i = 0; i < n; i++)
                        CHECK_MSG(fabs((double)y[i] - want[i]) <= ((double)n / 32 + 8) * 0x1p-24 * fabs(want[i]),
                                  "n=%zu [%zu]: %g %g", n, i, (double)y[i], want[i]);
                }
                CHECK_MSG(same_bits(y, first, n) && same1(rstd, rstd0), "%s n=%zu", level_names[l], n);
                memcpy(y, x, n * sizeof *y);
                k->rmsnorm(y, n, eps, g, y, NULL);
                CHECK_MSG(same_bits(y, first, n), "%s n=%zu in place", level_names[l], n);
                memcpy(y, x, n * sizeof *y);
                y[n / 2] = NAN;
                k->rmsnorm(y, n, eps, NULL, y, NULL);
                for (size_t i = 0; i < n; i++)
                    CHECK_MSG(isnan(y[i]), "%s n=%zu: a NaN must reach the whole row", level_names[l], n);
            }
        }
}

TEST(kern_rmsnorm_vjp)
{
    static float x[MAX_N], gain[MAX_N], dy[MAX_N], y[MAX_N], dx[MAX_N + GUARD], dg[MAX_N + GUARD], dx0[MAX_N],
        dg0[MAX_N];
    static double xd[MAX_N], yp[MAX_N], ym[MAX_N];
    const float eps = 1e-5f;
    find_levels();
    for (size_t s = 1; s < N_SIZES - 1; s++)
        for (int gained = 0; gained < 2; gained++) {
            const size_t n = size_at(s);
            const float *g = gained ? gain : NULL;
            float rstd;
            normal(x, n, 3 * s);
            normal(gain, n, s + 1000);
            normal(dy, n, s + 3000);
            levels[0]->rmsnorm(x, n, eps, g, y, &rstd);
            for (int l = 0; l < LEVELS; l++) {
                if (!levels[l])
                    continue;
                sentinels(dx, n + GUARD);
                sentinels(dg, n + GUARD);
                for (size_t i = 0; i < n; i++) /* it accumulates */
                    dg[i] = 2;
                levels[l]->rmsnorm_vjp(x, rstd, n, g, dy, dx, gained ? dg : NULL);
                CHECK_MSG(untouched(dx + n, GUARD) && untouched(dg + n, GUARD), "%s n=%zu", level_names[l], n);
                if (!l) {
                    memcpy(dx0, dx, n * sizeof *dx);
                    memcpy(dg0, dg, n * sizeof *dx);
                }
                CHECK_MSG(same_bits(dx, dx0, n) && same_bits(dg, dg0, n), "%s n=%zu", level_names[l], n);
                memcpy(dx, dy, n * sizeof *dx);
                levels[l]->rmsnorm_vjp(x, rstd, n, g, dx, dx, NULL);
                CHECK_MSG(same_bits(dx, dx0, n), "%s n=%zu in place, without d_gain", level_names[l], n);
            }
            /* finite differences of L = sum dy*y in double: a central step of 1e-5 is good to about 1e-9 */
            for (size_t i = 0; i < n; i++)
                xd[i] = (double)x[i];
            const double h = 1e-5, by = (double)rstd;
            for (size_t i = 0; i < n; i += n > 100 ? 37 : 1) {
                const double keep = xd[i];
                double fd = 0;
                xd[i] = keep + h;
                plain_rms(xd, n, (double)eps, g, yp);
                xd[i] = keep - h;
                plain_rms(xd, n, (double)eps, g, ym);
                xd[i] = keep;
                for (size_t j = 0; j < n; j++)
                    fd += (double)dy[j] * (yp[j] - ym[j]);
                fd /= 2 * h;
                /* rstd times a difference of numbers of size up to about 10 with n/16 + 8 roundings; rstd^3 h^2 is what
                 * the finite difference itself is off when x is small */
                const double tol = by * 10 * ((double)n / 16 + 8) * 0x1p-23 + 10 * by * by * by * h * h + 1e-8;
                CHECK_MSG(fabs((double)dx0[i] - fd) <= tol, "n=%zu [%zu]: %.9g, differences %.9g, bound %g", n, i,
                          (double)dx0[i], fd, tol);
            }
            for (size_t i = 0; gained && i < n; i++) { /* y is linear in gain: a rounding of xhat, one of the sum */
                const double part = (double)dy[i] * xd[i] * by;
                CHECK_MSG(fabs((double)dg0[i] - 2 - part) <= 3 * 0x1p-24 * (2 + 2 * fabs(part)), "n=%zu", n);
            }
        }
}

/* --- Nonlinearities --- */

static double silu(double a)
{
    return a / (1 + exp(-a));
}

/* Every tail at every level, in place too; subnormals and large numbers among them. */
TEST(kern_swiglu)
{
    static float a[MAX_N], b[MAX_N], dy[MAX_N], y[MAX_N + GUARD], da[MAX_N + GUARD], db[MAX_N + GUARD], y0[MAX_N],
        da0[MAX_N], db0[MAX_N];
    find_levels();
    for (size_t s = 0; s < N_SIZES; s++) {
        const size_t n = size_at(s);
        fill(a, n, 3 * s);
        fill(b, n, 3 * s + 1);
        fill(dy, n, 3 * s + 2);
        for (int l = 0; l < LEVELS; l++) {
            const struct deq_kern *k = levels[l];
            if (!k)
                continue;
            sentinels(y, n + GUARD);
            sentinels(da, n + GUARD);
            sentinels(db, n + GUARD);
            k->swiglu(y, a, b, n);
            k->swiglu_vjp(a, b, dy, da, db, n);
            CHECK_MSG(untouched(y + n, GUARD) && untouched(da + n, GUARD) && untouched(db + n, GUARD), "%s n=%zu",
                      level_names[l], n);
            if (!l) {
                memcpy(y0, y, n * sizeof *y);
                memcpy(da0, da, n * sizeof *y);
                memcpy(db0, db, n * sizeof *y);
            }
            CHECK_MSG(same_bits(y, y0, n) && same_bits(da, da0, n) && same_bits(db, db0, n), "%s n=%zu",
                      level_names[l], n);
            memcpy(y, a, n * sizeof *y);
            k->swiglu(y, y, b, n);
            CHECK_MSG(same_bits(y, y0, n), "%s n=%zu in place", level_names[l], n);
            memcpy(da, a, n * sizeof *y);
            memcpy(db, b, n * sizeof *y);
            k->swiglu_vjp(da, db, dy, da, db, n);
            CHECK_MSG(same_bits(da, da0, n) && same_bits(db, db0, n), "%s n=%zu in place", level_names[l], n);
        }
    }
}

TEST(kern_swiglu_values)
{
    enum { N = 4001 };
    static float a[N], b[N], dy[N], y[N], da[N], db[N];
    normal(b, N, 1);
    normal(dy, N, 2);
    for (size_t i = 0; i < N; i++)
        a[i] = (float)((double)i - 2000) * 0.011f;
    find_levels();
    levels[0]->swiglu(y, a, b, N);
    levels[0]->swiglu_vjp(a, b, dy, da, db, N);
    for (size_t i = 0; i < N; i++) {
        const double x = (double)a[i], s = 1 / (1 + exp(-x)), slope = s + x * s * (1 - s), of = (double)b[i],
                     d = (double)dy[i];
        /* sigmoid is good to 3.5 ulp (test_kern.c), each product adds half a one; of the slope, 1 - s and the sum of
         * two parts add roundings of numbers up to one, and near its zero that is the measure */
        CHECK_MSG(fabs((double)y[i] - silu(x) * of) <= 6 * 0x1p-23 * fabs(silu(x) * of), "a=%g", x);
        CHECK_MSG(fabs((double)db[i] - silu(x) * d) <= 6 * 0x1p-23 * fabs(silu(x) * d), "a=%g", x);
        CHECK_MSG(fabs((double)da[i] - slope * of * d) <= 8 * 0x1p-23 * (s + fabs(x * s)) * fabs(of * d), "a=%g", x);
    }
    const float in[] = {0, 200, -200, NAN, INFINITY}, one[] = {1, 1, 1, 1, 1};
    for (int l = 0; l < LEVELS; l++) {
        if (!levels[l])
            continue;
        levels[l]->swiglu(y, in, one, DEQ_COUNT(in));
        levels[l]->swiglu_vjp(in, one, one, da, db, DEQ_COUNT(in));
        CHECK(y[0] == 0 && y[1] == 200 && y[2] < 0 && y[2] > -1e-34f && isnan(y[3]) && y[4] == INFINITY);
        CHECK(da[0] == 0.5f && da[1] == 1 && fabsf(da[2]) < 1e-34f && isnan(da[3]) && db[1] == 200);
    }
}

TEST(kern_relu2)
{
    static float x[MAX_N], dy[MAX_N], y[MAX_N + GUARD], dx[MAX_N + GUARD], want[MAX_N], d_want[MAX_N];
    find_levels();
    for (size_t s = 0; s < N_SIZES; s++) {
        const size_t n = size_at(s);
        fill(x, n, 2 * s);
        fill(dy, n, 2 * s + 1);
        if (n)
            x[n / 2] = NAN;
        for (size_t i = 0; i < n; i++) {
            const float r = 0.0f > x[i] ? 0.0f : x[i];
            want[i] = r * r * 0.5f;
            d_want[i] = dy[i] * r;
        }
        for (int l = 0; l < LEVELS; l++) {
            if (!levels[l])
                continue;
            sentinels(y, n + GUARD);
            sentinels(dx, n + GUARD);
            levels[l]->relu2(y, x, n);
            levels[l]->relu2_vjp(x, dy, dx, n);
            CHECK_MSG(same_bits(y, want, n) && same_bits(dx, d_want, n), "%s n=%zu", level_names[l], n);
            CHECK_MSG(untouched(y + n, GUARD) && untouched(dx + n, GUARD), "%s n=%zu", level_names[l], n);
            memcpy(y, x, n * sizeof *y);
            levels[l]->relu2(y, y, n);
            memcpy(dx, dy, n * sizeof *y);
            levels[l]->relu2_vjp(x, dx, dx, n);
            CHECK_MSG(same_bits(y, want, n) && same_bits(dx, d_want, n), "%s n=%zu in place", level_names[l], n);
        }
    }
}

/* --- Rotary embeddings --- */

TEST(kern_rope)
{
    static float x[MAX_N], turn[MAX_N], y[MAX_N + GUARD], want[MAX_N];
    find_levels();
    for (size_t s = 0; s < N_SIZES; s++)
        for (int halves = 0; halves < 2; halves++)
            for (int back = 0; back < 2; back++) {
                const size_t d = size_at(s) / 2 * 2;
                fill(x, d, s);
                fill(turn, d, s + 500);
                for (size_t i = 0; i < d / 2; i++) {
                    const size_t p = halves ? i : 2 * i, q = halves ? i + d / 2 : 2 * i + 1;
                    const float c = turn[2 * i], sine = back ? -turn[2 * i + 1] : turn[2 * i + 1];
                    want[p] = fmaf(x[p], c, -(x[q] * sine)); /* a product rounded, then the sum */
                    want[q] = fmaf(x[q], c, x[p] * sine);
                }
                for (int l = 0; l < LEVELS; l++) {
                    if (!levels[l])
                        continue;
                    sentinels(y, d + GUARD);
                    memcpy(y, x, d * sizeof *y);
                    levels[l]->rope(y, turn, d, halves ? DEQ_ROPE_HALVES : DEQ_ROPE_NEIGHBOURS, back);
                    CHECK_MSG(same_bits(y, want, d) && untouched(y + d, GUARD), "%s d=%zu halves=%d back=%d",
                              level_names[l], d, halves, back);
                }
            }
}

/* Turned and turned back it is where it was, and lengths stay. */
TEST(kern_rope_inverse)
{
    enum { D = 64 };
    float x[D], y[D], turn[D];
    normal(x, D, 1);
    for (size_t i = 0; i < D / 2; i++) {
        const double angle = 1.7 * (double)i;
        turn[2 * i] = (float)cos(angle);
        turn[2 * i + 1] = (float)sin(angle);
    }
    for (int pairs = 0; pairs < 2; pairs++) {
        memcpy(y, x, sizeof y);
        deq_kern()->rope(y, turn, D, pairs, false);
        double before = 0, after = 0;
        for (size_t i = 0; i < D; i++) {
            before += (double)x[i] * (double)x[i];
            after += (double)y[i] * (double)y[i];
        }
        /* three roundings a number and those of cosine and sine, each half an ulp */
        CHECK(fabs(after - before) <= 5 * 0x1p-23 * before && memcmp(x, y, sizeof y));
        deq_kern()->rope(y, turn, D, pairs, true);
        for (size_t i = 0; i < D; i++) {
            const size_t mate = pairs == DEQ_ROPE_HALVES ? (i + D / 2) % D : i ^ 1;
            CHECK(fabsf(y[i] - x[i]) <= 5 * 0x1p-23f * (fabsf(x[i]) + fabsf(x[mate])));
        }
    }
}
