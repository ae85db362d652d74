#include "models/cli/bench/scratch.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/base.h"

static const char *const names[] = {
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    "checkpoint.safetensors", "text.txt",
};
/* The longest of them and what a file is called while it is written stand behind a directory of this length. */
enum { DIR_MAX = BENCH_SCRATCH_PATH - 48 };
static struct {
    char dir[BENCH_SCRATCH_PATH], file[DEQ_COUNT(names)][BENCH_SCRATCH_PATH];
} made[2];

static void remove_one(size_t i)
{
    for (size_t k = 0; k < DEQ_COUNT(names); k++)
        unlink(made[i].file[k]);
    rmdir(made[i].dir);
    made[i].dir[0] = 0;
}

static void on_signal(int number)
{
    for (size_t i = 0; i < DEQ_COUNT(made); i++)
        if (made[i].dir[0])
            remove_one(i);
    signal(number, SIG_DFL);
    raise(number);
}

void bench_scratch_path(char out[BENCH_SCRATCH_PATH], const char *dir, const char *name)
{
    snprintf(out, BENCH_SCRATCH_PATH, "%.*s/%s", DIR_MAX, dir, name);
}

enum deq_rc bench_scratch_open(char *ret, struct deq_err *err)
{
    const char *parent = getenv("TMPDIR");
    char dir[DIR_MAX];
    size_t i = 0;
    while (i < DEQ_COUNT(made) && made[i].dir[0])
        i++;
    if (i == DEQ_COUNT(made))
        return deq_fail(err, DEQ_EFULL, "at most %zu directories at a time", DEQ_COUNT(made));
    if (snprintf(dir, sizeof dir, "%s/deq-bench-XXXXXX", parent && *parent ? parent : "/tmp") >= (int)sizeof dir)
        return deq_fail(err, DEQ_EINVAL, "TMPDIR: path too long");
    if (!mkdtemp(dir))
        return deq_fail(err, DEQ_EIO, "%s: a directory for the model cannot be made: %m", dir);
    for (size_t k = 0; k < DEQ_COUNT(names); k++)
        bench_scratch_path(made[i].file[k], dir, names[k]);
    memcpy(made[i].dir, dir, sizeof dir);
    memcpy(ret, dir, sizeof dir);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    return DEQ_OK;
}

void bench_scratch_close(const char *dir)
{
    for (size_t i = 0; i < DEQ_COUNT(made); i++)
        if (*dir && !strcmp(made[i].dir, dir))
            remove_one(i);
}
