#define _GNU_SOURCE
#include "server/patience.h"

#include <sched.h>
#include <stdatomic.h>

static _Atomic bool ever; /* so a thread that is SCHED_BATCH is that by us */

/* 0: the calling thread. */
static bool change(int from, int to)
{
    return sched_getscheduler(0) == from && !sched_setscheduler(0, to, &(struct sched_param){0});
}

bool patience_for_good(void)
{
    const bool changed = change(SCHED_OTHER, SCHED_BATCH);
    if (changed)
        atomic_store(&ever, true);
    return changed;
}

void patience_none(void)
{
    if (atomic_load(&ever))
        (void)change(SCHED_BATCH, SCHED_OTHER);
}

void patience_after(struct patience *p, bool refused, uint64_t now_ns)
{
    if (refused) {
        p->refused_ns = now_ns;
        p->is_patient = p->is_patient || patience_for_good();
    } else if (p->is_patient && now_ns > p->refused_ns + PATIENCE_MS * 1000000ull) {
        p->is_patient = !change(SCHED_BATCH, SCHED_OTHER);
    }
}
