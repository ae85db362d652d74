/* core/base/cgroup.c: which directories hold this process's limits, in a tree of our own. What is read there:
 * test_cores.c
 * and test_memory.c. */
#include "core/base/cgroup.h"

#include <sys/stat.h>

#include "core/base/buf.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

/* "2:/a/b " for a directory of version 2, without root/sys/fs/cgroup. */
static void list(void *ctx, const char *dir, bool v1)
{
    const size_t top = strlen(scratch_dir()) + sizeof "/sys/fs/cgroup" - 1;
    deq_buf_fmt(ctx, "%d:%s ", v1 ? 1 : 2, dir + top);
}

TEST(cgroup_directories_from_the_own_upwards)
{
    static const struct {
        const char *text, *dirs;
    } t[] = {
        {"0::/\n", "2: "},
        {"0::/a/b\n", "2:/a/b 2:/a 2: "},
        {"3:cpu,cpuacct:/x/y\n", "1:/cpu/x/y 1:/cpu/x 1:/cpu "},
        {"3:cpuacct:/x\n4:cpuset,cpu:/z\n", "1:/cpu/z 1:/cpu "}, /* a name, and not its beginning */
        {"1:name=systemd:/s\n2:cpu:/x\n0::/u\n", "1:/cpu/x 1:/cpu 2:/u 2: "},
        {"0::/a b:c\n", "2:/a b:c 2: "},
        {"nonsense\n\n0\n", ""},
        {"0::/last", "2:/last 2: "}, /* without its line's end */
    };
    REQUIRE(scratch_begin());
    CHECK(!mkdir(scratch_path("proc"), 0700) && !mkdir(scratch_path("proc/self"), 0700));
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct deq_buf dirs;
        deq_buf_init(&dirs, 4096);
        deq_buf_str(&dirs, "");
        scratch_put("proc/self/cgroup", t[i].text);
        deq_cgroup_each(scratch_dir(), "cpu", list, &dirs);
        CHECK_EQ(dirs.data, t[i].dirs);
        deq_buf_free(&dirs);
    }
    char line[8];
    scratch_put("limit", "max 1\n2\n");
    CHECK(deq_cgroup_read(scratch_dir(), "limit", line, sizeof line));
    CHECK_EQ(line, "max 1\n");
    CHECK(!deq_cgroup_read(scratch_dir(), "none", line, sizeof line));
    scratch_put("limit", "");
    CHECK(!deq_cgroup_read(scratch_dir(), "limit", line, sizeof line));
    scratch_end("limit", "proc/self/cgroup", "proc/self", "proc", NULL);
}
