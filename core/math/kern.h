/* The table of compute kernels, one entry per CPU level (ref, avx2, avx512, vnni, amx), chosen once at run time.
 *
 * What every kernel promises: its result depends on its inputs alone, and is the same bits at every level. Matrix
 * products: format.h says what each element is. Reductions: sixteen partial sums (lane i takes elements i, i+16, ...; a
 * short tail is padded with the neutral element), added in the fixed tree of vf_hsum. Pointers need no alignment. No
 * kernel allocates, blocks or keeps state: any thread. */
#ifndef DEQ_MATH_KERN_H
#define DEQ_MATH_KERN_H

#include "core/math/format.h"

enum { DEQ_MM_ROWS = 96 };     /* of one call at most: they lie in the second cache beside a block of the panel */
enum { DEQ_KV_PAGE_TOK = 16 }; /* positions of one cache page: one vector of scores */

enum { DEQ_ATTN_ROWS = 8 }; /* rows of a call of attention */
/* columns of a table of relative keys beside those that are used: rows that read together read each other's pages */
enum { DEQ_REL_PAD = DEQ_KV_PAGE_TOK - 1 + DEQ_ATTN_ROWS - 1 };
#define DEQ_PAIRS(n) (((n) + 1) / 2) /* words of two 16-bit numbers, word i has numbers i and DEQ_PAIRS(n) + i */

/* One head of rows attending over a paged cache, with relative keys (Dai et al., "Transformer-XL", 2019, section 3.3)
 * or without:
 *   s_j = (qc . k_j [+ qr . rel_{t-j}]) * scale,  j = lo..t;   out = sum_j softmax(s)_j v_j
 * Rows of one sequence, at positions that do not fall, may have the same lists of pages: they read them together. */
struct deq_attn_row {
    const float *qc; /* [Dh] query (+ r_w);  both [Dh + 1] for pairs, a zero behind an odd Dh */
    const float *qr; /* [Dh] query + r_r;  this and `relative`: not read without relative keys */
    size_t t, lo;    /* the row's position and the first position it sees, which grow with the row */
    size_t first, last; /* logical pages that the lists begin and end with */
    /* by page, lanes being positions:  float32: k [Dh, 16], v [16, v_stride].  16 bits, pairs with a scale for each
     * position: k [DEQ_PAIRS(Dh), 16] and [16] scales, v [16] scales and [16, v_stride] */
    const void *const *k, *const *v;
    float *scores;   /* scratch [16 * pages] */
    float *relative; /* scratch of 16 bits [rel_zero + 1 + DEQ_REL_PAD, rounded up to pages] */
    float *out;      /* [v_stride], or with pairs [Dh] */
};

struct deq_attn_args {
    const struct deq_attn_row *row; /* [n] */
    size_t n;                       /* 1..DEQ_ATTN_ROWS */
    size_t d_head;                  /* Dh */
    size_t v_stride;                /* words between the V rows of two positions, multiple of 16 */
    /* relative keys by column, rel_zero being distance 0, the column before it distance 1 ..; DEQ_REL_PAD columns lie
     * on both sides.  float32: [Dh, rel_stride].  16 bits: by page of 16 columns, as k.  NULL: none */
    const float *rel;
    const void *const *rel_pages;
    size_t rel_stride, rel_zero;
    float scale;
};

/* y[r, i] = sum_k x[r, k] w(k, col + i), r < m, i < n, with columns col .. col+n-1 of one packed panel */
struct deq_mm {
    const void *x;     /* rows as the format wants them: floats, or what quantise made of them */
    size_t ldx;        /* bytes between rows */
    size_t m, k;       /* m <= DEQ_MM_ROWS */
    const void *panel; /* [K, 64] of f32 or bf16; of integers: format.h */
    size_t col, n;     /* col: a multiple of DEQ_PANEL_UNIT; col + n <= 64 */
    float *y;
    size_t ldy;        /* floats between rows */
};

/* Which two numbers of a head of d turn together in a rotary embedding (Su et al., "RoFormer", 2021), i < d/2:
 * (2i, 2i+1), or (i, i + d/2). */
enum deq_rope_pairs { DEQ_ROPE_NEIGHBOURS, DEQ_ROPE_HALVES };

