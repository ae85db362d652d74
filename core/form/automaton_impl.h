/* What the two halves of an automaton's making share: automaton.c (the states of each rule), automaton_calls.c (what
 * follows from the calls between them). */
#ifndef DEQ_FORM_AUTOMATON_IMPL_H
#define DEQ_FORM_AUTOMATON_IMPL_H

#include "core/form/automaton.h"

/* Automata of rules, whose states stand in one row. */
struct deq_made {
    uint32_t n, rows_cap; /* states, 0 unused */
    uint16_t *next;       /* [rows_cap, n_classes] */
    bool *ends;           /* [n] */
    bool *tail;           /* [n] it ends its rule, and leads nowhere */
    uint32_t *first_call; /* [n + 1] */
    struct deq_made_call { uint32_t rule; uint16_t to; } *call;
    uint32_t n_calls, calls_cap;
    uint32_t n_rules;
    uint16_t *start;      /* [n_rules] 0: the rule matches nothing */
    bool *done;           /* [n_rules] */
};

enum deq_rc deq_made_init(struct deq_made *m, uint32_t n_rules, struct deq_err *err);
void deq_made_free(struct deq_made *m);
/* Rows of `next` for all n states, zeros. */
enum deq_rc deq_made_room(struct deq_made *m, uint32_t n_classes, struct deq_err *err);
enum deq_rc deq_made_call(struct deq_made *m, uint32_t rule, uint16_t to, struct deq_err *err);
/* Places and entries of a, which has its classes; takes m->next. */
enum deq_rc deq_made_finish(struct deq_made *m, uint32_t root, struct deq_automaton *a, struct deq_err *err);

#endif
