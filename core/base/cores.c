#define _GNU_SOURCE
#include "core/base/cores.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
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

/* What this process holds. */
static struct {
    unsigned users; /* pools with a thread on this core */
    int claim;      /* the socket; -1: another process has the name, or there are no sockets */
} held[CPU_SETSIZE];
static pthread_mutex_t held_lock = PTHREAD_MUTEX_INITIALIZER;

static int claim(unsigned core)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX}; /* abstract: the path begins with a zero byte */
    const int len = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "deqd-core-%u", core);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&name, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len))) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Caller holds held_lock, as for drop. Whether it is this process's alone. */
static bool hold(unsigned core)
{
    if (!held[core].users++)
        held[core].claim = claim(core);
    return held[core].claim >= 0;
}

static void drop(unsigned core)
{
    if (!--held[core].users && held[core].claim >= 0)
        close(held[core].claim);
}

void deq_cores_give_back(unsigned n, const uint16_t *core)
{
    pthread_mutex_lock(&held_lock);
    for (unsigned i = 0; i < n; i++)
        drop(core[i]);
    pthread_mutex_unlock(&held_lock);
}

bool deq_cores_take(enum deq_pin pin, unsigned n, uint16_t *ret_core)
{
    cpu_set_t set;
    if (pin == DEQ_PIN_NEVER || n < 2 || sched_getaffinity(0, sizeof set, &set) || (unsigned)CPU_COUNT(&set) < n)
        return false;
    if (pin == DEQ_PIN_AUTO && ((unsigned)CPU_COUNT(&set) > n || deq_cores_quota("") < n))
        return false;
    bool alone = true;
    pthread_mutex_lock(&held_lock);
    for (unsigned core = 0, i = 0; i < n; core++)
        if (CPU_ISSET(core, &set)) {
            alone = hold(core) && alone;
            ret_core[i++] = (uint16_t)core;
        }
    pthread_mutex_unlock(&held_lock);
    if (pin == DEQ_PIN_AUTO && !alone) {
        deq_cores_give_back(n, ret_core);
        return false;
    }
    return true;
}
