#include "core/base/bug.h"

#include <stdatomic.h>
#include <stddef.h>

static _Atomic uint64_t bugs;
static deq_bug_teller *_Atomic tell;

bool deq_bug(const char *file, int line, const char *condition)
{
    deq_bug_teller *const told = atomic_load(&tell);
    atomic_fetch_add(&bugs, 1);
    if (told)
        told(&(struct deq_bug){file, condition, line});
#ifdef DEQ_BUG_ENDS
    __builtin_trap();
#endif
    return true;
}

uint64_t deq_bugs(void)
{
    return atomic_load(&bugs);
}

deq_bug_teller *deq_bug_tell(deq_bug_teller *fn)
{
    return atomic_exchange(&tell, fn);
}
