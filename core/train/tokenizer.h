/* The tokenizer of a training run: MODEL_DIR/tokenizer.json where there is one, that of the model whose weights a run
 * starts from, or one trained on the recipe's text. One that is there already is never taken for another: its size must
 * be the recipe's, and a run that starts from a model's weights needs that model's tokenizer. */
#ifndef DEQ_TRAIN_TOKENIZER_H
#define DEQ_TRAIN_TOKENIZER_H

#include "core/base/buf.h"
#include "core/text/tokenizer.h"
#include "core/train/train.h"

/* note: told in a sentence what is done. *ret_new: the tokenizer.json that is to be written, empty when it is there;
 * the caller's, freed by deq_buf_free, also on failure. Writes nothing. */
enum deq_rc deq_train_tokenizer(const struct deq_recipe *r, const struct deq_train_opts *o,
                                void (*note)(void *ctx, const char *text), void *ctx, struct deq_tokenizer **ret,
                                struct deq_buf *ret_new, struct deq_err *err);

#endif
