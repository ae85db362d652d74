/* How many threads can run at once: files of cgroups as kernels write them, in a tree of our own. */
#define _GNU_SOURCE
#include "core/base/cores.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/test.h"

static char root[64];

static void put(const char *path, const char *text)
{
    char at[256];
    snprintf(at, sizeof at, "%s/%s", root, path);
    for (char *slash = at + strlen(root) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        mkdir(at, 0755);
    }
    FILE *f = fopen(at, "w");
    CHECK(f && fputs(text, f) >= 0 && !fclose(f));
}

static void begin(const char *cgroup)
{
    snprintf(root, sizeof root, "/tmp/deqd-cores-XXXXXX");
    REQUIRE(mkdtemp(root));
    if (cgroup)
        put("proc/self/cgroup", cgroup);
}

static unsigned end(void)
{
    char command[96];
    const unsigned n = deq_cores_quota(root);
    static const char *const made[] = {"proc/self/cgroup",
                                       "proc/self",
                                       "proc",
                                       "sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us",
                                       "sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us",
                                       "sys/fs/cgroup/cpu/docker/a",
                                       "sys/fs/cgroup/cpu/docker",
                                       "sys/fs/cgroup/cpu/cpu.cfs_quota_us",
                                       "sys/fs/cgroup/cpu/cpu.cfs_period_us",
                                       "sys/fs/cgroup/cpu",
                                       "sys/fs/cgroup/pod/a/cpu.max",
                                       "sys/fs/cgroup/pod/a",
                                       "sys/fs/cgroup/pod/cpu.max",
                                       "sys/fs/cgroup/pod",
                                       "sys/fs/cgroup/cpu.max",
                                       "sys/fs/cgroup",
                                       "sys/fs",
                                       "sys",
                                       "."};
    for (size_t i = 0; i < DEQ_COUNT(made); i++) {
        snprintf(command, sizeof command, "%s/%s", root, strcmp(made[i], ".") ? made[i] : "");
        (void)remove(command);
    }
    CHECK_MSG(access(root, F_OK), "%s is gone", root);
    return n;
}

TEST(cores_by_cpu_max)
{
    static const struct {
        const char *text;
        unsigned cores;
    } cases[] = {{"max 100000\n", UINT_MAX}, {"200000 100000\n", 2}, {"250000 100000\n", 2}, {"50000 100000\n", 1},
                 {"6400000 100000\n", 64}, {"100000\n", UINT_MAX}, {"0 100000\n", UINT_MAX}, {"", UINT_MAX},
                 {"x y\n", UINT_MAX}, {"100000 0\n", UINT_MAX}};
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        begin("0::/\n");
        put("sys/fs/cgroup/cpu.max", cases[i].text);
        const unsigned n = end();
        CHECK_MSG(n == cases[i].cores, "\"%s\" gave %u", cases[i].text, n);
    }
}

/* A pod's quota binds its containers. */
TEST(cores_by_the_least_cgroup_above)
{
    begin("0::/pod/a\n");
    put("sys/fs/cgroup/pod/a/cpu.max", "max 100000\n");
    put("sys/fs/cgroup/pod/cpu.max", "300000 100000\n");
    CHECK(end() == 3);
    begin("0::/pod/a\n");
    put("sys/fs/cgroup/pod/a/cpu.max", "100000 100000\n");
    put("sys/fs/cgroup/pod/cpu.max", "300000 100000\n");
    CHECK(end() == 1);
    /* of the host's path nothing is to be seen but the top */
    begin("0::/../../host/pod/a\n");
    put("sys/fs/cgroup/cpu.max", "400000 100000\n");
    CHECK(end() == 4);
}

TEST(cores_by_cfs_quota)
{
    begin("12:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n1:cpuset:/\n0::/\n");
    put("sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us", "200000\n");
    put("sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us", "100000\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    CHECK(end() == 2);
    begin("3:cpuacct,cpu:/docker/a\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "500000\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    CHECK(end() == 5);
    begin("3:cpuset,cpuacct:/\n"); /* neither is cpu */
    put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "500000\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    CHECK(end() == UINT_MAX);
    begin("no colons\n:\n::\n");
    CHECK(end() == UINT_MAX);
    begin(NULL);
    CHECK(end() == UINT_MAX);
}

TEST(cores_by_affinity)
{
    cpu_set_t before, one;
    CHECK(deq_cores() >= 1);
    if (sched_getaffinity(0, sizeof before, &before) || CPU_COUNT(&before) < 2)
        SKIP("one processor only");
    int first = 0;
    while (!CPU_ISSET(first, &before))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    CHECK(!sched_setaffinity(0, sizeof one, &one));
    CHECK(deq_cores() == 1);
    CHECK(!sched_setaffinity(0, sizeof before, &before));
    CHECK(deq_cores() <= (unsigned)CPU_COUNT(&before));
}

/* The processors of this process, in order; fewer than two: nothing can be tested. */
static unsigned processors(uint16_t core[CPU_SETSIZE])
{
    cpu_set_t set;
    unsigned n = 0;
    if (!sched_getaffinity(0, sizeof set, &set))
        for (unsigned i = 0; i < CPU_SETSIZE; i++)
            if (CPU_ISSET(i, &set))
                core[n++] = (uint16_t)i;
    return n;
}

TEST(cores_for_as_many_threads)
{
    uint16_t have[CPU_SETSIZE], core[CPU_SETSIZE + 1];
    const unsigned n = processors(have);
    CHECK(!deq_cores_take(DEQ_PIN_ALWAYS, n + 1, core)); /* never fewer cores than threads */
    CHECK(!deq_cores_take(DEQ_PIN_ALWAYS, 1, core) && !deq_cores_take(DEQ_PIN_NEVER, n, core));
    if (n < 2)
        SKIP("one processor only");
    CHECK(deq_cores_take(DEQ_PIN_ALWAYS, n, core) && !memcmp(core, have, n * sizeof *core));
    CHECK(!deq_cores_take(DEQ_PIN_AUTO, n - 1, core)); /* the scheduler has a choice */
    deq_cores_give_back(n, core);
    if (deq_cores_take(DEQ_PIN_AUTO, n, core)) { /* as it is but for a quota, or a daemon beside the tests */
        CHECK(deq_cores_take(DEQ_PIN_AUTO, n, core)); /* a reload's second engine, on the same ones */
        deq_cores_give_back(n, core);
        deq_cores_give_back(n, core);
    }
}

TEST(cores_that_another_process_has_claimed)
{
    uint16_t have[CPU_SETSIZE], core[CPU_SETSIZE];
    const unsigned n = processors(have);
    if (n < 2)
        SKIP("one processor only");
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    const int len = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "deqd-core-%u", have[n - 1]);
    const int other = socket(AF_UNIX, SOCK_STREAM, 0);
    /* fails where a daemon runs beside the tests: then that is the other process */
    (void)!bind(other, (struct sockaddr *)&name, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len));
    CHECK(!deq_cores_take(DEQ_PIN_AUTO, n, core));
    CHECK(deq_cores_take(DEQ_PIN_ALWAYS, n, core));
    CHECK(!deq_cores_take(DEQ_PIN_AUTO, n, core));
    deq_cores_give_back(n, core);
    close(other);
}
