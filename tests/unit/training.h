/* What the tests of training share: a small model whose cell contracts, small runs, and their files. */
#ifndef DEQ_TEST_TRAINING_H
#define DEQ_TEST_TRAINING_H

#include "core/cell/transformer.h"
#include "core/train/train.h"
#include "tests/unit/test.h"

extern const struct deq_transformer_arch training_arch;

struct deq_weights *zero_weights(void);
/* Small enough that the cell contracts quickly. */
struct deq_weights *contractive_weights(void);
void random_batch(uint32_t *tokens, uint32_t *targets, size_t n);
/* "key=value" */
void assign_recipe(struct deq_recipe *r, const char *text);
/* A run of seconds on sample.txt, with every phase in it. */
struct deq_recipe *small_recipe(uint32_t steps);
/* ... of a model without a predictor */
struct deq_recipe *plain_recipe(uint32_t steps);
/* A whole file of a directory; deq_free. */
char *read_in(const char *dir, const char *name, size_t *len);
void remove_tree(const char *dir);
/* The head of the sample, n bytes, as dir/sample.txt. */
void write_sample(const char *dir, size_t n);

#endif
