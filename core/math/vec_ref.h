/* Sixteen float lanes in plain C: the readable truth of vec_avx2.h and vec_avx512.h, which give the same bits. */
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct { float v[16]; } vf;

#define VF_MAP(expr)                \
    vf r;                           \
    for (int i = 0; i < 16; i++)    \
        r.v[i] = (expr);            \
    return r

static inline vf vf_ld(const float *p) { VF_MAP(p[i]); }
static inline void vf_st(float *p, vf a) { memcpy(p, a.v, sizeof a.v); }
static inline vf vf_set1(float x) { VF_MAP(x); }
static inline vf vf_add(vf a, vf b) { VF_MAP(a.v[i] + b.v[i]); }
static inline vf vf_sub(vf a, vf b) { VF_MAP(a.v[i] - b.v[i]); }
static inline vf vf_mul(vf a, vf b) { VF_MAP(a.v[i] * b.v[i]); }
static inline vf vf_div(vf a, vf b) { VF_MAP(a.v[i] / b.v[i]); }
static inline vf vf_fma(vf a, vf b, vf c) { VF_MAP(fmaf(a.v[i], b.v[i], c.v[i])); }
/* as the instruction: b when either is NaN */
static inline vf vf_max(vf a, vf b) { VF_MAP(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline vf vf_round(vf a) { VF_MAP(nearbyintf(a.v[i])); }
/* 2^n for integral n in -126..127; anything finite for other n (a NaN's sign, say), which
 * the caller multiplies by NaN */
static inline vf vf_exp2i(vf n)
{
    vf r;
    for (int i = 0; i < 16; i++) {
        uint32_t bits = n.v[i] >= -126 && n.v[i] <= 127 ? (uint32_t)((int32_t)n.v[i] + 127) << 23 : 0;
        memcpy(&r.v[i], &bits, 4);
    }
    return r;
}
/* lane: a < b ? yes : no */
static inline vf vf_lt_select(vf a, vf b, vf yes, vf no) { VF_MAP(a.v[i] < b.v[i] ? yes.v[i] : no.v[i]); }
static inline vf vf_ld_bf16(const uint16_t *p)
{
    vf r;
    for (int i = 0; i < 16; i++) {
        uint32_t bits = (uint32_t)p[i] << 16;
        memcpy(&r.v[i], &bits, 4);
    }
    return r;
}
static inline void vf_st_i16(int16_t *p, vf a)
{
    for (int i = 0; i < 16; i++)
        p[i] = (int16_t)a.v[i];
}
/* words that hold two 16-bit numbers, 65536 * high + low: the low numbers, and the whole words, which are the high ones
 * but for a fraction; both 65536 times as large */
static inline vf vf_ld_low(const int32_t *p) { VF_MAP((float)(int32_t)((uint32_t)p[i] << 16)); }
static inline vf vf_ld_high(const int32_t *p) { VF_MAP((float)p[i]); }
static inline void vf_st_pairs(int32_t *p, vf low, vf high)
{
    for (int i = 0; i < 16; i++)
        p[i] = (int32_t)high.v[i] * 65536 + (int32_t)low.v[i];
}
/* fixed tree: lanes i and i+8, then +4, +2, +1 */
static inline float vf_hsum(vf a)
{
    for (int w = 8; w; w /= 2)
        for (int i = 0; i < w; i++)
            a.v[i] += a.v[i + w];
    return a.v[0];
}
static inline float vf_hmax(vf a)
{
    for (int w = 8; w; w /= 2)
        for (int i = 0; i < w; i++)
            a.v[i] = a.v[i] > a.v[i + w] ? a.v[i] : a.v[i + w];
    return a.v[0];
}
#undef VF_MAP
