/* Who gets the core while more is asked than can be done. A thread that wakes up takes the core from one that computes,
 * at once: for each request that is refused the engine would lose what its caches hold, and the refusal would begin
 * with cold ones. A patient thread is SCHED_BATCH: while all cores compute it waits for the end of a slice (some
 * milliseconds), and then does all that came meanwhile. Where a core is free it runs at once, as ever, and its share of
 * the processor stays the same.
 *
 * Only threads of the ordinary class change, each by itself. What the system does not let be done is left as it is. */
#ifndef DEQ_SERVER_PATIENCE_H
#define DEQ_SERVER_PATIENCE_H

#include "core/base/base.h"

enum { PATIENCE_MS = 1000 /* so long after its last refusal a thread is an ordinary one again */ };

struct patience { /* of a thread; zeroed: nothing was refused */
    bool is_patient;
    uint64_t refused_ns;
};

/* The calling thread is patient for good. */
bool patience_for_good(void);
/* The calling thread, which a patient one may have begun, is an ordinary one: classes are inherited. */
void patience_none(void);
/* The calling thread answered a request, or handed it on. refused: there was no room for it. */
void patience_after(struct patience *p, bool refused, uint64_t now_ns);

#endif
