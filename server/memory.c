#include "server/memory.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

enum {
    DAEMON_BYTES = 4 << 20,   /* threads, HTTP, the log, what the allocator rounds up */
    STACK_BYTES = 8 << 20,    /* address space of a thread, where no limit says otherwise */
};

static bool read_number(const char *path, uint64_t *ret)
{
    char text[64] = "";
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    const bool any = fgets(text, sizeof text, f) != NULL;
    fclose(f);
    *ret = strtoull(text, NULL, 10);
    return any && text[0] >= '0' && text[0] <= '9'; /* or "max" */
}

/* The least of `file` in the cgroup `path` and those above it. In a container the path may be the host's, of which only the top is to be seen. */
static uint64_t lowest(const char *mount, const char *path, const char *file)
{
    char at[PATH_MAX], name[2 * PATH_MAX + 32];
    uint64_t least = UINT64_MAX, n;
    snprintf(at, sizeof at, "%s", path);
    for (;;) {
        snprintf(name, sizeof name, "%s%s/%s", mount, at, file);
        if (read_number(name, &n))
            least = DEQ_MIN(least, n);
        char *const slash = strrchr(at, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

uint64_t memory_cgroup_limit(const char *root, const char **ret_file)
{
    static const char *const v2 = "memory.max", *const v1 = "memory.limit_in_bytes";
    char line[PATH_MAX + 64], mount[PATH_MAX];
    uint64_t least = UINT64_MAX;
    snprintf(mount, sizeof mount, "%s/proc/self/cgroup", root);
    FILE *f = fopen(mount, "re");
    while (f && fgets(line, sizeof line, f)) { /* "0::/path", or "4:memory:/path" with a list of controllers */
        char *const controllers = strchr(line, ':'), *const path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path = 0;
        char *const where = path + 1;
        where[strcspn(where, "\n")] = 0;
        bool memory = false, any = false;
        for (char *save = NULL, *c = strtok_r(controllers + 1, ",", &save); c; c = strtok_r(NULL, ",", &save)) {
            any = true;
            memory = memory || !strcmp(c, "memory");
        }
        if (any && !memory)
            continue;
        snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s", root, any ? "/memory" : "");
        const uint64_t n = lowest(mount, strcmp(where, "/") ? where : "", any ? v1 : v2);
        if (n < least) {
            least = n;
            *ret_file = any ? v1 : v2;
        }
    }
    if (f)
        fclose(f);
    return least;
}

/* Address space and private resident memory of this process. */
static void used_now(uint64_t *ret_space, uint64_t *ret_resident)
{
    unsigned long long size = 0, resident = 0, shared = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%llu %llu %llu", &size, &resident, &shared) != 3)
        size = resident = shared = 0;
    if (f)
        fclose(f);
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    *ret_space = size * page;
    *ret_resident = (resident - DEQ_MIN(shared, resident)) * page;
}

static double mb(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

enum deq_rc memory_check(const struct conf *c, const struct deq_engine_opts *opts, struct deq_err *err)
{
    struct deq_memory m;
    struct rlimit space, stack;
    struct sysinfo machine;
    const char *file = NULL;
    char whose[64];
    uint64_t space_now, resident_now;
    const enum deq_rc rc = deq_check(c->model_path, opts, &m, err);
    if (rc)
        return rc;
    used_now(&space_now, &resident_now);
    const uint64_t model = m.weight_bytes + m.engine_bytes, resident = resident_now + model + DAEMON_BYTES;
    const uint64_t cgroup = memory_cgroup_limit("", &file);
    uint64_t need = resident, allowed = UINT64_MAX;
    if (!sysinfo(&machine)) {
        allowed = ((uint64_t)machine.totalram + machine.totalswap) * machine.mem_unit;
        snprintf(whose, sizeof whose, "this machine has");
    }
    if (cgroup < allowed) {
        allowed = cgroup;
        snprintf(whose, sizeof whose, "the cgroup's %s is", file);
    }
    if (need <= allowed && !getrlimit(RLIMIT_AS, &space) && space.rlim_cur != RLIM_INFINITY) {
        const bool known = !getrlimit(RLIMIT_STACK, &stack) && stack.rlim_cur != RLIM_INFINITY;
        allowed = space.rlim_cur;
        need = space_now + model + DAEMON_BYTES + (opts->threads + 1) * (known ? stack.rlim_cur : STACK_BYTES);
        snprintf(whose, sizeof whose, "RLIMIT_AS is");
    }
    if (need <= allowed)
        return DEQ_OK;
    return deq_fail(err, DEQ_EINVAL,
                    "memory: %.1f MiB are needed (weights %.1f, engine %.1f, the process itself %.1f), %s %.1f MiB: raise that, or lower engine.max_sequences, "
                    "engine.max_rows, engine.max_positions or engine.cache_bytes",
                    mb(need), mb(m.weight_bytes), mb(m.engine_bytes), mb(need - model), whose, mb(allowed));
}
