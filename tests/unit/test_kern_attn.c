/* Attention of core/math/kern_body.h at every CPU level, over pages in any order, against double. */
#include "core/math/kern.h"

#include <stdlib.h>

#include "core/base/rng.h"
#include "tests/unit/kernels.h"
#include "tests/unit/test.h"

enum { T_MAX = 200, DH_MAX = 96, PAGES = T_MAX / 16 + 2 };

struct attn_case {
    float qc[DH_MAX], qr[DH_MAX];
    float k[T_MAX][DH_MAX], v[T_MAX][DH_MAX]; /* by position */
    float r[T_MAX][DH_MAX];                   /* by distance */
    float k_page[PAGES][DH_MAX * 16], v_page[PAGES][16 * DH_MAX];
    float rel[DH_MAX * 272]; /* t - lo + 1 columns and the padding */
    float scores[PAGES * 16 + GUARD], out[DH_MAX + GUARD], first[DH_MAX];
    struct deq_attn_row row;
};

/* Fills pages for positions lo..t only; everything else in them is NaN. */
static struct deq_attn_args lay_out(struct attn_case *c, size_t dh, size_t t, size_t lo, const void *pk[PAGES],
                                    const void *pv[PAGES])
{
    const size_t stride = DEQ_ROUND_UP(dh, (size_t)16), p0 = lo / 16, rel_zero = t - lo + DEQ_REL_PAD,
                 rel_stride = DEQ_ROUND_UP(rel_zero + 1 + DEQ_REL_PAD, (size_t)16);
    for (size_t p = p0; p <= t / 16; p++) {
        for (size_t i = 0; i < DH_MAX * 16; i++)
            c->k_page[p][i] = c->v_page[p][i] = NAN;
        for (size_t j = DEQ_MAX(p * 16, lo); j < p * 16 + 16 && j <= t; j++) {
            for (size_t d = 0; d < dh; d++)
                c->k_page[p][d * 16 + j % 16] = c->k[j][d];
            for (size_t d = 0; d < stride; d++)
                c->v_page[p][j % 16 * stride + d] = d < dh ? c->v[j][d] : 0;
        }
        pk[p - p0] = c->k_page[p];
        pv[p - p0] = c->v_page[p];
    }
    for (size_t d = 0; d < dh; d++)
        for (size_t col = 0; col < rel_stride; col++) {
            bool real = col <= rel_zero && rel_zero - col <= t - lo;
            c->rel[d * rel_stride + col] = real ? c->r[rel_zero - col][d] : 1e30f; /* padding: masked, however large */
        }
    sentinels(c->out, DEQ_COUNT(c->out));
    sentinels(c->scores, DEQ_COUNT(c->scores));
    c->row = (struct deq_attn_row){.qc = c->qc, .qr = c->qr, .t = t, .lo = lo, .first = p0, .last = t / 16, .k = pk,
                                   .v = pv, .scores = c->scores, .out = c->out};
    return (struct deq_attn_args){.row = &c->row, .n = 1, .d_head = dh, .v_stride = stride, .rel = c->rel,
                                  .rel_stride = rel_stride, .rel_zero = rel_zero, .scale = 1 / sqrtf((float)dh)};
}

static struct attn_case *attn_inputs(void)
{
    struct attn_case *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    normal(c->qc, DH_MAX, 1);
    normal(c->qr, DH_MAX, 2);
    normal(c->k[0], (size_t)T_MAX * DH_MAX, 3);
    normal(c->v[0], (size_t)T_MAX * DH_MAX, 4);
    normal(c->r[0], (size_t)T_MAX * DH_MAX, 5);
    return c;
}

