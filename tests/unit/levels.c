#include "tests/unit/levels.h"

extern const struct deq_kern deq_kern_avx512_emulated, deq_kern_vnni_emulated, deq_kern_amx_emulated;

const char *const level_names[LEVELS] = {
    "ref", "avx2", "avx512", "vnni", "amx", "avx512_emulated", "vnni_emulated", "amx_emulated",
};
const struct deq_kern *levels[LEVELS];

void find_levels(void)
{
    for (int i = 0; i < LEVELS_OF_MACHINES; i++)
        levels[i] = deq_kern_level(level_names[i]);
    levels[5] = &deq_kern_avx512_emulated;
    levels[6] = &deq_kern_vnni_emulated;
    levels[7] = &deq_kern_amx_emulated;
}

bool force_level(int i)
{
    if (levels[i])
        deq_kern_use(levels[i]);
    return levels[i] != NULL;
}

bool slow_level(int i)
{
    return i == 0 || i >= LEVELS_OF_MACHINES;
}
