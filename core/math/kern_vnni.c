/* Kernels for AVX-512 with VNNI: those of AVX-512 (KERN_OF), and products of integers by bytes. */
#if defined(__AVX512VNNI__) || defined(DEQ_INTRINSICS)
#include "core/math/vec_avx512.h"
#ifndef KERN
#define KERN vnni
#define KERN_OF avx512
#endif
#define MM_INT "core/math/mm_int_vnni.h"
#include "core/math/kern_ints.h"
#include "core/math/kern_table.h"
#else
typedef int deq_no_vnni;
#endif