TEST(kern_attn)
{
    static const size_t heads[] = {1, 3, 8, 15, 16, 17, 31, 32, 48, 50, 64, 65, 80, 96};
    static const struct {
        size_t t, lo;
    } span[] = {{0, 0}, {1, 0}, {5, 5}, {7, 3}, {14, 0}, {15, 0}, {16, 0}, {16, 16}, {31, 16}, {33, 15}, {47, 33},
                {63, 0}, {64, 0}, {65, 1}, {79, 17}, {100, 37}, {128, 64}, {150, 21}, {199, 0}, {199, 72}, {199, 199},
                {192, 191}};
    struct attn_case *c = attn_inputs();
    find_levels();
    for (size_t h = 0; c && h < DEQ_COUNT(heads); h++)
        for (size_t s = 0; s < DEQ_COUNT(span); s++) {
            const size_t dh = heads[h], t = span[s].t, lo = span[s].lo, n = t - lo + 1,
                         stride = DEQ_ROUND_UP(dh, (size_t)16);
            const void *pk[PAGES], *pv[PAGES];
            double score[T_MAX], want[DH_MAX] = {0}, top = -INFINITY, sum = 0, slack = 0, vmax = 0;
            struct deq_attn_args a = lay_out(c, dh, t, lo, pk, pv);
            for (size_t j = lo; j <= t; j++) {
                double q = 0, terms = 0;
                for (size_t d = 0; d < dh; d++) {
                    double e = (double)c->qc[d] * (double)c->k[j][d], f = (double)c->qr[d] * (double)c->r[t - j][d];
                    q += e + f;
                    terms += fabs(e) + fabs(f);
                }
                score[j] = q * (double)a.scale;
                top = DEQ_MAX(top, score[j]);
                slack = DEQ_MAX(slack, terms * (double)a.scale);
            }
            for (size_t j = lo; j <= t; j++) {
                double e = exp(score[j] - top);
                sum += e;
                for (size_t d = 0; d < dh; d++) {
                    want[d] += e * (double)c->v[j][d];
                    vmax = DEQ_MAX(vmax, fabs((double)c->v[j][d]));
                }
            }
            /* first-order rounding bound: a score is a chain of 2*Dh additions over `terms` and one product; an error e
             * of the scores moves each weight by 2e at most; exp is good to 1.5 ulp; n products and sums follow */
            double tol = (2 * (2 * (double)dh + 2) * slack + 2 * 1.5 + 2 * (double)n + 8) * 0x1p-24 * vmax;
            for (int l = 0; l < LEVELS; l++) {
                if (!levels[l])
                    continue;
                sentinels(c->out, DEQ_COUNT(c->out));
                levels[l]->attn(&a);
                double worst = 0;
                for (size_t d = 0; d < dh; d++) {
                    double e = fabs((double)c->out[d] - want[d] / sum);
                    worst = e <= worst ? worst : e; /* NaN must win */
                }
                CHECK_MSG(worst <= tol, "%s Dh=%zu t=%zu lo=%zu: off by %g, bound %g", level_names[l], dh, t, lo, worst,
                          tol);
                CHECK_MSG(untouched(c->out + stride, GUARD), "%s Dh=%zu t=%zu lo=%zu", level_names[l], dh, t, lo);
                CHECK_MSG(untouched(c->scores + (t / 16 - lo / 16 + 1) * 16, GUARD), "%s Dh=%zu t=%zu lo=%zu",
                          level_names[l], dh, t, lo);
                if (!l)
                    memcpy(c->first, c->out, stride * sizeof(float));
                CHECK_MSG(same_bits(c->out, c->first, stride), "%s Dh=%zu t=%zu lo=%zu", level_names[l], dh, t, lo);
            }
        }
    free(c);
}

/* Rows at t .. t + n - 1 that read together, each with a window of its own first position, and each alone. */
static void check_together(struct attn_case *c, size_t dh, size_t t, size_t n, size_t window)
{
    const size_t last = t + n - 1, lo = t + 1 > window ? t + 1 - window : 0, stride = DEQ_ROUND_UP(dh, (size_t)16);
    const void *pk[PAGES], *pv[PAGES];
    float scores[DEQ_ATTN_ROWS][PAGES * 16], out[DEQ_ATTN_ROWS][DH_MAX], alone[DH_MAX];
    struct deq_attn_args a = lay_out(c, dh, last, lo, pk, pv);
    struct deq_attn_row row[DEQ_ATTN_ROWS];
    for (size_t i = 0; i < n; i++)
        row[i] = (struct deq_attn_row){.qc = c->k[i], .qr = c->v[i], .t = t + i,
                                       .lo = t + i + 1 > window ? t + i + 1 - window : 0, .first = lo / 16,
                                       .last = last / 16, .k = pk, .v = pv, .scores = scores[i], .out = out[i]};
    for (int l = 0; l < LEVELS; l++) {
        if (!levels[l])
            continue;
        a.row = row;
        a.n = n;
        levels[l]->attn(&a);
        for (size_t i = 0; i < n; i++) {
            struct deq_attn_row own = row[i];
            own.scores = c->scores;
            own.out = alone;
            a.row = &own;
            a.n = 1;
            levels[l]->attn(&a);
            CHECK_MSG(same_bits(out[i], alone, stride), "%s Dh=%zu: row %zu of %zu at %zu, window %zu", level_names[l],
                      dh, i, n, t, window);
            CHECK(isnan(alone[0]) == (own.t == T_MAX - 1)); /* the one position that is not finite */
        }
    }
}

