/* Attention of rows over pages in both formats, with the relative term and without, heads alone and in groups, at every
 * CPU level, in batches of several sequences, against double. */
#include "core/cell/attention.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/rng.h"
#include "tests/unit/kernels.h"
#include "tests/unit/test.h"

enum { SEQS = 3, T = 100, KV_MAX = 3 * 128, Q_MAX = 3 * 5 * 40, ROWS = SEQS * 20, RING = T / 16 + 3, LDQ = Q_MAX + 5 };

struct batch {
    struct deq_attention_dims dims;
    struct deq_heads heads;
    struct deq_attention a;
    void *memory;
    float kv[SEQS][T][2 * KV_MAX], rel[T][KV_MAX], r_w[KV_MAX], r_r[KV_MAX], q[ROWS * LDQ];
    struct deq_ring ring[SEQS];
    uint32_t page[SEQS][RING];
    const struct deq_ring *rings[ROWS];
    size_t position[ROWS], seq[ROWS];
    struct deq_rows rows;
    float av[ROWS * Q_MAX], first[ROWS * Q_MAX];
};

static size_t below(uint64_t test, uint64_t what, size_t n)
{
    return (size_t)deq_rng_below(41, test, what, n);
}

/* A shape, and rows at the ends of SEQS sequences: most in a run, some with a gap, of every number. The layer is the
 * second of two, whose heads are as many. */
static void draw(struct batch *b, uint64_t test, bool relative)
{
    const size_t n_kv = 1 + below(test, 0, 3), group = relative ? 1 : 1 + below(test, 3, 5);
    b->dims = (struct deq_attention_dims){.n_kv = 2 * n_kv,
                                          .d_head = 1 + below(test, 1, test % 3 || group > 1 ? 40 : 128),
                                          .window = 1 + below(test, 2, test % 4 ? 80 : 10),
                                          .relative = relative};
    b->heads = (struct deq_heads){.n = n_kv * group, .n_kv = n_kv, .at = n_kv};
    normal(b->kv[0][0], sizeof b->kv / sizeof(float), test * 5);
    normal(b->rel[0], sizeof b->rel / sizeof(float), test * 5 + 1);
    normal(b->r_w, KV_MAX, test * 5 + 2);
    normal(b->r_r, KV_MAX, test * 5 + 3);
    normal(b->q, DEQ_COUNT(b->q), test * 5 + 4);
    b->rows = (struct deq_rows){.position = b->position, .ring = b->rings};
    for (size_t s = 0; s < SEQS; s++) {
        size_t t = below(test, 10 + s, T);
        for (size_t i = 0; i < RING; i++) /* pages of a sequence lie anywhere */
            b->page[s][i] = (uint32_t)((i * 7 + s * 3) % RING * SEQS + s);
        b->ring[s] = (struct deq_ring){.page = b->page[s], .n = RING};
        for (size_t n = 1 + below(test, 20 + s, 20); n && t < T; n--, b->rows.n++) {
            b->position[b->rows.n] = t;
            b->rings[b->rows.n] = &b->ring[s];
            b->seq[b->rows.n] = s;
            t += below(test, 100 + b->rows.n, 7) ? 1 : 2;
        }
    }
}

/* The pages hold leftovers of another use: numbers that are none, in keys, values and scales. */
static bool set_up(struct batch *b, enum deq_class numeric, const struct deq_kern *kern)
{
    b->dims.numeric = numeric;
    b->a = deq_attention_shape(&b->dims, SEQS * RING);
    b->a.kern = kern;
    struct deq_layout l = {0};
    deq_attention_lay_out(&b->a, 5, &l);
    const size_t bytes = l.bytes;
    l = (struct deq_layout){.base = b->memory = calloc(1, bytes)};
    if (!b->memory)
        return false;
    deq_attention_lay_out(&b->a, 5, &l);
    memset(b->a.pages, 0xff, b->a.n_pages * deq_attention_page_bytes(&b->a));
    for (size_t d = 0; b->dims.relative && d < b->a.reach && d < T; d++)
        deq_attention_relative(&b->a, b->heads, d, b->rel[d]);
    for (size_t r = 0; r < b->rows.n; r++)
        if (r + 1 == b->rows.n || b->seq[r + 1] != b->seq[r])
            for (size_t t = 0; t <= b->position[r]; t++)
                deq_attention_write(&b->a, b->heads, b->rings[r], t, b->kv[b->seq[r]][t], 2);
    return true;
}

static void read_rows(struct batch *b, size_t first, size_t n, unsigned n_threads, float *av)
{
    const struct deq_rows in = {.n = n, .position = b->position + first, .ring = b->rings + first};
    const struct deq_attention_rows rows = {.rows = &in, .heads = b->heads, .r_w = b->r_w, .r_r = b->r_r,
                                            .q = b->q + first * LDQ, .ldq = LDQ, .av = av};
    for (unsigned i = 0; i < n_threads; i++)
        deq_attention_read(&b->a, &rows, i, n_threads);
}

static double largest(const float *x, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)x[i]));
    return most;
}

