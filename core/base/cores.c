#define _GNU_SOURCE
#include "core/base/cores.h"

#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/cgroup.h"

/* The quota of one cgroup. A share of less than the next whole processor is left to the threads that do not compute. */
static void least_quota(void *ctx, const char *dir, bool v1)
{
    unsigned *least = ctx;
    char text[64], period_text[64], *end;
    long long quota, period = 0;
    if (!deq_cgroup_read(dir, v1 ? "cpu.cfs_quota_us" : "cpu.max", text, sizeof text))
        return;
    /* v2: "200000 100000", or "max 100000"; v1: -1 is none, and the period stands in a file of its own */
    quota = strtoll(text, &end, 10);
    if (!v1)
        period = strtoll(end, NULL, 10);
    else if (deq_cgroup_read(dir, "cpu.cfs_period_us", period_text, sizeof period_text))
        period = strtoll(period_text, NULL, 10);
    if (quota > 0 && period > 0 && quota / period < UINT_MAX)
        *least = DEQ_MIN(*least, (unsigned)DEQ_MAX(quota / period, 1ll));
}

unsigned deq_cores_quota(const char *root)
{
    unsigned least = UINT_MAX;
    deq_cgroup_each(root, "cpu", least_quota, &least);
    return least;
}

unsigned deq_cores(void)
{
    cpu_set_t set;
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    /* fails where there are more than the set holds */
    const unsigned allowed = sched_getaffinity(0, sizeof set, &set) ? (unsigned)DEQ_MAX(online, 1l)
                                                                    : (unsigned)CPU_COUNT(&set);
    return DEQ_MIN(DEQ_MIN(allowed, deq_cores_quota("")), 256u);
}