struct deq_kern {
    const char *name;
    void (*mm[DEQ_FORMAT_COUNT])(const struct deq_mm *a);
    /* A row for products with integers: its scale, then 16-bit numbers in the order that the level's products read
     * (deq_int_operand_bytes in all). A row that is not finite has the scale NaN, and so have its products; one that
     * is nowhere 1e-30 is zero. */
    void (*quantise)(const float *x, size_t k, void *row);
    void (*attn)(const struct deq_attn_args *a);     /* float32 pages */
    void (*attn_i16)(const struct deq_attn_args *a); /* pages of pairs */
    /* pairs [DEQ_PAIRS(n), rounded up to 16] = x [n] / scale, zeros behind them; returns scale / 65536 as attn_i16
     * takes it, NaN when x is not finite */
    float (*pack_i16)(const float *x, size_t n, int32_t *pairs);
    /* y = (x - mean) * rstd [* gain + bias]; gain, bias [n] or NULL; ret_stats {mean, rstd} or NULL */
    void (*layernorm)(const float *x, size_t n, float eps, const float *gain, const float *bias, float *y,
                      float *ret_stats);
    /* dx = rstd * (g - mean(g) - xhat * mean(g*xhat)), g = dy*gain; d_gain += dy*xhat,
     * d_bias += dy (all three may be NULL) */
    void (*layernorm_vjp)(const float *x, const float *stats, size_t n, const float *gain, const float *dy, float *dx,
                          float *d_gain, float *d_bias);
    /* y = x * rstd [* gain], rstd = 1 / sqrt(mean(x^2) + eps) (Zhang, Sennrich 2019); gain [n], ret_rstd or NULL; y may
     * be x */
    void (*rmsnorm)(const float *x, size_t n, float eps, const float *gain, float *y, float *ret_rstd);
    /* dx = rstd * (g - xhat * mean(g*xhat)), g = dy*gain, xhat = x*rstd; d_gain += dy*xhat; gain, d_gain may be NULL,
     * dx may be dy */
    void (*rmsnorm_vjp)(const float *x, float rstd, size_t n, const float *gain, const float *dy, float *dx,
                        float *d_gain);
    float (*dot)(const float *a, const float *b, size_t n);
    float (*diff_sumsq)(const float *a, const float *b, size_t n); /* sum (a-b)^2 */
    void (*axpy)(float *y, float a, const float *x, size_t n);     /* y += a*x */
    void (*add)(float *y, const float *a, const float *b, size_t n); /* y = a + b; y may be a or b */
    void (*sub)(float *y, const float *a, const float *b, size_t n);
    void (*mul)(float *y, const float *a, const float *b, size_t n);
    void (*add_relu)(float *y, const float *b, size_t n);          /* y = max(y + b, 0); NaN stays NaN */
    float (*max)(const float *x, size_t n);
    /* y = exp(x - shift), returns the sum; y may be x or NULL */
    float (*exp_sum)(float *y, const float *x, float shift, size_t n);
    void (*scale)(float *y, float a, size_t n);
    void (*sigmoid)(float *y, const float *x, size_t n); /* y = 1 / (1 + exp(-x)); y may be x, as below */
    void (*tanh_of)(float *y, const float *x, size_t n); /* y = tanh(x) */
    /* y = silu(a) * b, silu(a) = a sigmoid(a) (Shazeer, "GLU Variants Improve Transformer", 2020); y may be a or b */
    void (*swiglu)(float *y, const float *a, const float *b, size_t n);
    /* d_a = dy * b * silu'(a), d_b = dy * silu(a); any of the two may be a, b or dy */
    void (*swiglu_vjp)(const float *a, const float *b, const float *dy, float *d_a, float *d_b, size_t n);
    void (*relu2)(float *y, const float *x, size_t n); /* y = max(x, 0)^2 / 2; NaN stays NaN; y may be x */
    void (*relu2_vjp)(const float *x, const float *dy, float *dx, size_t n); /* dx = dy * max(x, 0); dx may be dy */
    /* The pairs (a, b) of one head x [d] become (a cos - b sin, b cos + a sin): turn [d] has cosine and sine of pair 0,
     * of pair 1, ... back: turned the other way, which is the inverse and the VJP. */
    void (*rope)(float *x, const float *turn, size_t d, enum deq_rope_pairs pairs, bool back);
};

/* The best level this machine has, or the one that deq_kern_force chose. */
const struct deq_kern *deq_kern(void);
/* Level by name; NULL when the machine or the build lacks it. */
const struct deq_kern *deq_kern_level(const char *name);
/* Makes deq_kern() return that level from now on; false when it is not available. Call before any model is loaded: what
 * is prepared for products at one level is not read at another. */
bool deq_kern_force(const char *name);
/* The same for a level that may be none of the machine's own. */
void deq_kern_use(const struct deq_kern *k);

#endif
