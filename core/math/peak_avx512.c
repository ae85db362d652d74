/* Peaks of AVX-512 (F, DQ, BW, VL). */
#ifdef __AVX512F__
#include <immintrin.h>

#define PEAK avx512
#define OPAQUE(v) __asm__ volatile("" : "+v"(v))
#define FLOATS __m512
#define FLOAT_SET(x) _mm512_set1_ps(x)
#define FLOAT_MADD(x, w, sum) _mm512_fmadd_ps(x, w, sum)
#define FLOAT_INSTRUCTION "vfmadd231ps zmm"
#define FLOAT_LANES 16
#define FLOAT_CHAINS 12
#define INTEGERS __m512i
#define INTEGER_SET(x) _mm512_set1_epi16(x)
#define INTEGER_MADD(x, w, sum) _mm512_add_epi32(sum, _mm512_madd_epi16(x, w))
#define INTEGER_INSTRUCTION "vpmaddwd, vpaddd zmm"
#define INTEGER_LANES 32
#define INTEGER_CHAINS 12
#define WORDS __m512i
#define WORD_ZERO _mm512_setzero_si512()
#define WORD_LOAD(p) _mm512_loadu_si512(p)
#define WORD_OR(a, b) _mm512_or_si512(a, b)
#include "core/math/peak_body.h"
#else
typedef int deq_no_avx512_peak;
#endif
