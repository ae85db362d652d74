#include "core/math/kern.h"

#include <stdatomic.h>
#include <string.h>

extern const struct deq_kern deq_kern_ref;
#if defined(__x86_64__)
extern const struct deq_kern deq_kern_avx2, deq_kern_avx512;
#endif

/* best first */
static const struct deq_kern *available(size_t i)
{
#if defined(__x86_64__)
    /* the builtin also asks whether the system saves the registers */
    if (i == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
                   ? &deq_kern_avx512
                   : NULL;
    if (i == 1)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &deq_kern_avx2 : NULL;
#endif
    return i == 2 ? &deq_kern_ref : NULL;
}

static _Atomic(const struct deq_kern *) chosen;

const struct deq_kern *deq_kern_level(const char *name)
{
    for (size_t i = 0; i < 3; i++) {
        const struct deq_kern *k = available(i);
        if (k && !strcmp(k->name, name))
            return k;
    }
    return NULL;
}

bool deq_kern_force(const char *name)
{
    const struct deq_kern *k = deq_kern_level(name);
    if (k)
        atomic_store(&chosen, k);
    return k != NULL;
}

const struct deq_kern *deq_kern(void)
{
    const struct deq_kern *k = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (k)
        return k;
    for (size_t i = 0; i < 3 && !k; i++)
        k = available(i);
    atomic_store(&chosen, k);
    return k;
}
