/* Kernels for AVX-512 with AMX-INT8: those of AVX-512, and products of integers by tiles of bytes. */
#if defined(__AMX_INT8__) || defined(DEQ_INTRINSICS)
#include "core/math/vec_avx512.h"
#include "core/math/tiles_avx512.h"
#ifndef KERN
#define KERN amx
#endif
#define MM_INT "core/math/mm_int_amx.h"
#include "core/math/kern_body.h"
#else
typedef int deq_no_amx;
#endif
