/* Kernels for AVX2 + FMA (x86-64-v3): 3 rows x 2 vectors = 12 of 16 registers accumulate. */
#ifdef __AVX2__
#include "core/math/vec_avx2.h"
#define KERN avx2
#define MM_ROWS 3
#define MM_VECS 2
#define ATTN_TILE 4
#include "core/math/kern_body.h"
#else
typedef int deq_no_avx2; /* a translation unit may not be empty */
#endif
