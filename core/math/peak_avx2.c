/* Peaks of AVX2 + FMA. An FMA takes four or five cycles and two begin in one; integer sums take one cycle. */
#ifdef __AVX2__
#include <immintrin.h>

#define PEAK avx2
#define OPAQUE(v) __asm__ volatile("" : "+x"(v))
#define FLOATS __m256
#define FLOAT_SET(x) _mm256_set1_ps(x)
#define FLOAT_MADD(x, w, sum) _mm256_fmadd_ps(x, w, sum)
#define FLOAT_INSTRUCTION "vfmadd231ps ymm"
#define FLOAT_LANES 8
#define FLOAT_CHAINS 12
#define INTEGERS __m256i
#define INTEGER_SET(x) _mm256_set1_epi16(x)
#define INTEGER_MADD(x, w, sum) _mm256_add_epi32(sum, _mm256_madd_epi16(x, w))
#define INTEGER_INSTRUCTION "vpmaddwd, vpaddd ymm"
#define INTEGER_LANES 16
#define INTEGER_CHAINS 6
#define PER_BYTE 1
#define WORDS __m256i
#define WORD_ZERO _mm256_setzero_si256()
#define WORD_LOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define WORD_OR(a, b) _mm256_or_si256(a, b)
#include "core/math/peak_body.h"
#else
typedef int deq_no_avx2_peak; /* a translation unit may not be empty */
#endif