/* How far one head of one row is from the truth, in units of what rounding explains. */
static double error_of(const struct batch *b, size_t r, size_t h, const float *av)
{
    const size_t Dh = b->dims.d_head, own = h * b->heads.n_kv / b->heads.n, HD = b->heads.n_kv * Dh, t = b->position[r],
                 W = b->dims.window, lo = t + 1 > W ? t + 1 - W : 0;
    const double rel = b->dims.relative;
    const float *q = b->q + r * LDQ + h * Dh, *r_w = b->r_w + own * Dh, *r_r = b->r_r + own * Dh;
    /* a number of a page is off by half of 1/32512 of the largest beside it, and a float's rounding */
    const double unit = b->a.kv.format == DEQ_KV_I16 ? 0.51 / 32512 : 0;
    double score[T], want[128] = {0}, top = -INFINITY, sum = 0, slack = 0, vmax = 0, worst = 0;
    for (size_t j = lo; j <= t; j++) {
        const float *k = b->kv[b->seq[r]][j] + own * Dh, *e = b->rel[t - j] + own * Dh;
        const double most_k = largest(k, Dh), most_e = largest(e, Dh);
        double s = 0, terms = 0;
        for (size_t d = 0; d < Dh; d++) {
            const double qc = b->dims.relative ? (double)(q[d] + r_w[d]) : (double)q[d],
                         qr = rel * (double)(q[d] + r_r[d]);
            s += qc * (double)k[d] + qr * (double)e[d];
            terms += (fabs(qc * (double)k[d]) + fabs(qr * (double)e[d])) * (2 * (double)Dh + 4) * 0x1p-24;
            terms += (fabs(qc) * most_k + fabs(qr) * most_e) * unit;
        }
        score[j] = s / sqrt((double)Dh);
        top = fmax(top, score[j]);
        slack = fmax(slack, terms / sqrt((double)Dh));
        vmax = fmax(vmax, largest(k + HD, Dh));
    }
    for (size_t j = lo; j <= t; j++) {
        const double w = exp(score[j] - top);
        sum += w;
        for (size_t d = 0; d < Dh; d++)
            want[d] += w * (double)b->kv[b->seq[r]][j][HD + own * Dh + d];
    }
    /* an error e of the scores moves each weight by 2e at most; exp is good to 1.5 ulp; products and sums follow */
    const double tol = (2 * slack + (3 + 2 * (double)(t - lo + 1) + 8) * 0x1p-24 + unit) * vmax;
    for (size_t d = 0; d < Dh; d++) {
        const double e = fabs((double)av[d] - want[d] / sum);
        worst = e <= worst ? worst : e; /* NaN must win */
    }
    return worst / tol;
}

static void check_level(struct batch *b, uint64_t test, int level, enum deq_class numeric)
{
    const size_t HD = b->heads.n * b->dims.d_head, n = b->rows.n;
    float alone[Q_MAX];
    read_rows(b, 0, n, 1, b->av);
    double worst = 0;
    for (size_t r = 0; r < n; r++) {
        for (size_t h = 0; h < b->heads.n; h++) {
            const double e = error_of(b, r, h, b->av + r * HD + h * b->dims.d_head);
            worst = e <= worst ? worst : e;
        }
        read_rows(b, r, 1, 1, alone);
        CHECK_MSG(same_bits(alone, b->av + r * HD, HD), "%s %d, batch %d: row %zu alone", level_names[level],
                  (int)numeric, (int)test, r);
    }
    CHECK_MSG(worst <= 1, "%s %d, batch %d: off by %g times the bound", level_names[level], (int)numeric, (int)test,
              worst);
    if (!level)
        memcpy(b->first, b->av, n * HD * sizeof(float));
    CHECK_MSG(same_bits(b->av, b->first, n * HD), "%s %d, batch %d: not as ref", level_names[level], (int)numeric,
              (int)test);
    for (unsigned threads = 2; threads <= 5; threads++) {
        sentinels(b->av, n * HD);
        read_rows(b, 0, n, threads, b->av);
        CHECK(same_bits(b->av, b->first, n * HD));
    }
}

TEST(attention_in_any_company)
{
    find_levels();
    for (uint64_t test = 0; test < 13; test++) {
        struct batch *b = calloc(1, sizeof *b);
        if (!b)
            return;
        draw(b, test, test < 9);
        for (int numeric = DEQ_CLASS_FLOAT32; numeric <= DEQ_CLASS_INT16; numeric++)
            for (int l = 0; l < LEVELS; l++) {
                if (levels[l] && set_up(b, (enum deq_class)numeric, levels[l]))
                    check_level(b, test, l, (enum deq_class)numeric);
                free(b->memory);
                b->memory = NULL;
            }
        free(b);
    }
}

/* A key or a value that is not finite: whoever sees it says so, nobody else, whichever rows are read together. */
TEST(attention_of_what_is_not_finite)
{
    struct batch *b = calloc(1, sizeof *b);
    find_levels();
    for (int numeric = DEQ_CLASS_FLOAT32; b && numeric <= DEQ_CLASS_INT16; numeric++)
        for (int l = 0; l < LEVELS; l++)
            for (size_t at = 0; levels[l] && at < 2; at++) { /* a key, a value */
                const size_t H = 2, Dh = 21, HD = H * Dh, bad = 60;
                b->rows.n = 0;
                draw(b, 0, true);
                b->heads = (struct deq_heads){.n = H, .n_kv = H, .at = H};
                b->dims = (struct deq_attention_dims){.n_kv = 2 * H, .d_head = Dh, .window = 7, .relative = true};
                b->rows.n = 20;
                for (size_t r = 0; r < b->rows.n; r++) {
                    b->position[r] = 50 + r;
                    b->rings[r] = &b->ring[0];
                    b->seq[r] = 0;
                }
                b->kv[0][bad][at * HD + Dh + 3] = at ? INFINITY : NAN; /* of the second head */
                if (!set_up(b, (enum deq_class)numeric, levels[l]))
                    continue;
                read_rows(b, 0, b->rows.n, 1, b->av);
                for (size_t r = 0; r < b->rows.n; r++) {
                    const bool sees = b->position[r] >= bad && b->position[r] < bad + 7;
                    CHECK(isfinite(b->av[r * HD + 3]) && isfinite(b->av[r * HD + Dh + 3]) == !sees);
                }
                free(b->memory);
            }
    free(b);
}
