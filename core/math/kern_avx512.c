/* Kernels for AVX-512 (F, DQ, BW, VL): 24 of 32 registers accumulate. */
#ifdef __AVX512F__
#include "core/math/vec_avx512.h"
#include "core/math/int_avx512.h"
#define KERN avx512
#define MM_ROWS 6
#define MM_VECS 4
#define MM_VECS_FEW 4
#define MMI_ROWS 6
#define MMI_VECS 4
#define MMI_VECS_FEW 4
#define MMI_VECS_ONE 4
#define MM_INT "core/math/mm_int.h"
#define ATTN_TILE 8
#define STRIP_ROWS 12
#define STRIP_VECS 2
#include "core/math/kern_body.h"
#else
typedef int deq_no_avx512;
#endif
