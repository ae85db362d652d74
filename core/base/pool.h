/* A fixed set of threads that run one function together: deq_pool_run calls fn(ctx, i, n) on every thread i of n, the
 * caller being thread 0, and returns when all are done. What a thread does is decided by (i, n) alone, never by who
 * is free, so that work is partitioned the same way every time. Waiting threads spin briefly, then sleep in the
 * kernel. One owner thread calls deq_pool_run; runs do not nest. */
#ifndef DEQ_BASE_POOL_H
#define DEQ_BASE_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/cores.h"
#include "core/base/err.h"

struct deq_pool;
typedef void (*deq_pool_fn)(void *ctx, unsigned thread, unsigned n_threads);

enum deq_rc deq_pool_new(unsigned n_threads, struct deq_pool **ret_pool, struct deq_err *err); /* 1..256 */
uint64_t deq_pool_bytes(unsigned n_threads); /* what such a pool asks the allocator for */
/* A core for each thread, where deq_cores_take gives them. Workers are bound to theirs; the owner's thread, which is
 * not the pool's, is only moved to its own when a run finds it on a worker's. By the owner, or before it is there. */
void deq_pool_bind(struct deq_pool *pool, enum deq_pin pin);
void deq_pool_free(struct deq_pool *pool);
unsigned deq_pool_threads(const struct deq_pool *pool);
void deq_pool_run(struct deq_pool *pool, deq_pool_fn fn, void *ctx);
/* Inside fn, by every thread of the run alike: returns when all of them have come here, and what any of them wrote
 * before is seen by all of them. With n_threads 1, as a stage on the caller's thread alone has it, returns at once. */
void deq_pool_barrier(struct deq_pool *pool, unsigned thread, unsigned n_threads);
/* A stage (or several, with barriers between them) of `work` multiply-adds, or as much copying: on all threads, or on
 * the caller's alone, with n_threads 1, where the others would cost more than they save: when the work is little, and
 * for a while when the last stages went by in waiting, because other processes have these cores too. What is computed
 * must not depend on the choice. */
void deq_pool_stage(struct deq_pool *pool, deq_pool_fn stage, void *ctx, size_t work);

/* for DEQ_ROWS_OF (thread, n_threads, m): the thread's share r of rows 0 .. m-1 */
#define DEQ_ROWS_OF(thread, n_threads, m) \
    (size_t r = (m) * (thread) / (n_threads); r < (m) * ((thread) + 1) / (n_threads); r++)

#endif
