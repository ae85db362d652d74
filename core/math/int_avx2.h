/* Eight int32 sums of products of 16-bit numbers: four outputs, two sums each (mm_int.h). */
#include <string.h>

typedef __m256i vi;
enum { VI_OUTPUTS = 4 };

static inline vi vi_zero(void) { return _mm256_setzero_si256(); }
static inline vi vi_w(const int8_t *p)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline vi vi_x(const int16_t *p)
{
    long long four;
    memcpy(&four, p, sizeof four);
    return _mm256_set1_epi64x(four);
}
static inline vi vi_madd(vi acc, vi w, vi x) { return _mm256_add_epi32(acc, _mm256_madd_epi16(w, x)); }
static inline void vi_store2(int32_t *out, vi a, vi b)
{
    _mm256_storeu_si256((__m256i *)(void *)out, _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8));
}
