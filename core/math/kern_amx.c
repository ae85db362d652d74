/* Kernels for AVX-512 with AMX-INT8: those of AVX-512 (KERN_OF), and products of integers by tiles of bytes. */
#if defined(__AMX_INT8__) || defined(__AMXINT8__) || defined(DEQ_INTRINSICS) /* the second: clang 14 */
#include "core/math/vec_avx512.h"
#ifndef KERN
#define KERN amx
#define KERN_OF avx512
#endif
#define MM_INT "core/math/mm_int_amx.h"
#include "core/math/kern_ints.h"
#include "core/math/kern_table.h"
#else
typedef int deq_no_amx;
#endif
