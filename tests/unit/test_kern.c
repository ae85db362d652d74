/* core/math/kern.c and kern_body.h: every kernel at every CPU level that the machine has gives the same bits as "ref",
 * and
 * is right against plain C or double arithmetic. Attention and LayerNorm: test_kern_attn.c, test_kern_norm.c. */
#include <stdlib.h>

#include "core/base/rng.h"
#include "core/math/half.h"
#include "core/math/kern.h"
#include "tests/unit/kernels.h"
#include "tests/unit/test.h"

TEST(kern_levels)
{
    find_levels();
    CHECK(levels[0] != NULL);
    for (int i = 0; i < LEVELS; i++) {
        if (!levels[i])
            SKIP_PART("this machine lacks %s", level_names[i]);
        else
            CHECK(!strcmp(levels[i]->name, level_names[i]));
    }
    CHECK(!deq_kern_level("") && !deq_kern_level("sse2") && !deq_kern_level("avx"));
    const struct deq_kern *now = deq_kern();
    CHECK(now && !deq_kern_force("none") && deq_kern() == now); /* a failed force changes nothing */
    for (int i = 0; i < LEVELS_OF_MACHINES; i++)
        if (levels[i])
            CHECK(deq_kern_force(level_names[i]) && deq_kern() == levels[i]);
    CHECK(deq_kern_force(now->name) && deq_kern() == now);
}

/* --- Reductions --- */

/* The documented order: lane i sums elements i, i+16, ...; then lanes i and i+8, +4, +2, +1.
 * what 0: dot, 1: sum (a-b)^2 */
static float plain_reduce(const float *a, const float *b, size_t n, int what)
{
    float s[16] = {0};
    for (size_t i = 0; i < n; i++) {
        float d = a[i] - b[i];
        s[i % 16] = what ? fmaf(d, d, s[i % 16]) : fmaf(a[i], b[i], s[i % 16]);
    }
    for (int w = 8; w; w /= 2)
        for (int i = 0; i < w; i++)
            s[i] += s[i + w];
    return s[0];
}

TEST(kern_reductions)
{
    static float a[MAX_N], b[MAX_N];
    find_levels();
    for (size_t i = 0; i < N_SIZES; i++) {
        const size_t n = size_at(i);
        for (unsigned shift = 0; shift < 2; shift++) { /* shift 1: no pointer is aligned */
            fill(a, n + 1, 2 * i);
            fill(b, n + 1, 2 * i + 1);
            const float *x = a + shift, *y = b + shift;
            float dot = plain_reduce(x, y, n, 0), diff = plain_reduce(x, y, n, 1), top = -INFINITY;
            for (size_t j = 0; j < n; j++)
                top = x[j] > top ? x[j] : top;
            for (int l = 0; l < LEVELS; l++) {
                if (!levels[l])
                    continue;
                CHECK_MSG(same1(levels[l]->dot(x, y, n), dot), "%s n=%zu", level_names[l], n);
                CHECK_MSG(same1(levels[l]->diff_sumsq(x, y, n), diff), "%s n=%zu", level_names[l], n);
                CHECK_MSG(levels[l]->max(x, n) == top, "%s n=%zu", level_names[l], n);
            }
        }
    }
}

TEST(kern_reductions_nan)
{
    float a[40], b[40];
    find_levels();
    for (int l = 0; l < LEVELS; l++) {
        if (!levels[l])
            continue;
        for (size_t n = 1; n <= 40; n++)
            for (size_t at = 0; at < n; at++) {
                normal(a, n, 1);
                normal(b, n, 2);
                float top = -INFINITY;
                for (size_t j = 0; j < n; j++)
                    if (j != at && a[j] > top)
                        top = a[j];
                a[at] = NAN;
                CHECK(isnan(levels[l]->dot(a, b, n)) && isnan(levels[l]->dot(b, a, n)));
                CHECK(isnan(levels[l]->diff_sumsq(a, b, n)));
                CHECK(isnan(levels[l]->exp_sum(NULL, a, 0, n)));
                CHECK(levels[l]->max(a, n) == top); /* a NaN loses against the running maximum, wherever it stands */
                a[at] = INFINITY;
                CHECK(levels[l]->max(a, n) == INFINITY);
                CHECK(levels[l]->diff_sumsq(a, b, n) == INFINITY);
            }
        CHECK(levels[l]->max(a, 0) == -INFINITY && levels[l]->dot(a, b, 0) == 0 &&
              levels[l]->exp_sum(NULL, a, 0, 0) == 0);
    }
}

