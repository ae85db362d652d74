/* Kernels for any CPU, in plain C. */
#include "core/math/vec_ref.h"
#define KERN ref
#define MM_ROWS 1
#define MM_VECS 1
#define MM_VECS_FEW 1
#define MM_INT "core/math/mm_int_ref.h"
#define ATTN_TILE 4
#include "core/math/kern_body.h"
