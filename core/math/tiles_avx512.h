/* The tiles of floats that AVX-512's registers hold: 24 of 32 accumulate (mm_float.h, kern_attn.h). */
#define MM_ROWS 6
#define MM_VECS 4
#define MM_VECS_FEW 4
#define ATTN_TILE 8
