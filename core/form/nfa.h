/* The nondeterministic automaton of a rule's expression (Thompson 1968): states, and edges that read a byte, that call
 * another rule or that read nothing. Of a rule that may match the empty text a call may also be passed by. The first
 * half of automaton.c's work, and alive no longer. */
#ifndef DEQ_FORM_NFA_H
#define DEQ_FORM_NFA_H

#include "core/form/expr.h"

enum { DEQ_NFA_MAX = 1 << 18 }; /* states of all rules together, and edges */

struct deq_nfa_edge {
    enum { DEQ_NFA_EMPTY, DEQ_NFA_BYTES, DEQ_NFA_CALL } kind;
    uint32_t to, next; /* next edge of the same state, 0: none */
    uint32_t lo, hi;   /* bytes; lo: the rule that is called */
};

struct deq_nfa {
    const struct deq_exprs *x;
    const bool *nullable; /* [x->n_rules] */
    bool *called;         /* [x->n_rules] rules that were met */
    uint32_t *first;      /* [n_states] */
    struct deq_nfa_edge *edge; /* [n_edges], 0 unused */
    uint32_t n_states, n_edges, states_cap, edges_cap;
    bool failed, too_large;
};

/* Which rules match the empty text: ret [x->n_rules]. */
enum deq_rc deq_nfa_nullable(const struct deq_exprs *x, bool *ret, struct deq_err *err);

enum deq_rc deq_nfa_init(struct deq_nfa *n, const struct deq_exprs *x, const bool *nullable, struct deq_err *err);
void deq_nfa_free(struct deq_nfa *n);
/* Adds the rule's states: one that begins and one that ends it. */
enum deq_rc deq_nfa_rule(struct deq_nfa *n, uint32_t rule, uint32_t *ret_start, uint32_t *ret_end, struct deq_err *err);

#endif
