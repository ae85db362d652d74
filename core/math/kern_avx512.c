/* Kernels for AVX-512 (F, DQ, BW, VL): 6 rows x 4 vectors = 24 of 32 registers accumulate. */
#ifdef __AVX512F__
#include "core/math/vec_avx512.h"
#define KERN avx512
#define MM_ROWS 6
#define MM_VECS 4
#define ATTN_TILE 8
#include "core/math/kern_body.h"
#else
typedef int deq_no_avx512;
#endif
