/* The body of every kernel, compiled once per CPU level: the including file includes its vec_*.h first and defines KERN
 * (name), the tiles of mm_float.h, MM_INT, the file with its products of integers, and ATTN_TILE (sums of attention
 * that run side by side, in vectors). See kern.h for what each one does. */
#include <math.h>
#include <string.h>

#include "core/math/kern.h"

/* a vector of which only the first n < 16 lanes exist in memory; the others are `fill` */
static inline vf ld_tail(const float *p, size_t n, float fill)
{
    float t[16];
    for (int i = 0; i < 16; i++)
        t[i] = fill;
    memcpy(t, p, n * sizeof(float));
    return vf_ld(t);
}

static inline void st_tail(float *p, vf a, size_t n)
{
    float t[16];
    vf_st(t, a);
    memcpy(p, t, n * sizeof(float));
}

static inline vf ld_n(const float *p, size_t n, float fill)
{
    return n >= 16 ? vf_ld(p) : ld_tail(p, n, fill);
}

static inline void st_n(float *p, vf a, size_t n)
{
    if (n >= 16)
        vf_st(p, a);
    else
        st_tail(p, a, n);
}

#include "core/math/mm_float.h"
#include MM_INT

/* exp(x) for x <= 88: 2^n * e^r with |r| <= ln2/2 and a polynomial of degree 6 (Cephes expf), 1 ulp or so; below -87 it
 * is 0, and NaN stays NaN (the second operand of vf_max wins then). */
