/* What a level with units of its own for products of integers has of its own, a part of kern_body.h: those products and
 * the rows they read. The including file includes its vec_*.h first and defines MM_INT, the file with the products. */
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

#include MM_INT

/* The scale t of numbers x ~ t q of 16 bits: 0 when x is nowhere 1e-30 (below, its inverse would not be a float), NaN
 * when it is not finite; by: 1 / t, or 0 for those two. */
static float int_scale(const float *x, size_t n, float *ret_by)
{
    const vf zero = vf_set1(0.0f);
    vf top = zero, odd = zero; /* odd: 0, or NaN when a number is not finite */
    for (size_t i = 0; i < n; i += 16) {
        const vf v = ld_n(x + i, n - i, 0);
        top = vf_max(vf_max(v, vf_sub(zero, v)), top);
        odd = vf_fma(v, zero, odd);
    }
    const float most = vf_hmax(top), not_finite = vf_hsum(odd);
    const bool some = most >= 1e-30f && not_finite == 0;
    *ret_by = some ? (float)DEQ_INT_TOP / most : 0.0f;
    return some ? most / (float)DEQ_INT_TOP : not_finite;
}

static void quantise(const float *x, size_t n, void *row)
{
    void *const numbers = (char *)row + DEQ_OPERAND_HEAD;
    float by;
    const float t = int_scale(x, n, &by);
    memset(row, 0, DEQ_OPERAND_HEAD);
    memcpy(row, &t, sizeof t);
    const size_t depth = deq_int_depth(n);
    for (size_t i = 0; i < depth; i += 16) {
        const vf v = by != 0 && i < n ? ld_n(x + i, n - i, 0) : vf_set1(0.0f);
        mmi_put(numbers, i, vf_round(vf_mul(v, vf_set1(by))));
    }
}
