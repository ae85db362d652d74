/* Invariants where sizes, owners and states meet: what would be a mistake of ours, whatever comes from outside.
 *
 *     if (DEQ_BUG_ON(!p->holders[number]))
 *         return;                             // what is left undone harms nobody
 *
 * In builds with sanitizers, fuzzing among them, the process ends there. Elsewhere it is counted (deqd_bugs_total),
 * told, and gone on with; unit tests end on being told. Any thread. */
#ifndef DEQ_BASE_BUG_H
#define DEQ_BASE_BUG_H

#include <stdbool.h>
#include <stdint.h>

/* True, and counted, when the condition holds. */
#define DEQ_BUG_ON(condition) deq_bug_on((condition), __FILE__, __LINE__, #condition)

struct deq_bug {
    const char *file, *condition; /* literals */
    int line;
};
bool deq_bug(const char *file, int line, const char *condition); /* true */
static inline bool deq_bug_on(bool is, const char *file, int line, const char *condition)
{
    return __builtin_expect(is, 0) && deq_bug(file, line, condition);
}
uint64_t deq_bugs(void);                                          /* so far */
/* Who is told, where it happens, which may be anywhere: locks may be held. NULL: nobody. Returns who was. */
typedef void deq_bug_teller(const struct deq_bug *bug);
deq_bug_teller *deq_bug_tell(deq_bug_teller *tell);

#endif
