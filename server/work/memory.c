#define _GNU_SOURCE
#include "server/work/memory.h"

#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "core/base/cgroup.h"

enum {
    DAEMON_BYTES = 4 << 20, /* threads, HTTP, the log, what the allocator rounds up */
    OWN_THREADS = 6, /* for the log, the watcher, large bodies, the supervisor, the admin listener, a reload */
};

struct limit {
    uint64_t least;
    const char *file;
};

static void least_limit(void *ctx, const char *dir, bool v1)
{
    struct limit *l = ctx;
    const char *const file = v1 ? "memory.limit_in_bytes" : "memory.max";
    char text[64];
    if (!deq_cgroup_read(dir, file, text, sizeof text) || text[0] < '0' || text[0] > '9') /* or "max" */
        return;
    const uint64_t n = strtoull(text, NULL, 10);
    if (n < l->least)
        *l = (struct limit){n, file};
}

uint64_t memory_cgroup_limit(const char *root, const char **ret_file)
{
    struct limit l = {UINT64_MAX, *ret_file};
    deq_cgroup_each(root, "memory", least_limit, &l);
    *ret_file = l.file;
    return l.least;
}

static bool space_limit(struct rlimit *ret)
{
    return !getrlimit(RLIMIT_AS, ret) && ret->rlim_cur != RLIM_INFINITY;
}

void memory_begin(void)
{
    struct rlimit space;
    if (space_limit(&space))
        (void)mallopt(M_ARENA_MAX, 1);
}

/* Addresses for the stacks of threads that are yet to come: of an engine, and of the daemon's own that do not run
 * already. */
static uint64_t stacks_to_come(const struct conf *c, const struct deq_engine_opts *opts)
{
    pthread_attr_t attr;
    size_t stack = 0;
    unsigned running = 1;
    char line[128];
    const unsigned own = OWN_THREADS + DEQ_MAX(c->http_threads, 2u);
    if (!pthread_getattr_default_np(&attr)) {
        (void)pthread_attr_getstacksize(&attr, &stack);
        pthread_attr_destroy(&attr);
    }
    FILE *f = fopen("/proc/self/status", "re");
    /* NOLINTNEXTLINE(cert-err34-c): the kernel's numbers */
    while (f && fgets(line, sizeof line, f) && sscanf(line, "Threads: %u", &running) != 1)
        ;
    if (f)
        fclose(f);
    return ((uint64_t)opts->threads + 1 + own - DEQ_MIN(own, running - 1)) * stack;
}

/* Address space and private resident memory of this process. */
static void used_now(uint64_t *ret_space, uint64_t *ret_resident)
{
    unsigned long long size = 0, resident = 0, shared = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    /* NOLINTNEXTLINE(cert-err34-c): the same */
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
    struct rlimit space;
    struct sysinfo machine;
    const char *file = NULL;
    char whose[64];
    uint64_t space_now, resident_now;
    enum deq_class numeric;
    const enum deq_rc rc = deq_check(c->model_path, conf_numeric(c, &numeric), opts, &m, err);
    if (rc)
        return rc;
    used_now(&space_now, &resident_now);
    const uint64_t model = m.weight_bytes + DEQ_MAX(m.engine_bytes, m.load_bytes);
    const uint64_t to_come = model + c->answer_bytes + DAEMON_BYTES;
    const uint64_t cgroup = memory_cgroup_limit("", &file);
    uint64_t need = resident_now + to_come, allowed = UINT64_MAX;
    if (!sysinfo(&machine)) {
        allowed = ((uint64_t)machine.totalram + machine.totalswap) * machine.mem_unit;
        snprintf(whose, sizeof whose, "this machine has");
    }
    if (cgroup < allowed) {
        allowed = cgroup;
        snprintf(whose, sizeof whose, "the cgroup's %s is", file);
    }
    if (need <= allowed && space_limit(&space)) {
        allowed = space.rlim_cur;
        need = space_now + to_come + stacks_to_come(c, opts);
        snprintf(whose, sizeof whose, "RLIMIT_AS is");
    }
    if (need <= allowed)
        return DEQ_OK;
    return deq_fail(err, DEQ_EINVAL,
                    "memory: %.1f MiB are needed (weights %.1f, %s %.1f, answers %.1f, the process itself %.1f), %s "
                    "%.1f MiB: raise that, or lower engine.max_sequences, engine.max_rows, engine.max_positions, "
                    "engine.cache_bytes or limits.answer_bytes",
                    mb(need), mb(m.weight_bytes), m.load_bytes > m.engine_bytes ? "reading them" : "engine",
                    mb(model - m.weight_bytes), mb(c->answer_bytes), mb(need - model - c->answer_bytes), whose,
                    mb(allowed));
}
