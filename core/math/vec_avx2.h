/* Sixteen float lanes as two AVX2 registers; same bits as vec_ref.h. */
#include <immintrin.h>
#include <stdint.h>

typedef struct { __m256 lo, hi; } vf;

static inline vf vf_ld(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void vf_st(float *p, vf a) { _mm256_storeu_ps(p, a.lo); _mm256_storeu_ps(p + 8, a.hi); }
static inline vf vf_set1(float x) { return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline vf vf_add(vf a, vf b) { return (vf){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
static inline vf vf_sub(vf a, vf b) { return (vf){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
static inline vf vf_mul(vf a, vf b) { return (vf){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
static inline vf vf_div(vf a, vf b) { return (vf){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
static inline vf vf_max(vf a, vf b) { return (vf){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
static inline vf vf_fma(vf a, vf b, vf c)
{
    return (vf){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
static inline vf vf_round(vf a)
{
    return (vf){_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline __m256 vf_exp2i_half(__m256 n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127)), 23));
}
static inline vf vf_exp2i(vf n) { return (vf){vf_exp2i_half(n.lo), vf_exp2i_half(n.hi)}; }
static inline vf vf_lt_select(vf a, vf b, vf yes, vf no)
{
    return (vf){_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
                _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
static inline __m256 vf_ld_bf16_half(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
static inline vf vf_ld_bf16(const uint16_t *p) { return (vf){vf_ld_bf16_half(p), vf_ld_bf16_half(p + 8)}; }
/* integral lanes within 16 bits */
static inline void vf_st_i16(int16_t *p, vf a)
{
    const __m256i q = _mm256_packs_epi32(_mm256_cvttps_epi32(a.lo), _mm256_cvttps_epi32(a.hi));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_permute4x64_epi64(q, 0xd8));
}
static inline __m256i vf_ld_words(const int32_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline vf vf_ld_low(const int32_t *p)
{
    return (vf){_mm256_cvtepi32_ps(_mm256_slli_epi32(vf_ld_words(p), 16)),
                _mm256_cvtepi32_ps(_mm256_slli_epi32(vf_ld_words(p + 8), 16))};
}
static inline vf vf_ld_high(const int32_t *p)
{
    return (vf){_mm256_cvtepi32_ps(vf_ld_words(p)), _mm256_cvtepi32_ps(vf_ld_words(p + 8))};
}
static inline void vf_st_pairs_half(int32_t *p, __m256 low, __m256 high)
{
    const __m256i w = _mm256_add_epi32(_mm256_slli_epi32(_mm256_cvttps_epi32(high), 16), _mm256_cvttps_epi32(low));
    _mm256_storeu_si256((__m256i *)p, w);
}
static inline void vf_st_pairs(int32_t *p, vf low, vf high)
{
    vf_st_pairs_half(p, low.lo, high.lo);
    vf_st_pairs_half(p + 8, low.hi, high.hi);
}
static inline float vf_hsum(vf a)
{
    __m256 s = _mm256_add_ps(a.lo, a.hi);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
static inline float vf_hmax(vf a)
{
    __m256 s = _mm256_max_ps(a.lo, a.hi);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}
