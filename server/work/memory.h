/* Whether what the model and the engine will reserve fits into what the process may have: asked before anything is
 * allocated, so that a limit that is too low is one line at the start (or a reload that does not happen), and not an
 * end by the kernel in the middle of the work.
 *
 * Limits: RLIMIT_AS, the cgroup's and its parents' (memory.max of version 2, memory.limit_in_bytes of version 1), the
 * machine's memory and swap. What requests hold (bodies, answers until they are read) counts as limits.answer_bytes;
 * connections come on top, some 64 KiB each at most. */
#ifndef DEQ_SERVER_MEMORY_H
#define DEQ_SERVER_MEMORY_H

#include "core/deq.h"
#include "server/conf.h"

/* Before any thread is there: where addresses are limited, threads share one arena of the allocator. Each further one
 * would reserve 64 MiB of them, which a start needs as little as --check-config does. */
void memory_begin(void);
/* DEQ_EINVAL when it does not fit: the message names both sizes, whose limit it is, and the options that lower the
 * need; and whatever is wrong with the model's files (deq_check). What the process holds already counts too. */
enum deq_rc memory_check(const struct conf *c, const struct deq_engine_opts *opts, struct deq_err *err);
/* The lowest limit of the cgroups that the process is in, UINT64_MAX when there is none. root: "" or a directory to
 * find proc and sys in. *ret_file: the file's name, a literal. */
uint64_t memory_cgroup_limit(const char *root, const char **ret_file);

#endif
