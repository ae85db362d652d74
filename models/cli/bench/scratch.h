/* Directories that a benchmark makes and that do not stay: under TMPDIR, else /tmp, with files of a few known names, so
 * that they can be removed from a signal's handler too (SIGINT, SIGTERM). One thread. */
#ifndef DEQ_MODELS_CLI_BENCH_SCRATCH_H
#define DEQ_MODELS_CLI_BENCH_SCRATCH_H

#include "core/base/err.h"

enum { BENCH_SCRATCH_PATH = 288 };

/* A new directory in ret [BENCH_SCRATCH_PATH], which receives nothing but the files of a model, checkpoint.safetensors
 * and text.txt. At most two at a time. */
enum deq_rc bench_scratch_open(char *ret, struct deq_err *err);
void bench_scratch_close(const char *dir);
/* "dir/name" of such a directory. */
void bench_scratch_path(char out[BENCH_SCRATCH_PATH], const char *dir, const char *name);

#endif
