/* core/math/kern_avx512.c against intrinsics in plain C: the level's own code, on any machine. */
#define DEQ_INTRINSICS "tests/unit/emulate/avx512.h"
#define KERN avx512_emulated
#include "core/math/kern_avx512.c"
