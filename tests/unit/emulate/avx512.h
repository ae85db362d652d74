/* The AVX-512 and VNNI intrinsics that kernels use, in plain C: SIMDe's, and here those that its oldest supported
 * version (Debian 12's 0.7.4) lacks, or rounds otherwise. */
#ifndef DEQ_TEST_EMULATE_AVX512_H
#define DEQ_TEST_EMULATE_AVX512_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <math.h>
#include <simde/x86/avx512.h>
#include <string.h>

/* one rounding, whatever SIMDe does where the machine has no such instruction */
static inline __m512 emulate_fmadd_ps(__m512 a, __m512 b, __m512 c)
{
    float x[16], y[16], z[16];
    memcpy(x, &a, sizeof x);
    memcpy(y, &b, sizeof y);
    memcpy(z, &c, sizeof z);
    for (int i = 0; i < 16; i++)
        z[i] = fmaf(x[i], y[i], z[i]);
    memcpy(&c, z, sizeof z);
    return c;
}
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps emulate_fmadd_ps

/* toward zero; what does not fit, and NaN: the smallest integer */
static inline __m512i emulate_cvttps_epi32(__m512 a)
{
    float x[16];
    int32_t y[16];
    __m512i r;
    memcpy(x, &a, sizeof x);
    for (int i = 0; i < 16; i++)
        y[i] = x[i] >= -0x1p31f && x[i] < 0x1p31f ? (int32_t)x[i] : INT32_MIN;
    memcpy(&r, y, sizeof r);
    return r;
}
#undef _mm512_cvttps_epi32
#define _mm512_cvttps_epi32 emulate_cvttps_epi32

/* to the nearest, ties to even */
static inline __m512 emulate_cvtepi32_ps(__m512i a)
{
    int32_t x[16];
    float y[16];
    __m512 r;
    memcpy(x, &a, sizeof x);
    for (int i = 0; i < 16; i++)
        y[i] = (float)x[i];
    memcpy(&r, y, sizeof r);
    return r;
}
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps emulate_cvtepi32_ps

static inline __m512i emulate_cvtepu16_epi32(__m256i a)
{
    uint16_t x[16];
    uint32_t y[16];
    __m512i r;
    memcpy(x, &a, sizeof x);
    for (int i = 0; i < 16; i++)
        y[i] = x[i];
    memcpy(&r, y, sizeof r);
    return r;
}
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 emulate_cvtepu16_epi32

/* the low byte of each */
static inline __m128i emulate_cvtepi32_epi8(__m512i a)
{
    uint32_t x[16];
    uint8_t y[16];
    __m128i r;
    memcpy(x, &a, sizeof x);
    for (int i = 0; i < 16; i++)
        y[i] = (uint8_t)x[i];
    memcpy(&r, y, sizeof r);
    return r;
}
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8 emulate_cvtepi32_epi8

static inline __m256 emulate_extractf32x8_ps(__m512 a, int half)
{
    __m256 r;
    memcpy(&r, (const char *)&a + (half & 1) * 32, sizeof r);
    return r;
}
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps emulate_extractf32x8_ps

/* of 0.7.4, whose own name takes the arguments of the masked one */
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 simde_mm512_madd_epi16

#ifndef _MM_FROUND_NO_EXC
#define _MM_FROUND_TO_NEAREST_INT SIMDE_MM_FROUND_TO_NEAREST_INT
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#endif

#endif
