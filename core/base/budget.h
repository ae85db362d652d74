/* One sum that many owners' memory counts against, such as what answers hold until they are read. An allowance is the
 * part of one holder (one exchange); it may reserve beforehand what it will need, and takes and gives as its buffers
 * grow and go (buf.h). What is charged is the larger of both.
 *
 * Nobody has it all: an owner with several allowances may have no more than stays free for others (dynamic
 * thresholds, Choudhury and Hahne 1998), one alone half, two a third each. His first may have whatever is
 * free, so no size is impossible.
 * Any thread. A budget outlives its allowances. */
#ifndef DEQ_BASE_BUDGET_H
#define DEQ_BASE_BUDGET_H

#include <pthread.h>

#include "core/base/base.h"

struct deq_budget {
    pthread_mutex_t lock; /* guards the rest, and the allowances */
    uint64_t max_bytes, used_bytes;
    struct deq_allowance *open;
};

struct deq_allowance {
    struct deq_budget *budget; /* NULL: nothing is counted */
    uint64_t owner, reserved_bytes, taken_bytes;
    struct deq_allowance *next, *prev;
};

void deq_budget_init(struct deq_budget *b, uint64_t max_bytes);
uint64_t deq_budget_used(struct deq_budget *b);
void deq_allowance_open(struct deq_allowance *a, struct deq_budget *b, uint64_t owner);
/* Returns what it has reserved; everything taken must have been given back. */
void deq_allowance_close(struct deq_allowance *a);
/* So many bytes more are kept for it. False: not now; nothing has changed then. */
bool deq_allowance_reserve(struct deq_allowance *a, uint64_t bytes);
void deq_allowance_unreserve(struct deq_allowance *a, uint64_t bytes);
bool deq_allowance_take(struct deq_allowance *a, uint64_t bytes);
void deq_allowance_give(struct deq_allowance *a, uint64_t bytes);

#endif