TEST(kern_attn_rows_together_have_the_bits_of_each_alone)
{
    struct attn_case *c = attn_inputs();
    find_levels();
    for (size_t d = 0; c && d < DH_MAX; d++)
        c->k[T_MAX - 1][d] = c->v[T_MAX - 1][d] = NAN;
    for (uint64_t i = 0; c && i < 300; i++) {
        const size_t n = 1 + deq_rng_below(31, 0, i, DEQ_ATTN_ROWS), t = deq_rng_below(31, 1, i, T_MAX - n + 1);
        check_together(c, 1 + deq_rng_below(31, 2, i, DH_MAX), i % 8 ? t : T_MAX - n, n,
                       1 + deq_rng_below(31, 3, i, i % 3 ? T_MAX : 20));
    }
    free(c);
}

TEST(kern_attn_nan_at_a_visible_position_shows)
{
    struct attn_case *c = attn_inputs();
    find_levels();
    for (size_t at = 20; c && at <= 70; at += 5) {
        const size_t dh = 20, t = 70, lo = 20;
        const void *pk[PAGES], *pv[PAGES];
        const float k = c->k[at][3], v = c->v[at][3];
        for (int l = 0; l < LEVELS; l++) {
            if (!levels[l])
                continue;
            c->k[at][3] = NAN;
            struct deq_attn_args a = lay_out(c, dh, t, lo, pk, pv);
            levels[l]->attn(&a);
            bool all = true;
            for (size_t d = 0; d < dh; d++)
                all = all && isnan(c->out[d]);
            CHECK(all); /* a NaN score spoils every weight */
            c->k[at][3] = k;
            c->v[at][3] = NAN;
            a = lay_out(c, dh, t, lo, pk, pv);
            levels[l]->attn(&a);
            for (size_t d = 0; d < dh; d++)
                CHECK(isnan(c->out[d]) == (d == 3));
            c->v[at][3] = v;
        }
    }
    free(c);
}

TEST(kern_attn_large_scores)
{
    struct attn_case *c = attn_inputs();
    find_levels();
    const void *pk[PAGES], *pv[PAGES];
    for (int l = 0; c && l < LEVELS; l++) {
        if (!levels[l])
            continue;
        /* a score 1e4 above the others: the softmax is a copy of that value row, and nothing overflows */
        struct deq_attn_args a = lay_out(c, 16, 40, 9, pk, pv);
        for (size_t d = 0; d < 16; d++)
            c->k_page[1][d * 16 + 5] = c->qc[d] * 1e4f;
        levels[l]->attn(&a);
        CHECK(same_bits(c->out, c->v[21], 16));
    }
    free(c);
}

/* Two 16-bit numbers of a word: each within half a unit as it is read, units being the 32512th part of the largest. */
TEST(kern_pack_i16)
{
    enum { N = 130 };
    float x[N], first_scale = 0;
    int32_t pairs[N], first[N];
    find_levels();
    for (size_t n = 1; n <= N; n++)
        for (int kind = 0; kind < 6; kind++) {
            const size_t half = DEQ_PAIRS(n), room = DEQ_ROUND_UP(half, (size_t)16);
            normal(x, n, 90 + n);
            for (size_t i = 0; i < n; i++)
                x[i] *= kind == 1 ? 1e-36f : kind == 2 ? 1e36f : kind == 3 ? 0.0f : 1.0f;
            if (kind > 3)
                x[n / 3] = kind == 4 ? NAN : -INFINITY;
            for (int l = 0; l < LEVELS; l++) {
                if (!levels[l])
                    continue;
                const float scale = levels[l]->pack_i16(x, n, pairs);
                if (!l) {
                    first_scale = scale;
                    memcpy(first, pairs, sizeof pairs);
                }
                CHECK(same1(scale, first_scale) && !memcmp(pairs, first, room * sizeof *pairs));
            }
            double worst = 0, most = 0;
            for (size_t i = 0; i < n; i++) {
                const int32_t word = pairs[i < half ? i : i - half];
                const double got = (double)first_scale * (i < half ? (int16_t)word * 65536.0 : word);
                worst = fmax(worst, fabs(got - (double)x[i]));
                most = fmax(most, fabs((double)x[i]));
            }
            if (kind > 3)
                CHECK(isnan(first_scale));
            else if (kind == 1 || kind == 3)
                CHECK(first_scale == 0);
            else /* half a unit, and four roundings of numbers below 2^15 */
                CHECK_MSG(worst <= most / 32512 * (0.5 + 4 * 0x1p-9), "n %zu: off by %g", n, worst / most * 32512);
            for (size_t i = half; i < room; i++)
                CHECK(!pairs[i]);
            for (size_t i = 0; kind > 2 && i < half; i++)
                CHECK(!pairs[i]);
        }
}
