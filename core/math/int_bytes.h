/* Prepared rows as two planes of bytes, x = 256 x1 + x0, for units that multiply bytes: x1 of 64 numbers, then x0 of
 * the same, and so on. A block of numbers lies where it would lie as 16-bit numbers. */
#include <stdint.h>
#include <string.h>

enum { INT_GROUP = 64 };
#define INT_BYTES_AT(i) ((i) / INT_GROUP * 2 * INT_GROUP + (i) % INT_GROUP)

/* Numbers i .. i+15, integral and within 16 bits; offset: what is added to x1. */
static inline void int_bytes_put(void *row, size_t i, vf a, int offset)
{
    uint8_t *to = (uint8_t *)row + INT_BYTES_AT(i);
    const __m512i q = _mm512_cvttps_epi32(a), high = _mm512_add_epi32(q, _mm512_set1_epi32(256 * offset));
    _mm_storeu_si128((__m128i *)(void *)to, _mm512_cvtepi32_epi8(_mm512_srli_epi32(high, 8)));
    _mm_storeu_si128((__m128i *)(void *)(to + INT_GROUP), _mm512_cvtepi32_epi8(q));
}