/* --- Elementwise --- */

TEST(kern_elementwise)
{
    static float a[MAX_N], b[MAX_N], y0[MAX_N], y[MAX_N + GUARD], want[MAX_N];
    find_levels();
    for (size_t s = 0; s < N_SIZES; s++) {
        const size_t n = size_at(s), off = s % 3;
        fill(a, n + 3, 3 * s);
        fill(b, n + 3, 3 * s + 1);
        fill(y0, n, 3 * s + 2);
        const float *pa = a + off, *pb = b + (off + 1) % 3;
        const float c = -1.7f;
        for (int op = 0; op < 9; op++) {
            for (size_t i = 0; i < n; i++) {
                float t = y0[i] + pb[i];
                switch (op) {
                case 0: want[i] = fmaf(c, pa[i], y0[i]); break;
                case 1: want[i] = pa[i] + pb[i]; break;
                case 2: want[i] = pa[i] - pb[i]; break;
                case 3: want[i] = pa[i] * pb[i]; break;
                case 4: want[i] = c * y0[i]; break;
                case 5: want[i] = 0.0f > t ? 0.0f : t; break;
                case 6: want[i] = y0[i] + pb[i]; break;  /* add, y is a */
                case 7: want[i] = pa[i] + y0[i]; break;  /* add, y is b */
                default: want[i] = pa[i] - y0[i]; break; /* sub, y is b */
                }
            }
            for (int l = 0; l < LEVELS; l++) {
                const struct deq_kern *k = levels[l];
                if (!k)
                    continue;
                sentinels(y, n + GUARD);
                memcpy(y, y0, n * sizeof *y);
                switch (op) {
                case 0: k->axpy(y, c, pa, n); break;
                case 1: k->add(y, pa, pb, n); break;
                case 2: k->sub(y, pa, pb, n); break;
                case 3: k->mul(y, pa, pb, n); break;
                case 4: k->scale(y, c, n); break;
                case 5: k->add_relu(y, pb, n); break;
                case 6: k->add(y, y, pb, n); break;
                case 7: k->add(y, pa, y, n); break;
                default: k->sub(y, pa, y, n); break;
                }
                CHECK_MSG(same_bits(y, want, n), "%s op %d n=%zu", level_names[l], op, n);
                CHECK_MSG(untouched(y + n, GUARD), "%s op %d n=%zu wrote past the end", level_names[l], op, n);
            }
        }
    }
}

TEST(kern_relu_keeps_nan)
{
    find_levels();
    for (int l = 0; l < LEVELS; l++) {
        if (!levels[l])
            continue;
        for (size_t n = 1; n <= 33; n++)
            for (size_t at = 0; at < n; at++)
                for (int which = 0; which < 4; which++) {
                    float y[33], b[33];
                    for (size_t i = 0; i < n; i++)
                        y[i] = -1, b[i] = 0.5f;
                    if (which == 0)
                        y[at] = NAN;
                    else if (which == 1)
                        b[at] = NAN;
                    else if (which == 2)
                        y[at] = INFINITY, b[at] = -INFINITY;
                    else
                        y[at] = -INFINITY;
                    levels[l]->add_relu(y, b, n);
                    for (size_t i = 0; i < n; i++)
                        CHECK(i == at && which < 3 ? isnan(y[i]) : y[i] == 0);
                }
    }
}

/* --- exp --- */

