#include "tests/unit/scratch.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "tests/unit/test.h"

static char dir[256];

bool scratch_begin(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/deq-unit-XXXXXX", base && *base ? base : "/tmp");
    return mkdtemp(dir) != NULL;
}

const char *scratch_dir(void)
{
    return dir;
}

const char *scratch_path(const char *name)
{
    static char path[32][512];
    static unsigned next;
    char *p = path[next++ % 32];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

void scratch_put(const char *name, const char *text)
{
    struct deq_part part = {text, strlen(text)};
    CHECK(!deq_io_replace(scratch_path(name), &part, 1, NULL));
}

bool scratch_is(const char *name, const char *text)
{
    char *data;
    size_t len;
    if (deq_io_read(scratch_path(name), 1 << 20, &data, &len, NULL))
        return false;
    bool same = len == strlen(text) && !memcmp(data, text, len + 1);
    deq_free(data);
    return same;
}

void scratch_end(const char *name, ...)
{
    va_list names;
    va_start(names, name);
    for (; name; name = va_arg(names, const char *))
        CHECK_MSG(!remove(scratch_path(name)), "%s", name);
    va_end(names);
    CHECK(!rmdir(dir));
}
