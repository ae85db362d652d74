#include "core/math/peak.h"

#include <string.h>

#include "core/math/kern.h"

extern const struct deq_peak deq_peak_ref;
#if defined(__x86_64__)
extern const struct deq_peak deq_peak_avx2, deq_peak_avx512, deq_peak_vnni, deq_peak_amx;
#endif

const struct deq_peak *deq_peak(void)
{
    static const struct deq_peak *const levels[] = {
#if defined(__x86_64__)
        &deq_peak_amx, &deq_peak_vnni, &deq_peak_avx512, &deq_peak_avx2,
#endif
        &deq_peak_ref,
    };
    size_t i = 0;
    while (strcmp(levels[i]->level, deq_kern()->name) && i + 1 < DEQ_COUNT(levels))
        i++;
    return levels[i];
}
