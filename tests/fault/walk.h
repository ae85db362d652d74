/* Walks the places at which something can go wrong (core/base/fault.h): the same thing is done again and again, with
 * the first place going wrong, the second, and so on, once and for ever, until a run meets no such place any more.
 * After every run memory and descriptors are back to what they were. */
#ifndef DEQ_TEST_WALK_H
#define DEQ_TEST_WALK_H

#include "core/base/fault.h"
#include "tests/unit/test.h"

enum {
    WALK_ALLOC = 1 << DEQ_FAULT_ALLOC,
    WALK_IO = 1 << DEQ_FAULT_IO,
    WALK_SHORT = 1 << DEQ_FAULT_SHORT,
    WALK_EINTR = 1 << DEQ_FAULT_EINTR,
    WALK_THREAD = 1 << DEQ_FAULT_THREAD,
    WALK_FILES = WALK_IO | WALK_SHORT | WALK_EINTR,
};

/* run: prepares, calls walk_arm, does the thing, calls walk_disarm, checks what must hold whatever went wrong, gives
 * back what it took. True: it is as if nothing had gone wrong, which must be so of what is short or interrupted.
 * Without DEQ_FAULTS=all it is a sample: few of the places, more of the early ones. */
void walk(const char *what, unsigned kinds, bool (*run)(void *ctx), void *ctx);
void walk_arm(void);
void walk_disarm(void);
/* What is walked now: one place goes wrong in this run, not all from some on. */
bool walk_once(void);
/* The code with which a function may fail by the fault that is walked. */
bool walk_expects(enum deq_rc rc);

#endif
