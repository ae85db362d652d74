#define _GNU_SOURCE
#include "core/base/cores.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The file's one line; false when there is none. */
static bool read_line(const char *path, char *ret, int cap)
{
    FILE *f = fopen(path, "re");
    const bool ok = f && fgets(ret, cap, f);
    if (f)
        fclose(f);
    return ok;
}

/* The quota of one cgroup's directory. A share of less than the next whole processor is left to the threads that do not compute. */
static unsigned quota_of(const char *dir)
{
    char path[PATH_MAX + 32], text[64], period_text[64];
    long long quota, period = 0;
    char *end;
    snprintf(path, sizeof path, "%s/cpu.max", dir); /* "200000 100000", or "max 100000" */
    if (read_line(path, text, sizeof text)) {
        quota = strtoll(text, &end, 10);
        period = strtoll(end, NULL, 10);
    } else {
        snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", dir); /* -1: none */
        if (!read_line(path, text, sizeof text))
            return UINT_MAX;
        snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
        quota = strtoll(text, NULL, 10);
        period = read_line(path, period_text, sizeof period_text) ? strtoll(period_text, NULL, 10) : 0;
    }
    return quota <= 0 || period <= 0 || quota / period >= UINT_MAX ? UINT_MAX : (unsigned)DEQ_MAX(quota / period, 1ll);
}

unsigned deq_cores_quota(const char *root)
{
    char line[PATH_MAX], dir[PATH_MAX];
    unsigned least = UINT_MAX;
    snprintf(dir, sizeof dir, "%s/proc/self/cgroup", root);
    FILE *f = fopen(dir, "re");
    while (f && fgets(line, sizeof line, f)) { /* "0::/path" of v2; "3:cpu,cpuacct:/path" of v1, mounted by the list's name or by "cpu" */
        char *const names = strchr(line, ':'), *const path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *path = 0;
        bool cpu = !names[1];
        for (const char *n = names; n && !cpu; n = strchr(n + 1, ','))
            cpu = !strncmp(n + 1, "cpu", 3) && (!n[4] || n[4] == ',');
        if (!cpu)
            continue;
        path[1 + strcspn(path + 1, "\n")] = 0;
        const int top = snprintf(dir, sizeof dir, "%s/sys/fs/cgroup%s", root, names[1] ? "/cpu" : "");
        const int n = snprintf(dir + top, sizeof dir - (size_t)top, "%s", path + 1);
        if (top + n >= (int)sizeof dir)
            continue;
        /* this one and all above it; in a container the path may be the host's, of which only the top is to be seen */
        for (char *slash; (least = DEQ_MIN(least, quota_of(dir))), (slash = strrchr(dir + top, '/')) != NULL;)
            *slash = 0;
    }
    if (f)
        fclose(f);
    return least;
}

unsigned deq_cores(void)
{
    cpu_set_t set;
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    /* fails where there are more than the set holds */
    const unsigned allowed = sched_getaffinity(0, sizeof set, &set) ? (unsigned)DEQ_MAX(online, 1l) : (unsigned)CPU_COUNT(&set);
    return DEQ_MIN(DEQ_MIN(allowed, deq_cores_quota("")), 256u);
}