TEST(kern_exp_accuracy)
{
    /* Bound: |r| <= ln2/2 and the polynomial's own error give Cephes' 0.6 ulp or so; rounding of the last
     * product, of r and of the sum r + 1 adds up to one more. 1.5 leaves no room for a wrong coefficient (the
     * next one of that kind costs 30 ulp). */
    const double BOUND = 1.5;
    enum { CHUNK = 1000, CHUNKS = 400 };
    static float x[CHUNK], y[CHUNK], first[CHUNK];
    find_levels();
    double worst = 0, worst_x = 0;
    for (int c = 0; c < CHUNKS; c++) {
        for (int i = 0; i < CHUNK; i++) /* a grid over -87..88 with steps that are no power of two */
            x[i] = (float)(-87.0 + 175.0 * (c * CHUNK + i) / (CHUNK * CHUNKS - 1));
        for (int l = 0; l < LEVELS; l++) {
            if (!levels[l])
                continue;
            levels[l]->exp_sum(l ? y : first, x, 0, CHUNK);
            CHECK_MSG(!l || same_bits(y, first, CHUNK), "%s chunk %d", level_names[l], c);
        }
        for (int i = 0; i < CHUNK; i++) {
            double want = exp((double)x[i]), ulp = ldexp(1.0, ilogb(want) - 23),
                   e = fabs((double)first[i] - want) / ulp;
            if (!(e <= worst)) {
                worst = e;
                worst_x = (double)x[i];
            }
        }
    }
    CHECK_MSG(worst <= BOUND, "%.3f ulp at x = %.9g", worst, worst_x);
}

TEST(kern_exp_sum)
{
    static float x[MAX_N], y[MAX_N + GUARD], first[MAX_N];
    find_levels();
    for (size_t s = 0; s < N_SIZES; s++) {
        const size_t n = size_at(s);
        float shift = s % 2 ? 1.25f : 0.0f, sum0 = 0;
        double want = 0, top = 0;
        for (size_t i = 0; i < n; i++) {
            x[i] = (float)(4 * deq_rng_normal(5, s, i));
            if (i % 13 == 5)
                x[i] = -INFINITY; /* a masked score */
            if (i % 17 == 3)
                x[i] = -90 + shift; /* below -87: exactly zero */
            double e = x[i] - shift < -87 ? 0 : exp((double)(x[i] - shift));
            want += e;
            top = DEQ_MAX(top, e);
        }
        for (int l = 0; l < LEVELS; l++) {
            const struct deq_kern *k = levels[l];
            if (!k)
                continue;
            sentinels(y, n + GUARD);
            float sum = k->exp_sum(y, x, shift, n);
            CHECK_MSG(untouched(y + n, GUARD), "%s n=%zu", level_names[l], n);
            if (!l) {
                memcpy(first, y, n * sizeof *y);
                sum0 = sum;
                /* 1.5 ulp an element, and n/16 + 4 additions of positive numbers */
                CHECK_MSG(fabs((double)sum - want) <= (1.5 + (double)n / 16 + 4) * 0x1p-23 * want, "n=%zu: %g %g", n,
                          (double)sum, want);
                for (size_t i = 0; i < n; i++)
                    CHECK(x[i] - shift < -87 ? y[i] == 0 : y[i] > 0);
            }
            CHECK_MSG(same_bits(y, first, n) && same1(sum, sum0), "%s n=%zu", level_names[l], n);
            CHECK_MSG(same1(k->exp_sum(NULL, x, shift, n), sum), "%s n=%zu without y", level_names[l], n);
            memcpy(y, x, n * sizeof *y);
            CHECK_MSG(same1(k->exp_sum(y, y, shift, n), sum) && same_bits(y, first, n), "%s n=%zu in place",
                      level_names[l], n);
        }
    }
    for (int l = 0; l < LEVELS; l++) {
        if (!levels[l])
            continue;
        float in[6] = {-87.0f, nextafterf(-87.0f, -INFINITY), 0.0f, -0.0f, -INFINITY, NAN}, out[6];
        CHECK(isnan(levels[l]->exp_sum(out, in, 0, 6)));
        CHECK(out[0] > 0 && out[1] == 0 && out[2] == 1 && out[3] == 1 && out[4] == 0 && isnan(out[5]));
        in[0] = -NAN; /* the other sign takes the same way */
        (void)levels[l]->exp_sum(out, in, 3, 1);
        CHECK(isnan(out[0]));
    }
}

