/* The body of every kernel, compiled once per CPU level: the including file includes its vec_*.h first and defines KERN
 * (name), the tiles of mm_float.h, MM_INT, the file with its products of integers, and ATTN_TILE (sums of attention
 * that run side by side, in vectors). See kern.h for what each one does. */
#include "core/math/kern_ints.h"
#include "core/math/mm_float.h"

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

static float max(const float *x, size_t n)
{
    vf m = vf_set1(-INFINITY);
    for (size_t i = 0; i < n; i += 16)
        m = vf_max(ld_n(x + i, n - i, -INFINITY), m);
    return vf_hmax(m);
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
static inline vf vsigmoid(vf x)
{
    const vf one = vf_set1(1.0f), hi = vf_set1(87.0f), m = vf_sub(vf_set1(0.0f), x);
    return vf_div(one, vf_add(one, vexp(vf_lt_select(hi, m, hi, m))));
}

static void sigmoid(float *y, const float *x, size_t n)
{
    EACH(vsigmoid(ld_n(x + i, left, 0)))
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

static void swiglu(float *y, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        const vf x = ld_n(a + i, n - i, 0);
        st_n(y + i, vf_mul(vf_mul(x, vsigmoid(x)), ld_n(b + i, n - i, 0)), n - i);
    }
}

/* silu' = s + silu (1 - s), s = sigmoid(a) */
static void swiglu_vjp(const float *a, const float *b, const float *dy, float *d_a, float *d_b, size_t n)
{
    const vf one = vf_set1(1.0f);
    for (size_t i = 0; i < n; i += 16) {
        const size_t left = n - i;
        const vf x = ld_n(a + i, left, 0), d = ld_n(dy + i, left, 0), s = vsigmoid(x), silu = vf_mul(x, s),
                 by = vf_mul(d, ld_n(b + i, left, 0));
        st_n(d_a + i, vf_mul(by, vf_fma(silu, vf_sub(one, s), s)), left);
        st_n(d_b + i, vf_mul(d, silu), left);
    }
}

static void relu2(float *y, const float *x, size_t n)
{
    const vf zero = vf_set1(0.0f), half = vf_set1(0.5f);
    for (size_t i = 0; i < n; i += 16) {
        const vf r = vf_max(zero, ld_n(x + i, n - i, 0));
        st_n(y + i, vf_mul(vf_mul(r, r), half), n - i);
    }
}

static void relu2_vjp(const float *x, const float *dy, float *dx, size_t n)
{
    const vf zero = vf_set1(0.0f);
    for (size_t i = 0; i < n; i += 16)
        st_n(dx + i, vf_mul(ld_n(dy + i, n - i, 0), vf_max(zero, ld_n(x + i, n - i, 0))), n - i);
}

/* In plain C, as the compiler knows the shuffles. Each sum names its one rounding: of a*c - b*s beside b*c + a*s gcc
 * makes vfmaddsub, whatever -ffp-contract says. */
static inline void turn_pair(float *a, float *b, float c, float s)
{
    const float x = *a, y = *b, ys = y * s, xs = x * s;
    *a = fmaf(x, c, -ys);
    *b = fmaf(y, c, xs);
}

static void rope(float *x, const float *turn, size_t d, enum deq_rope_pairs pairs, bool back)
{
    const float sign = back ? -1.0f : 1.0f;
    if (pairs == DEQ_ROPE_HALVES)
        for (size_t i = 0; i < d / 2; i++)
            turn_pair(&x[i], &x[d / 2 + i], turn[2 * i], sign * turn[2 * i + 1]);
    else
        for (size_t i = 0; i < d; i += 2)
            turn_pair(&x[i], &x[i + 1], turn[i], sign * turn[i + 1]);
}

static void rmsnorm(const float *x, size_t n, float eps, const float *gain, float *y, float *ret_rstd)
{
    const float rstd = 1.0f / sqrtf(dot(x, x, n) / (float)n + eps);
    const vf rs = vf_set1(rstd);
    for (size_t i = 0; i < n; i += 16) {
        const vf v = vf_mul(ld_n(x + i, n - i, 0), rs);
        st_n(y + i, gain ? vf_mul(v, ld_n(gain + i, n - i, 0)) : v, n - i);
    }
    if (ret_rstd)
        *ret_rstd = rstd;
}

static void rmsnorm_vjp(const float *x, float rstd, size_t n, const float *gain, const float *dy, float *dx,
                        float *d_gain)
{
    const vf rs = vf_set1(rstd), one = vf_set1(1.0f);
    vf sum = vf_set1(0.0f);
    for (size_t i = 0; i < n; i += 16) {
        const size_t left = n - i;
        const vf xh = vf_mul(ld_n(x + i, left, 0), rs), d = ld_n(dy + i, left, 0);
        sum = vf_fma(vf_mul(d, gain ? ld_n(gain + i, left, 0) : one), xh, sum);
        if (d_gain)
            st_n(d_gain + i, vf_fma(d, xh, ld_n(d_gain + i, left, 0)), left);
    }
    const vf mean = vf_set1(vf_hsum(sum) / (float)n);
    for (size_t i = 0; i < n; i += 16) {
        const size_t left = n - i;
        const vf xh = vf_mul(ld_n(x + i, left, 0), rs),
                 g = vf_mul(ld_n(dy + i, left, 0), gain ? ld_n(gain + i, left, 0) : one);
        st_n(dx + i, vf_mul(rs, vf_sub(g, vf_mul(xh, mean))), left);
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

#include "core/math/kern_attn.h"

#include "core/math/kern_table.h"
