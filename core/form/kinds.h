/* The door's part of forms (core/form/form.h): what an answer is to fit. Its tokens are picked from those that keep it
 * so, and its end comes only where it fits whole. */
#ifndef DEQ_FORM_KINDS_H
#define DEQ_FORM_KINDS_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/rc.h"

enum deq_form_kind {
    DEQ_FORM_CHOICE,  /* a JSON array of texts, of which it is one */
    DEQ_FORM_REGEX,   /* a regular expression, which all of it matches */
    DEQ_FORM_GRAMMAR, /* GBNF, llama.cpp's notation of grammars */
    DEQ_FORM_SCHEMA,  /* a JSON Schema */
    DEQ_FORM_COUNT
};

/* Of a model, which is freed later; the last ones made are kept, so that the same one costs little. DEQ_EINVAL: what is
 * wrong with the text, or not supported. Any thread. */
struct deq_model;
struct deq_form;
enum deq_rc deq_form_new(const struct deq_model *model, enum deq_form_kind kind, const char *text, size_t len,
                         struct deq_form **ret_form, struct deq_err *err);
void deq_form_free(struct deq_form *form); /* takes NULL */
/* What became of the forms that were asked of a model, and how many of the last ones are kept. Any thread. */
struct deq_form_stats {
    uint64_t made, found, refused; /* found: kept from before; refused: DEQ_EINVAL */
    uint32_t kept;
};
struct deq_form_stats deq_form_stats(const struct deq_model *model);

#endif
