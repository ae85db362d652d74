/* Peaks of AVX-512 with VNNI. */
#ifdef __AVX512VNNI__
#include "core/math/peak_zmm.h"
#define PEAK vnni
#define INTEGERS __m512i
#define INTEGER_SET(x) _mm512_set1_epi8(x)
#define INTEGER_MADD(x, w, sum) _mm512_dpbusd_epi32(sum, x, w)
#define INTEGER_INSTRUCTION "vpdpbusd zmm"
#define INTEGER_LANES 64
#define INTEGER_CHAINS 12
#define PER_BYTE 2
#include "core/math/peak_body.h"
#else
typedef int deq_no_vnni_peak;
#endif