/* --- sigmoid and tanh --- */

static double sigmoid_by_libm(double x)
{
    return 1 / (1 + exp(-x));
}

TEST(kern_sigmoid_and_tanh_accuracy)
{
    /* sigmoid: e^-x is off by 1.5 ulp, which counts for e / (1 + e) of itself, the sum and the quotient add half a one
     * each, and a relative error is up to twice as many ulp of a number just above a power of two. tanh above 0.625
     * takes at most 0.8 of such an error from its subtrahend, and half an ulp from the difference; below, Cephes'
     * polynomial is good to less. */
    static const struct {
        const char *what;
        double (*want)(double x), from, to, bound;
    } of[] = {{"sigmoid", sigmoid_by_libm, -87, 40, 3.5},
              {"tanh", tanh, -12, 12, 2},
              {"tanh near zero", tanh, -1e-3, 1.1e-3, 2}};
    enum { CHUNK = 1000, CHUNKS = 200 };
    static float x[CHUNK], y[CHUNK], first[CHUNK];
    find_levels();
    for (size_t f = 0; f < DEQ_COUNT(of); f++) {
        double worst = 0, worst_x = 0;
        for (int c = 0; c < CHUNKS; c++) {
            for (int i = 0; i < CHUNK; i++)
                x[i] = (float)(of[f].from + (of[f].to - of[f].from) * (c * CHUNK + i) / (CHUNK * CHUNKS - 1));
            for (int l = 0; l < LEVELS; l++) {
                if (!levels[l])
                    continue;
                (f ? levels[l]->tanh_of : levels[l]->sigmoid)(l ? y : first, x, CHUNK);
                CHECK_MSG(!l || same_bits(y, first, CHUNK), "%s, %s, chunk %d", of[f].what, level_names[l], c);
            }
            for (int i = 0; i < CHUNK; i++) {
                const double want = of[f].want((double)x[i]), ulp = ldexp(1.0, want != 0 ? ilogb(want) - 23 : -149);
                const double error = fabs((double)first[i] - want) / ulp;
                if (!(error <= worst)) {
                    worst = error;
                    worst_x = (double)x[i];
                }
            }
        }
        CHECK_MSG(worst <= of[f].bound, "%s: %.3f ulp at x = %.9g", of[f].what, worst, worst_x);
    }
}

TEST(kern_sigmoid_and_tanh_ends)
{
    static float x[MAX_N], y[MAX_N + GUARD], first[2][MAX_N];
    find_levels();
    for (int l = 0; l < LEVELS; l++)
        for (size_t s = 0; levels[l] && s < N_SIZES; s++)
            for (int f = 0; f < 2; f++) { /* every tail, in place; zeros, subnormals and large numbers among them */
                const size_t n = size_at(s);
                fill(x, n, s);
                (f ? levels[0]->tanh_of : levels[0]->sigmoid)(first[f], x, n);
                sentinels(y, n + GUARD);
                memcpy(y, x, n * sizeof *y);
                (f ? levels[l]->tanh_of : levels[l]->sigmoid)(y, y, n);
                CHECK_MSG(same_bits(y, first[f], n) && untouched(y + n, GUARD), "%s n=%zu", level_names[l], n);
            }
    for (int l = 0; l < LEVELS; l++) {
        const float in[] = {0, -0.0f, INFINITY, -INFINITY, 1e30f, -1e30f, 1e-30f, NAN, -NAN};
        float out[DEQ_COUNT(in)];
        if (!levels[l])
            continue;
        levels[l]->sigmoid(out, in, DEQ_COUNT(in));
        CHECK(out[0] == 0.5f && out[1] == 0.5f && out[2] == 1 && out[4] == 1 && isnan(out[7]) && isnan(out[8]));
        CHECK(out[3] == out[5] && out[3] > 0x1p-126f && out[3] < 2e-38f);
        levels[l]->tanh_of(out, in, DEQ_COUNT(in));
        CHECK(out[0] == 0 && out[1] == 0 && out[2] == 1 && out[3] == -1 && out[4] == 1 && out[5] == -1 &&
              out[6] == 1e-30f && isnan(out[7]) && isnan(out[8]));
    }
}

