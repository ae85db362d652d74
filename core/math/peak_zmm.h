/* What the peaks of all levels with AVX-512 have in common (peak_body.h). */
#include <immintrin.h>

#define OPAQUE(v) __asm__ volatile("" : "+v"(v))
#define FLOATS __m512
#define FLOAT_SET(x) _mm512_set1_ps(x)
#define FLOAT_MADD(x, w, sum) _mm512_fmadd_ps(x, w, sum)
#define FLOAT_INSTRUCTION "vfmadd231ps zmm"
#define FLOAT_LANES 16
#define FLOAT_CHAINS 12
#define WORDS __m512i
#define WORD_ZERO _mm512_setzero_si512()
#define WORD_LOAD(p) _mm512_loadu_si512(p)
#define WORD_OR(a, b) _mm512_or_si512(a, b)
