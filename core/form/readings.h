/* What may be under way in a form after some bytes: a set of readings, each a state of the automaton with the states
 * below it in which the calling rules go on. As in llama.cpp's grammars, but over bytes, and without anything that
 * could end in a dead end (automaton.h). A function of the bytes alone. Any thread. */
#ifndef DEQ_FORM_READINGS_H
#define DEQ_FORM_READINGS_H

#include "core/form/automaton.h"

struct deq_reading {
    uint16_t place, depth;
    uint16_t below[DEQ_FORM_DEPTH]; /* [depth] from the bottom */
};

struct deq_readings {
    uint32_t n; /* 0: nothing fits any more, or the text was ended */
    struct deq_reading at[DEQ_FORM_READINGS];
};

void deq_readings_begin(const struct deq_automaton *a, struct deq_readings *ret);
/* *to (another one): what is left of *from after a byte. False: nothing. */
bool deq_readings_step(const struct deq_automaton *a, const struct deq_readings *from, unsigned char byte,
                       struct deq_readings *to);
/* The same of one reading that a byte has led to `place`. */
void deq_readings_settle(const struct deq_automaton *a, const struct deq_reading *r, uint16_t place,
                         struct deq_readings *to);
/* The text may end here. */
bool deq_readings_whole(const struct deq_automaton *a, const struct deq_readings *r);
/* Nothing may follow. */
bool deq_readings_ended(const struct deq_automaton *a, const struct deq_readings *r);
void deq_readings_copy(struct deq_readings *to, const struct deq_readings *from); /* only what is in use */
bool deq_readings_equal(const struct deq_readings *x, const struct deq_readings *y);

/* A reading with so many states below it is all that there is, where `place` is what it has come to. */
static inline bool deq_reading_alone(const struct deq_automaton *a, uint16_t place, uint16_t depth)
{
    return a->place[place].alone && (!a->place[place].ends || !depth);
}

/* A reading that reads a byte without more ado: the place behind it, or 0. */
static inline uint16_t deq_reading_next(const struct deq_automaton *a, const struct deq_reading *r, uint16_t place,
                                        unsigned char byte)
{
    const uint16_t q = a->next[(size_t)place * a->n_classes + a->class_of[byte]];
    return a->place[q].need + r->depth <= DEQ_FORM_DEPTH ? q : 0;
}

#endif
