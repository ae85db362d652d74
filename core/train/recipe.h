/* The training recipe: one YAML file, one table: recipe.c's rows and those of the kind of
 * cell that model.type names. */
#ifndef DEQ_TRAIN_RECIPE_H
#define DEQ_TRAIN_RECIPE_H

#include "core/base/options.h"
#include "core/cell/kind.h"

enum deq_recipe_grad { DEQ_RECIPE_IMPLICIT, DEQ_RECIPE_UNROLL, DEQ_RECIPE_EXPLICIT };
enum deq_recipe_optimizer { DEQ_RECIPE_ADAMW, DEQ_RECIPE_MUON };
enum deq_recipe_schedule { DEQ_RECIPE_COSINE, DEQ_RECIPE_WSD };

/* One object: the kind's architecture, which the keys under "model." fill, lies behind the struct, and the
 * table has the rows of both. */
struct deq_recipe {
    const struct deq_kind *kind;
    struct deq_opt_table table;
    bool of_model; /* the architecture began as a model's: what no key says is that model's too */
    /* model: the vocabulary's keys that are not numbers of the architecture */
    char type[32], cutoffs[128], tie_projections[64];
    bool tie_embeddings;
    uint32_t predictor_hidden;
    /* data: paths are relative to the data directory given to deq train */
    char train_files[4096];
    char valid_file[1024];
    float valid_share;
    uint32_t vocab_size;
    /* train */
    uint32_t steps, shallow_steps, shallow_depth, batch, micro_batch, seq_len, unroll, drawn;
    char indexing[128];
    enum deq_recipe_grad grad;
    bool recompute;
    float gamma, lr, lr_min, beta1, beta2, eps, weight_decay, clip, dropout, weight_dropout;
    uint32_t warmup;
    enum deq_recipe_optimizer optimizer;
    float muon_lr, muon_momentum;
    enum deq_recipe_schedule schedule;
    float decay_share;
    uint64_t seed;
    float jac_weight, jac_step;
    uint32_t jac_every;
    uint32_t eval_every, eval_tokens, checkpoint_every, log_every;
    /* solver while training, and for the adjoint */
    enum deq_solver_method solver;
    float tol, tol_start, beta, reg, adjoint_tol;
    uint32_t max_iter, memory, adjoint_max_iter;
    /* what config.json recommends for serving */
    enum deq_solver_method serve_solver;
    enum deq_warm serve_warm;
    float serve_tol;
    uint32_t serve_max_iter, serve_memory, serve_window;
    /* predictor */
    bool predictor_joint;
    uint32_t predictor_steps;
    float predictor_lr, predictor_tol;
    /* how deq train ends: deq tune's search for better settings than those */
    float tune_budget;    /* percent; 0: it does not */
    char tune_text[1024]; /* "": the validation text */
    uint32_t tune_tokens, tune_seconds;
};

/* Defaults of a kind; and the file over them. The recipe is the caller's, deq_recipe_free. */
enum deq_rc deq_recipe_new(const struct deq_kind *kind, struct deq_recipe **ret, struct deq_err *err);
/* init: a model's directory, whose architecture is what the file leaves open (deq_recipe_of_model), or NULL. Its kind
 * must be the file's. */
enum deq_rc deq_recipe_load(const char *path, const char *init, struct deq_recipe **ret, struct deq_err *err);
/* Everything under model, data.vocab_size, predictor.hidden_size and serve becomes what the model has. */
enum deq_rc deq_recipe_of_model(struct deq_recipe *r, const struct deq_arch *a, struct deq_err *err);
void deq_recipe_free(struct deq_recipe *r);
/* What is missing, and what one field's range cannot say. */
enum deq_rc deq_recipe_check(const struct deq_recipe *r, struct deq_err *err);
/* What model.* describe, without vocabulary and serving defaults. */
const struct deq_arch *deq_recipe_model(const struct deq_recipe *r);
/* Bit k: the loss is also taken after k evaluations (train.indexing, which deq_recipe_check has seen). */
uint32_t deq_recipe_indexing(const struct deq_recipe *r);
/* The share of every training file that is not trained on, because there is no validation file. */
float deq_recipe_held_back(const struct deq_recipe *r);
/* The texts that the model is tuned by: '\n'-separated names, of each all (0) or the last share. */
const char *deq_recipe_tune_files(const struct deq_recipe *r, float *ret_tail);
/* Evaluations of f in the explicit network that step `step` (from 0) trains; 0: it trains an equilibrium. */
unsigned deq_recipe_depth(const struct deq_recipe *r, uint64_t step);
/* What the log calls that: "explicit", the whole run long, "shallow" before the equilibrium, "deq". */
const char *deq_recipe_phase(const struct deq_recipe *r, uint64_t step);
/* train.grad, as it is written. */
const char *deq_recipe_grad_name(const struct deq_recipe *r);
/* Whether the run ends by tuning. */
bool deq_recipe_tunes(const struct deq_recipe *r);
/* recipe_arch.c. The whole architecture it describes, for a tokenizer of so many tokens (of a model's, which may have
 * more rows than tokens, data.vocab_size); eos_id 0, since our tokenizers put the end of text first, or the model's.
 * The caller's, deq_free. */
enum deq_rc deq_recipe_arch(const struct deq_recipe *r, uint32_t tokens, struct deq_arch **ret, struct deq_err *err);
/* Solvers while training. */
struct deq_solver_opts deq_recipe_solver(const struct deq_recipe *r);
struct deq_solver_opts deq_recipe_adjoint(const struct deq_recipe *r);

#endif