static inline vf vexp(vf x)
{
    const vf lo = vf_set1(-87.0f);
    vf c = vf_max(lo, x);
    vf n = vf_round(vf_mul(c, vf_set1(1.44269504088896341f)));
    vf r = vf_fma(n, vf_set1(-0.693359375f), c);
    r = vf_fma(n, vf_set1(2.12194440e-4f), r);
    vf p = vf_set1(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_fma(p, vf_mul(r, r), vf_add(r, vf_set1(1.0f)));
    return vf_lt_select(x, lo, vf_set1(0.0f), vf_mul(p, vf_exp2i(n)));
}

static float exp_sum(float *y, const float *x, float shift, size_t n)
{
    vf s = vf_set1(0.0f), sh = vf_set1(shift);
    for (size_t i = 0; i < n; i += 16) {
        vf e = vexp(vf_sub(ld_n(x + i, n - i, -INFINITY), sh));
        if (y)
            st_n(y + i, e, n - i);
        s = vf_add(s, e);
    }
    return vf_hsum(s);
}

static float max_of(const float *x, size_t n)
{
    vf m = vf_set1(-INFINITY);
    for (size_t i = 0; i < n; i += 16)
        m = vf_max(ld_n(x + i, n - i, -INFINITY), m);
    return vf_hmax(m);
}

static void quantise(const float *x, size_t n, void *row)
{
    int16_t *const q = (int16_t *)(void *)((char *)row + DEQ_OPERAND_HEAD);
    const vf zero = vf_set1(0.0f);
    vf top = zero, odd = zero; /* odd: 0, or NaN when a number is not finite */
    for (size_t i = 0; i < n; i += 16) {
        const vf v = ld_n(x + i, n - i, 0);
        top = vf_max(vf_max(v, vf_sub(zero, v)), top);
        odd = vf_fma(v, zero, odd);
    }
    const float most = vf_hmax(top), not_finite = vf_hsum(odd);
    const bool some = most >= 1e-30f && not_finite == 0; /* below, its scale's inverse would not be a float */
    const float t = some ? most / (float)DEQ_INT_TOP : not_finite;
    memset(row, 0, DEQ_OPERAND_HEAD);
    memcpy(row, &t, sizeof t);
    const vf by = vf_set1(some ? (float)DEQ_INT_TOP / most : 0.0f);
    const size_t depth = deq_int_depth(n);
    for (size_t i = 0; i < depth; i += 16) {
        const vf v = some && i < n ? ld_n(x + i, n - i, 0) : zero;
        vf_st_i16(q + i, vf_round(vf_mul(v, by)));
    }
}

static float dot(const float *a, const float *b, size_t n)
{
    vf s = vf_set1(0.0f);
    for (size_t i = 0; i < n; i += 16)
        s = vf_fma(ld_n(a + i, n - i, 0), ld_n(b + i, n - i, 0), s);
    return vf_hsum(s);
}

static float diff_sumsq(const float *a, const float *b, size_t n)
{
    vf s = vf_set1(0.0f);
    for (size_t i = 0; i < n; i += 16) {
        vf d = vf_sub(ld_n(a + i, n - i, 0), ld_n(b + i, n - i, 0));
        s = vf_fma(d, d, s);
    }
    return vf_hsum(s);
}

#define EACH(expr)                         \
    for (size_t i = 0; i < n; i += 16) {   \
        size_t left = n - i;               \
        vf r = (expr);                     \
        st_n(y + i, r, left);              \
    }

static void axpy(float *y, float a, const float *x, size_t n)
{
    EACH(vf_fma(vf_set1(a), ld_n(x + i, left, 0), ld_n(y + i, left, 0)))
}

static void add(float *y, const float *a, const float *b, size_t n)
{
    EACH(vf_add(ld_n(a + i, left, 0), ld_n(b + i, left, 0)))
}

static void sub(float *y, const float *a, const float *b, size_t n)
{
    EACH(vf_sub(ld_n(a + i, left, 0), ld_n(b + i, left, 0)))
}

static void mul(float *y, const float *a, const float *b, size_t n)
{
    EACH(vf_mul(ld_n(a + i, left, 0), ld_n(b + i, left, 0)))
}

static void scale(float *y, float a, size_t n)
{
    EACH(vf_mul(vf_set1(a), ld_n(y + i, left, 0)))
}

static void add_relu(float *y, const float *b, size_t n)
{
    /* max(0, x) with x second: a NaN in x stays NaN */
    EACH(vf_max(vf_set1(0.0f), vf_add(ld_n(y + i, left, 0), ld_n(b + i, left, 0))))
}

/* Below -87 it stays at e^-87: nothing on the way is infinite or subnormal. A comparison with NaN chooses the second of
 * two, which is the NaN here and in tanh_of. */
static void sigmoid(float *y, const float *x, size_t n)
{
    const vf one = vf_set1(1.0f), hi = vf_set1(87.0f);
    for (size_t i = 0; i < n; i += 16) {
        const vf m = vf_sub(vf_set1(0.0f), ld_n(x + i, n - i, 0));
        const vf e = vexp(vf_lt_select(hi, m, hi, m));
        st_n(y + i, vf_div(one, vf_add(one, e)), n - i);
    }
}

/* Near zero an odd polynomial (Cephes tanhf), else 1 - 2 / (exp(2|x|) + 1), which is 1 from 9.02 on. */
static void tanh_of(float *y, const float *x, size_t n)
{
    const vf zero = vf_set1(0.0f), one = vf_set1(1.0f), hi = vf_set1(10.0f);
    for (size_t i = 0; i < n; i += 16) {
        const vf v = ld_n(x + i, n - i, 0), q = vf_mul(v, v);
        vf p = vf_set1(-5.70498872745e-3f);
        p = vf_fma(p, q, vf_set1(2.06390887954e-2f));
        p = vf_fma(p, q, vf_set1(-5.37397155531e-2f));
        p = vf_fma(p, q, vf_set1(1.33314422036e-1f));
        p = vf_fma(p, q, vf_set1(-3.33332819422e-1f));
        const vf near = vf_fma(vf_mul(v, q), p, v);
        vf a = vf_max(vf_sub(zero, v), v);
        a = vf_lt_select(hi, a, hi, a);
        const vf far = vf_sub(one, vf_div(vf_set1(2.0f), vf_add(vexp(vf_add(a, a)), one)));
        st_n(y + i, vf_lt_select(a, vf_set1(0.625f), near, vf_lt_select(v, zero, vf_sub(zero, far), far)), n - i);
    }
}

static void layernorm(const float *x, size_t n, float eps, const float *gain, const float *bias, float *y,
                      float *ret_stats)
{
    vf s = vf_set1(0.0f);
    for (size_t i = 0; i < n; i += 16)
        s = vf_add(s, ld_n(x + i, n - i, 0));
    float mean = vf_hsum(s) / (float)n;
    vf m = vf_set1(mean), q = vf_set1(0.0f);
    for (size_t i = 0; i < n; i += 16) {
        vf d = vf_sub(ld_n(x + i, n - i, mean), m);
        q = vf_fma(d, d, q);
    }
    float rstd = 1.0f / sqrtf(vf_hsum(q) / (float)n + eps);
    vf rs = vf_set1(rstd);
    for (size_t i = 0; i < n; i += 16) {
        vf v = vf_mul(vf_sub(ld_n(x + i, n - i, 0), m), rs);
        if (gain)
            v = vf_fma(v, ld_n(gain + i, n - i, 0), ld_n(bias + i, n - i, 0));
        st_n(y + i, v, n - i);
    }
    if (ret_stats) {
        ret_stats[0] = mean;
        ret_stats[1] = rstd;
    }
}

static void layernorm_vjp(const float *x, const float *stats, size_t n, const float *gain, const float *dy, float *dx,
                          float *d_gain, float *d_bias)
{
    vf m = vf_set1(stats[0]), rs = vf_set1(stats[1]), sg = vf_set1(0.0f), sgx = vf_set1(0.0f), one = vf_set1(1.0f);
    for (size_t i = 0; i < n; i += 16) {
        size_t left = n - i;
        vf xh = vf_mul(vf_sub(ld_n(x + i, left, stats[0]), m), rs), d = ld_n(dy + i, left, 0);
        vf g = vf_mul(d, gain ? ld_n(gain + i, left, 0) : one);
        sg = vf_add(sg, g);
        sgx = vf_fma(g, xh, sgx);
        if (d_gain)
            st_n(d_gain + i, vf_fma(d, xh, ld_n(d_gain + i, left, 0)), left);
        if (d_bias)
            st_n(d_bias + i, vf_add(d, ld_n(d_bias + i, left, 0)), left);
    }
    vf mg = vf_set1(vf_hsum(sg) / (float)n), mgx = vf_set1(vf_hsum(sgx) / (float)n);
    for (size_t i = 0; i < n; i += 16) {
        size_t left = n - i;
        vf xh = vf_mul(vf_sub(ld_n(x + i, left, stats[0]), m), rs);
        vf g = vf_mul(ld_n(dy + i, left, 0), gain ? ld_n(gain + i, left, 0) : one);
        vf r = vf_mul(rs, vf_sub(vf_sub(g, mg), vf_mul(xh, mgx)));
        st_n(dx + i, r, left);
    }
}

#define INLINED __attribute__((always_inline)) static inline

/* Scores of `rows` rows over all pages, masked, and their maxima. Each score is one chain over d; ATTN_TILE chains run
 * side by side to hide the latency of an FMA, and rows share what is loaded of a page. */
INLINED void attn_scores(const struct deq_attn_args *a, const struct deq_attn_row *row, size_t p0, size_t n_pages,
                         const float *const *pages, vf *top, const int rows)
{
    enum { P = DEQ_KV_PAGE_TOK };
    const int at_once = ATTN_TILE / rows;
    const vf scale = vf_set1(a->scale);
    for (int i = 0; i < rows; i++)
        top[i] = vf_set1(-INFINITY);
    for (size_t p = 0; p < n_pages; p += (size_t)at_once) {
        const size_t n = DEQ_MIN((size_t)at_once, n_pages - p);
        vf s[ATTN_TILE];
        const float *k[ATTN_TILE], *r[ATTN_TILE];
        for (int q = 0; q < at_once; q++) {
            const size_t at = p + ((size_t)q < n ? (size_t)q : 0); /* past the end the first again: dropped */
            k[q] = pages[at];
            for (int i = 0; i < rows; i++) {
                s[i * at_once + q] = vf_set1(0.0f);
                /* column of lane 0: distance t - j */
                r[i * at_once + q] = a->rel + (ptrdiff_t)a->rel_zero - (ptrdiff_t)row[i].t + (ptrdiff_t)((p0 + at) * P);
            }
        }
        for (size_t d = 0; d < a->d_head; d++)
            for (int q = 0; q < at_once; q++) {
                const vf key = vf_ld(k[q] + d * P);
                for (int i = 0; i < rows; i++) {
                    vf *to = &s[i * at_once + q];
                    *to = vf_fma(vf_set1(row[i].qc[d]), key, *to);
                    *to = vf_fma(vf_set1(row[i].qr[d]), vf_ld(r[i * at_once + q] + d * a->rel_stride), *to);
                }
            }
        for (int i = 0; i < rows; i++)
            for (size_t q = 0; q < n; q++) {
                float *out = row[i].scores + (p + q) * P;
                vf_st(out, vf_mul(s[i * at_once + (int)q], scale));
                const size_t j0 = (p0 + p + q) * P;
                for (size_t l = 0; l < P && (j0 < row[i].lo || j0 + P > row[i].t); l++)
                    if (j0 + l < row[i].lo || j0 + l > row[i].t)
                        out[l] = -INFINITY;
                top[i] = vf_max(vf_ld(out), top[i]);
            }
    }
}

/* o += sum_j w_j v_j over positions from <= j < to, each output one chain over j. */
INLINED void attn_sum(const struct deq_attn_args *a, const struct deq_attn_row *row, size_t p0,
                      const float *const *pages, size_t from, size_t to, size_t c, vf *o, const int rows,
                      const int vecs)
{
    enum { P = DEQ_KV_PAGE_TOK };
    while (from < to) {
        const size_t end = DEQ_MIN(to, DEQ_ROUND_UP(from + 1, (size_t)P));
        const float *v = pages[from / P - p0] + (from % P) * a->v_stride + c;
        for (; from < end; from++, v += a->v_stride)
            for (int i = 0; i < rows; i++) {
                const vf w = vf_set1(row[i].scores[from - p0 * P]);
                for (int k = 0; k < vecs; k++)
                    o[i * vecs + k] = vf_fma(w, vf_ld(v + k * 16), o[i * vecs + k]);
            }
    }
}

/* Only positions that a row sees are read for it: a page may hold another sequence's leftovers past them, and another
 * row's position may not be finite. */
INLINED void attn_columns(const struct deq_attn_args *a, const struct deq_attn_row *row, size_t p0,
                          const float *const *pages, const float *inv, size_t c, const int rows, const int vecs)
{
    vf o[ATTN_TILE];
    for (int i = 0; i < rows * vecs; i++)
        o[i] = vf_set1(0.0f);
    if (rows == 1) {
        attn_sum(a, row, p0, pages, row->lo, row->t + 1, c, o, 1, vecs);
    } else {
        const struct deq_attn_row *last = row + 1;
        attn_sum(a, row, p0, pages, row->lo, DEQ_MIN(last->lo, row->t + 1), c, o, 1, vecs);
        attn_sum(a, row, p0, pages, last->lo, row->t + 1, c, o, 2, vecs);
        attn_sum(a, last, p0, pages, DEQ_MAX(last->lo, row->t + 1), last->t + 1, c, o + vecs, 1, vecs);
    }
    for (int i = 0; i < rows * vecs; i++)
        vf_st(row[i / vecs].out + c + i % vecs * 16, vf_mul(o[i], vf_set1(inv[i / vecs])));
}

/* All columns from c on that come in vectors of so many; returns where it stopped. */
INLINED size_t attn_values(const struct deq_attn_args *a, const struct deq_attn_row *row, size_t p0,
                           const float *const *pages, const float *inv, size_t c, const int rows, const int vecs)
{
    for (; c + 16 * (size_t)vecs <= a->v_stride; c += 16 * (size_t)vecs)
        attn_columns(a, row, p0, pages, inv, c, rows, vecs);
    return c;
}

INLINED void attn_rows(const struct deq_attn_args *a, size_t first, const int rows)
{
    enum { P = DEQ_KV_PAGE_TOK };
    const struct deq_attn_row *row = a->row + first;
    const size_t p0 = row[0].lo / P, n_pages = row[rows - 1].t / P - p0 + 1, skip = p0 - a->row[0].lo / P;
    vf top[ATTN_TILE];
    float inv[ATTN_TILE];
    attn_scores(a, row, p0, n_pages, a->k + skip, top, rows);
    for (int i = 0; i < rows; i++)
        inv[i] = 1.0f / exp_sum(row[i].scores, row[i].scores, vf_hmax(top[i]), n_pages * P);
    size_t c = attn_values(a, row, p0, a->v + skip, inv, 0, rows, ATTN_TILE / rows);
    if (rows < ATTN_TILE / 2)
        c = attn_values(a, row, p0, a->v + skip, inv, c, rows, ATTN_TILE / 2 / rows);
    (void)attn_values(a, row, p0, a->v + skip, inv, c, rows, 1);
}

static void attn(const struct deq_attn_args *a)
{
    size_t i = 0;
    for (; i + 2 <= a->n; i += 2)
        attn_rows(a, i, 2);
    if (i < a->n)
        attn_rows(a, i, 1);
}

#define KERN_STR2(x) #x
#define KERN_STR(x) KERN_STR2(x)
#define KERN_TABLE2(x) deq_kern_##x
#define KERN_TABLE(x) KERN_TABLE2(x)
const struct deq_kern KERN_TABLE(KERN);
const struct deq_kern KERN_TABLE(KERN) = {
    .name = KERN_STR(KERN),
    .mm = {[DEQ_FORMAT_F32] = mm_f32, [DEQ_FORMAT_BF16] = mm_bf16, [DEQ_FORMAT_I16] = mm_i16, [DEQ_FORMAT_I8] = mm_i8},
    .quantise = quantise,
    .attn = attn,
    .layernorm = layernorm,
    .layernorm_vjp = layernorm_vjp,
    .dot = dot,
    .diff_sumsq = diff_sumsq,
    .axpy = axpy,
    .add = add,
    .sub = sub,
    .mul = mul,
    .add_relu = add_relu,
    .max = max_of,
    .exp_sum = exp_sum,
    .scale = scale,
    .sigmoid = sigmoid,
    .tanh_of = tanh_of,
};
