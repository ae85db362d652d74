#define _GNU_SOURCE
#include "core/base/installed.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool deq_installed(const char *name, char ret_path[4096])
{
    static const char bin[] = "/bin";
    char program[PATH_MAX], path[2 * PATH_MAX];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0)
        return false;
    program[n] = 0;
    *strrchr(program, '/') = 0;
    const size_t len = strlen(program), tail = sizeof bin - 1;
    if (len < tail || strcmp(program + len - tail, bin))
        return false;
    snprintf(path, sizeof path, "%.*s/share/deqd/%s", (int)(len - tail), program, name);
    return realpath(path, ret_path) != NULL;
}
