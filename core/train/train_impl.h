/* Inside of a training run: train.c sets it up and runs it, init.c has what it begins
 * with, resume.c what may differ when it goes on, train_step.c takes its steps, validate.c measures it. */
#ifndef DEQ_TRAIN_TRAIN_IMPL_H
#define DEQ_TRAIN_TRAIN_IMPL_H

#include "core/base/pool.h"
#include "core/text/tokenizer.h"
#include "core/train/adamw.h"
#include "core/train/dataset.h"
#include "core/train/implicit.h"
#include "core/train/train.h"

struct deq_train {
    const struct deq_recipe *recipe;
    const struct deq_train_opts *opts;
    const struct deq_train_hooks *hooks;
    struct deq_arch *arch;
    struct deq_tokenizer *tok;
    struct deq_dataset *train;
    struct deq_tokens valid;
    uint64_t valid_bytes;
    struct deq_weights *w;
    float *m, *v; /* [n] AdamW's moments */
    struct deq_pool *pool;
    unsigned n_threads;
    struct deq_grad_work *work; /* [n_threads] */
    unsigned segment; /* of train.recompute: evaluations from one that is kept to the next; 0: all are */
    size_t n_shards;
    struct deq_weights **grads; /* [n_shards]; the sum ends in grads[0] */
    struct deq_grad_report *reports; /* [n_shards] */
    uint32_t *tokens, *targets; /* [batch, T] */
    struct deq_progress at;
    char *recipe_text; /* what checkpoints say of the recipe */
    uint64_t saved; /* the step of the checkpoint that is there; 0: there is none */
    /* the step under way, read by the pool */
    struct deq_grad_opts grad_opts;
    struct deq_adamw adamw, adamw_predictor;
    float grad_scale, muon_lr;
    unsigned *owner;     /* [n_params] the thread that updates a tensor, dealt out by work */
    float **muon_scratch; /* [n_threads] */
    double *norm_parts; /* [n_params] */
    double *valid_sums; /* [n_threads] */
    size_t valid_chunks;
};

/* init.c. The weights become those of the model in `dir`. A tensor that one of the two lacks, or of another shape, is
 * DEQ_EINVAL, which names it; the predictor's stay as they are then, if it is fitted anew anyway. */
enum deq_rc deq_train_init_from(const char *dir, struct deq_weights *w, bool fitted, struct deq_err *err);

/* resume.c. The recipe as text that deq_opt_parse reads, every key of it; the caller's, deq_free. */
enum deq_rc deq_train_recipe_text(const struct deq_recipe *r, char **ret, struct deq_err *err);
/* Tells the keys that differ from those of the run whose checkpoint lies at `path`; where one of them makes the run
 * what it is, DEQ_EINVAL unless opts->new_recipe. */
enum deq_rc deq_train_compare_recipes(struct deq_train *r, const char *path, void (*note)(void *ctx, const char *text),
                                      struct deq_err *err);

/* Deals out the tensors, and takes the optimiser's memory; w is there. */
enum deq_rc deq_train_step_prepare(struct deq_train *r, struct deq_err *err);
void deq_train_step_free(struct deq_train *r);
/* The ways in which steps take their gradients, as far as memory is concerned: in the first, in the last. */
void deq_train_grad_ways(const struct deq_train *r, struct deq_grad_opts ret[2]);
/* One step of the optimiser on the next batch. False when it was left out because something was not finite. */
bool deq_train_step(struct deq_train *r, struct deq_train_event *e);

/* The validation text's first max_tokens (0: all), as an event of kind VALID. */
struct deq_train_event deq_train_validate(struct deq_train *r, size_t max_tokens);

#endif
