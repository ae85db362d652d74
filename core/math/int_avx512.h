/* Sixteen int32 sums of products of 16-bit numbers: eight outputs, two sums each (mm_int.h). */
#include <string.h>

typedef __m512i vi;
enum { VI_OUTPUTS = 8 };

static inline vi vi_zero(void) { return _mm512_setzero_si512(); }
static inline vi vi_w(const int8_t *p)
{
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline vi vi_x(const int16_t *p)
{
    long long four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi64(four);
}
static inline vi vi_madd(vi acc, vi w, vi x) { return _mm512_add_epi32(acc, _mm512_madd_epi16(w, x)); }
static inline void vi_store2(int32_t *out, vi a, vi b)
{
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    _mm512_storeu_si512(out, _mm512_add_epi32(_mm512_permutex2var_epi32(a, even, b),
                                              _mm512_permutex2var_epi32(a, _mm512_or_si512(even, _mm512_set1_epi32(1)),
                                                                        b)));
}
