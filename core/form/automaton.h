/* The automaton of a form: one deterministic automaton a rule (subset construction), whose states read bytes or call
 * other rules; together a pushdown automaton over bytes. What is under way is a set of readings: a state each, and
 * below it the states in which the rules that called go on. Where nothing recurs there is one reading and no stack.
 *
 * Made so that nothing need be searched for, or fail, when it runs:
 *   entries   where a state that calls rules may go on without a byte: the states that read one, each with what is
 *             stacked below it. No rule begins with itself (left recursion is refused), so they are finitely many.
 *   need      how many more calls deep a state must go to end its rule, at least. A reading may stack only what leaves
 *             room for that, and what would need more than DEQ_FORM_DEPTH is not there: every reading can be completed.
 *   bytes     that no single token of the vocabulary spells are not read: so no reading can end up between tokens.
 *
 * So a set of readings that is not empty can always be continued or is whole. Immutable once made; any thread. */
#ifndef DEQ_FORM_AUTOMATON_H
#define DEQ_FORM_AUTOMATON_H

#include "core/form/expr.h"

enum {
    DEQ_FORM_DEPTH = 32,    /* calls within each other: as deep as what recurs may be */
    DEQ_FORM_READINGS = 16, /* followed at a time; of more, which only an ambiguous grammar has, the first */
    DEQ_FORM_STATES_MAX = 32000,
    DEQ_FORM_CELLS_MAX = 1 << 20, /* states times classes of bytes */
};

struct deq_form_place { /* a state of a rule's automaton */
    uint32_t entry;     /* its entries begin there in `entries` */
    uint16_t n_entries;
    uint8_t need;       /* calls deep to the end of its rule, at least */
    uint8_t need_bytes; /* the same with a byte as the next step; above DEQ_FORM_DEPTH: it reads none */
    bool ends;          /* its rule may end here */
    bool alone;         /* its one entry is itself: a reading in it is complete, unless its rule may end in another */
};

struct deq_automaton {
    uint32_t n_places, n_classes;
    uint8_t class_of[256];
    uint16_t *next;      /* [n_places, n_classes], 0: no such byte */
    struct deq_form_place *place; /* [n_places], 0 unused */
    uint16_t *entries;   /* each: its state, the number of states below it, these from the bottom */
    uint16_t start;
};

/* The automaton of rule `root`. spelled: bytes that a token of the vocabulary spells alone. DEQ_EINVAL: too large, left
 * recursion, or nothing that the vocabulary could spell. */
enum deq_rc deq_automaton_make(const struct deq_exprs *x, uint32_t root, const bool spelled[256],
                               struct deq_automaton *ret, struct deq_err *err);
void deq_automaton_free(struct deq_automaton *a);
size_t deq_automaton_bytes(const struct deq_automaton *a);

#endif
