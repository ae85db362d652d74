/* Kernels for AVX-512 with VNNI: those of AVX-512, and products of integers by bytes. */
#if defined(__AVX512VNNI__) || defined(DEQ_INTRINSICS)
#include "core/math/vec_avx512.h"
#include "core/math/tiles_avx512.h"
#ifndef KERN
#define KERN vnni
#endif
#define MM_INT "core/math/mm_int_vnni.h"
#include "core/math/kern_body.h"
#else
typedef int deq_no_vnni;
#endif
