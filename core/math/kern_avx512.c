/* Kernels for AVX-512 (F, DQ, BW, VL): 24 of 32 registers accumulate. */
#if defined(__AVX512F__) || defined(DEQ_INTRINSICS)
#include "core/math/vec_avx512.h"
#include "core/math/int_avx512.h"
#ifndef KERN
#define KERN avx512
#endif
#define MM_ROWS 6
#define MM_VECS 4
#define MM_VECS_FEW 4
#define MMI_ROWS 6
#define MMI_VECS 4
#define MMI_VECS_FEW 4
#define MMI_VECS_ONE 4
#define MM_INT "core/math/mm_int_pairs.h"
#define ATTN_TILE 8
#include "core/math/kern_body.h"
#else
typedef int deq_no_avx512;
#endif
