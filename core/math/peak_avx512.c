/* Peaks of AVX-512 (F, DQ, BW, VL). */
#ifdef __AVX512F__
#include "core/math/peak_zmm.h"
#define PEAK avx512
#define INTEGERS __m512i
#define INTEGER_SET(x) _mm512_set1_epi16(x)
#define INTEGER_MADD(x, w, sum) _mm512_add_epi32(sum, _mm512_madd_epi16(x, w))
#define INTEGER_INSTRUCTION "vpmaddwd, vpaddd zmm"
#define INTEGER_LANES 32
#define INTEGER_CHAINS 12
#define PER_BYTE 1
#include "core/math/peak_body.h"
#else
typedef int deq_no_avx512_peak;
#endif
