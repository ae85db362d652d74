/* A form that a text is to fit, and for each place in a text the tokens that may follow: the words of a vocabulary that
 * keep the text the beginning of one that fits, and the end of the text exactly where it fits whole.
 *
 *     kind      how it is written                       read by
 *     choice    a JSON array of texts                   form.c
 *     regex     a regular expression, for all of it     regex.h
 *     grammar   GBNF                                    gbnf.h
 *     schema    a JSON Schema                           schema.h
 *
 * All become expressions (expr.h), these an automaton (automaton.h), which reads the vocabulary's spelling (spelling.h)
 * from where the text has got to (readings.h). What is allowed is kept by place, because the same ones come again: a
 * step costs a look-up. Which tokens are allowed is a function of the form and of the text so far, so guesses of the
 * wavefront are masked just like picks, and no window, batch or repetition changes an answer.
 *
 * Bounds: whatever is given, a form takes at most DEQ_FORM_STATES_MAX states of DEQ_FORM_CELLS_MAX cells, and its
 * making work in proportion; a token costs a walk over the spelling with DEQ_FORM_READINGS readings at most.
 *
 * A form is counted: who has one gives it back with deq_form_free. Any thread. It goes before its spelling. */
#ifndef DEQ_FORM_FORM_H
#define DEQ_FORM_FORM_H

#include "core/form/kinds.h"
#include "core/form/readings.h"
#include "core/form/spelling.h"

enum { DEQ_FORM_TEXT_MAX = 1 << 17 }; /* bytes of what is given */


/* The last forms of a vocabulary, so that the same one is made once. Any thread. */
struct deq_forms;
enum { DEQ_FORMS_KEPT = 32, DEQ_FORMS_KEPT_BYTES = 48 << 20 };
/* eos_id: the token that ends a text, -1: none. The spelling is borrowed. */
enum deq_rc deq_forms_new(const struct deq_spelling *spelling, int64_t eos_id, struct deq_forms **ret,
                          struct deq_err *err);
void deq_forms_free(struct deq_forms *f); /* takes NULL */
/* DEQ_EINVAL: the message says what is wrong, and where. */
enum deq_rc deq_forms_get(struct deq_forms *f, enum deq_form_kind kind, const char *text, size_t len,
                          struct deq_form **ret, struct deq_err *err);
struct deq_form_stats deq_forms_stats(struct deq_forms *f);
struct deq_form *deq_form_share(struct deq_form *f);

/* Before the first token; after one more. */
void deq_form_begin(const struct deq_form *f, struct deq_readings *ret);
void deq_form_advance(const struct deq_form *f, const struct deq_readings *from, uint32_t token,
                      struct deq_readings *to);
bool deq_form_whole(const struct deq_form *f, const struct deq_readings *r);
bool deq_form_spells(const struct deq_form *f, uint32_t token); /* the token is text, and may be in a form */
bool deq_form_ended(const struct deq_form *f, const struct deq_readings *r); /* only the end may follow */
/* allowed [deq_form_words(V)]: bit i % 32 of word i / 32 is token i's. */
void deq_form_mask(struct deq_form *f, const struct deq_readings *r, uint32_t *allowed);

static inline size_t deq_form_words(size_t vocab_size)
{
    return (vocab_size + 31) / 32;
}
static inline bool deq_form_allows(const uint32_t *allowed, uint32_t token)
{
    return allowed[token / 32] >> token % 32 & 1;
}

#endif