/* --- Matrix products --- */

TEST(kern_mm)
{
    enum { K_MAX = 130, M_MAX = 13, LDX = K_MAX + 3, LDY = DEQ_PANEL + 5 };
    static float x[M_MAX * LDX], w[K_MAX * DEQ_PANEL], y[M_MAX * LDY];
    static uint16_t half[K_MAX * DEQ_PANEL];
    static const size_t ks[] = {0, 1, 2, 5, 16, 17, 33, 64, 130}, ns[] = {
        1, 2, 7, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64,
    };
    find_levels();
    fill(x, DEQ_COUNT(x), 1);
    fill(w, DEQ_COUNT(w), 2);
    for (size_t i = 0; i < DEQ_COUNT(w); i++)
        half[i] = deq_f32_to_bf16(w[i]);
    for (int bf16 = 0; bf16 < 2; bf16++)
        for (size_t ik = 0; ik < DEQ_COUNT(ks); ik++) {
            const size_t K = ks[ik];
            static float want[M_MAX * DEQ_PANEL];
            for (size_t m = 0; m < M_MAX; m++)
                for (size_t c = 0; c < DEQ_PANEL; c++) { /* the promise: one chain of fused multiply-adds over k */
                    float s = 0;
                    for (size_t k = 0; k < K; k++)
                        s = fmaf(x[m * LDX + k], bf16 ? deq_bf16_to_f32(half[k * DEQ_PANEL + c]) : w[k * DEQ_PANEL + c],
                                 s);
                    want[m * DEQ_PANEL + c] = s;
                }
            for (int l = 0; l < LEVELS; l++)
                for (size_t M = 0; levels[l] && M <= M_MAX; M++)
                    for (size_t in = 0; in < DEQ_COUNT(ns); in++) {
                        const size_t N = ns[in];
                        sentinels(y, DEQ_COUNT(y));
                        const struct deq_mm args = {.x = x, .ldx = LDX * sizeof *x, .m = M, .k = K,
                                                    .panel = bf16 ? (const void *)half : w, .n = N, .y = y,
                                                    .ldy = LDY};
                        levels[l]->mm[bf16 ? DEQ_FORMAT_BF16 : DEQ_FORMAT_F32](&args);
                        bool same = true, clean = true;
                        for (size_t m = 0; m < M_MAX; m++) {
                            same = same && (m >= M || same_bits(y + m * LDY, want + m * DEQ_PANEL, N));
                            clean = clean && untouched(y + m * LDY + (m < M ? N : 0), LDY - (m < M ? N : 0));
                        }
                        CHECK_MSG(same, "%s bf16=%d M=%zu K=%zu N=%zu", level_names[l], bf16, M, K, N);
                        CHECK_MSG(clean, "%s bf16=%d M=%zu K=%zu N=%zu wrote outside", level_names[l], bf16, M, K, N);
                    }
        }
}

TEST(kern_mm_nan_stays_in_its_row)
{
    enum { M = 9, K = 20 };
    float x[M * K], y[M * DEQ_PANEL];
    static float w[K * DEQ_PANEL];
    find_levels();
    normal(w, DEQ_COUNT(w), 1);
    for (int l = 0; l < LEVELS; l++)
        for (size_t bad = 0; levels[l] && bad < M; bad++) {
            normal(x, DEQ_COUNT(x), 2);
            x[bad * K + 7] = NAN;
            const struct deq_mm args = {.x = x, .ldx = K * sizeof *x, .m = M, .k = K, .panel = w, .n = DEQ_PANEL,
                                        .y = y, .ldy = DEQ_PANEL};
            levels[l]->mm[DEQ_FORMAT_F32](&args);
            for (size_t i = 0; i < M * DEQ_PANEL; i++)
                CHECK(isnan(y[i]) == (i / DEQ_PANEL == bad));
        }
}
