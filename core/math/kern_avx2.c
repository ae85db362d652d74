/* Kernels for AVX2 + FMA (x86-64-v3): 12 of 16 registers accumulate. */
#ifdef __AVX2__
#include "core/math/vec_avx2.h"
#include "core/math/int_avx2.h"
#define KERN avx2
#define MM_ROWS 6
#define MM_VECS 1
#define MM_VECS_FEW 2
#define MMI_ROWS 6
#define MMI_VECS 2
#define MMI_VECS_FEW 4
#define MMI_VECS_ONE 8
#define MM_INT "core/math/mm_int_pairs.h"
#define ATTN_TILE 4
#include "core/math/kern_body.h"
#else
typedef int deq_no_avx2; /* a translation unit may not be empty */
#endif
