/* core/math/kern_amx.c against intrinsics in plain C: the level's own code, on any machine. */
#define DEQ_INTRINSICS "tests/unit/emulate/avx512.h"
#include "tests/unit/emulate/amx.h"
#define KERN amx_emulated
#define KERN_OF avx512_emulated
#include "core/math/kern_amx.c"
