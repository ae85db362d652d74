/* The control groups that this process is in, as directories: its own first, then each above it, whose limits hold
 * as well. Both versions are understood, and a container, where the path in /proc may be the host's and only the top
 * is to be seen. Any thread. */
#ifndef DEQ_BASE_CGROUP_H
#define DEQ_BASE_CGROUP_H

#include <stdbool.h>

/* dir: /sys/fs/cgroup... without a slash at its end; v1: of the old version, where every controller has a tree of its
 * own. The directory or the file looked for in it may not exist. */
typedef void deq_cgroup_fn(void *ctx, const char *dir, bool v1);

/* controller: "cpu", "memory". root stands before /proc and /sys: "" but for tests. */
void deq_cgroup_each(const char *root, const char *controller, deq_cgroup_fn *fn, void *ctx);
/* The first line of dir/file into text; false when there is none. */
bool deq_cgroup_read(const char *dir, const char *file, char *text, int cap);

#endif
