#include "core/base/cgroup.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

bool deq_cgroup_read(const char *dir, const char *file, char *text, int cap)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "re");
    const bool ok = f && fgets(text, cap, f);
    if (f)
        fclose(f);
    return ok;
}

/* Is `name` in the list "cpu,cpuacct"? */
static bool listed(const char *list, const char *name)
{
    const size_t n = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (!strncmp(at, name, n) && (!at[n] || at[n] == ','))
            return true;
    }
    return false;
}

void deq_cgroup_each(const char *root, const char *controller, deq_cgroup_fn *fn, void *ctx)
{
    char line[PATH_MAX + 64], dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s/proc/self/cgroup", root);
    FILE *f = fopen(dir, "re");
    while (f && fgets(line, sizeof line, f)) { /* "0::/path" of version 2; "3:cpu,cpuacct:/path" of version 1 */
        char *const names = strchr(line, ':'), *const path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *path = 0;
        const bool v1 = names[1] != 0;
        if (v1 && !listed(names + 1, controller))
            continue;
        path[1 + strcspn(path + 1, "\n")] = 0;
        const int top = snprintf(dir, sizeof dir, "%s/sys/fs/cgroup%s%s", root, v1 ? "/" : "", v1 ? controller : "");
        const int n = snprintf(dir + top, sizeof dir - (size_t)top, "%s", strcmp(path + 1, "/") ? path + 1 : "");
        if (top + n >= (int)sizeof dir)
            continue;
        for (char *slash;;) {
            fn(ctx, dir, v1);
            if (!(slash = strrchr(dir + top, '/')))
                break;
            *slash = 0;
        }
    }
    if (f)
        fclose(f);
}
