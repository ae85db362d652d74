#include "core/math/kern.h"

#include <stdatomic.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern const struct deq_kern deq_kern_ref;

static bool have_ref(void)
{
    return true;
}

#if defined(__x86_64__)
extern const struct deq_kern deq_kern_avx2, deq_kern_avx512, deq_kern_vnni, deq_kern_amx;

/* the builtin also asks whether the system saves the registers */
static bool have_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool have_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

static bool have_vnni(void)
{
    return have_avx512() && __builtin_cpu_supports("avx512vnni");
}

/* Linux saves the tiles of a process that has asked for them; its threads inherit that. A system that does not know of
 * them refuses, and so it does where a thread's stack for signals has no room for them. */
static bool have_amx(void)
{
    enum { REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18, AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25 };
    unsigned a, b, c, d;
    return have_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AMX_TILE) && (d & AMX_INT8) &&
           !syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA);
}
#endif

/* best first */
static const struct {
    const struct deq_kern *kern;
    bool (*have)(void);
} levels[] = {
#if defined(__x86_64__)
    {&deq_kern_amx, have_amx},   {&deq_kern_vnni, have_vnni}, {&deq_kern_avx512, have_avx512},
    {&deq_kern_avx2, have_avx2},
#endif
    {&deq_kern_ref, have_ref},
};

static _Atomic(const struct deq_kern *) chosen;

const struct deq_kern *deq_kern_level(const char *name)
{
    for (size_t i = 0; i < DEQ_COUNT(levels); i++)
        if (!strcmp(levels[i].kern->name, name))
            return levels[i].have() ? levels[i].kern : NULL;
    return NULL;
}

void deq_kern_use(const struct deq_kern *k)
{
    atomic_store(&chosen, k);
}

bool deq_kern_force(const char *name)
{
    const struct deq_kern *k = deq_kern_level(name);
    if (k)
        deq_kern_use(k);
    return k != NULL;
}

const struct deq_kern *deq_kern(void)
{
    const struct deq_kern *k = atomic_load_explicit(&chosen, memory_order_relaxed);
    for (size_t i = 0; !k; i++)
        if (levels[i].have())
            deq_kern_use(k = levels[i].kern);
    return k;
}
