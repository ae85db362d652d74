/* A model directory with plain weights: what scoring by segments works on, where the engine has packed ones. */
#ifndef DEQ_SCORE_PLAIN_H
#define DEQ_SCORE_PLAIN_H

#include "core/cell/kind.h"
#include "core/text/tokenizer.h"

struct deq_plain {
    struct deq_arch *arch;
    struct deq_weights *weights;
    struct deq_tokenizer *tokenizer; /* NULL: not asked for */
};

/* The model is the caller's, deq_plain_close, also on failure. */
enum deq_rc deq_plain_open(const char *dir, bool with_tokenizer, struct deq_plain *ret, struct deq_err *err);
void deq_plain_close(struct deq_plain *p);

#endif
