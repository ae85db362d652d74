#include "core/train/recipe.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/yaml.h"
#include "core/cell/config.h"
#include "core/cell/transformer.h"
#include "core/train/implicit.h"

#define AT(field) offsetof(struct deq_recipe, field)
#define U32(name, field, lo, hi, def, help) {name, DEQ_OPT_U32, AT(field), lo, hi, def, NULL, help}
#define FLT(name, field, lo, hi, def, help) {name, DEQ_OPT_FLOAT, AT(field), lo, hi, def, NULL, help}
#define STR(name, field, def, choices, help) \
    {name, DEQ_OPT_STR, AT(field), 0, sizeof(((struct deq_recipe *)0)->field), def, choices, help}
/* choices in the order of the enum */
#define ENUM(name, field, def, choices, help) {name, DEQ_OPT_ENUM, AT(field), 0, 0, def, choices, help}
#define BOOL(name, field, def, help) {name, DEQ_OPT_BOOL, AT(field), 0, 1, def, NULL, help}
#define LIST(name, field, help) \
    {name, DEQ_OPT_LIST, AT(field), 0, sizeof(((struct deq_recipe *)0)->field), "", NULL, help}

/* The kind's architecture lies behind the struct: one object for the rows of both tables. */
enum { ARCH_AT = DEQ_ROUND_UP(sizeof(struct deq_recipe), 64) };
#define VOCAB(name, field, lo, hi, def, help) \
    {name, DEQ_OPT_U32, ARCH_AT + offsetof(struct deq_arch, vocab.field), lo, hi, def, NULL, help}

/* Keys under model of every kind, before the kind's own. */
static const struct deq_opt model_options[] = {
    STR("model.type", type, "transformer", NULL,
        "Kind of cell; one that does not exist is answered with those that do."),
    BOOL("model.tie_embeddings", tie_embeddings, "true", "The head's words are the embeddings."),
    {"model.head_bias", DEQ_OPT_BOOL, ARCH_AT + offsetof(struct deq_arch, vocab.head_bias), 0, 1, "false", NULL,
     "Logits have a bias."},
    VOCAB("model.output_size", d_out, 0, 16384, "0",
          "Width of what the head reads of a state, of kinds whose state has more; 0: hidden_size."),
    LIST("model.cutoffs", cutoffs,
         "Adaptive embedding and softmax: the first ids of the clusters behind the shortlist; []: one cluster."),
    VOCAB("model.embedding_size", d_embed, 0, 16384, "0",
          "Width of the shortlist's embeddings, which reach hidden_size by a projection; 0: hidden_size."),
    VOCAB("model.div_val", div_val, 1, 1024, "1",
          "Every cluster's embeddings are so many times narrower than the last."),
    LIST("model.tie_projections", tie_projections,
         "Whether the head's projection is the embedding's, one of true and false for each cluster; []: all are."),
};

static const struct deq_opt options[] = {
    {"data.train", DEQ_OPT_LIST, AT(train_files), 0, sizeof(((struct deq_recipe *)0)->train_files), NULL, NULL,
     "Training text files, relative to the data directory."},
    FLT("data.valid_share", valid_share, 0, 0.5, "0",
        "Without data.valid: the share at the end of each training file that is held back for validation."),
    STR("data.valid", valid_file, NULL, NULL, "Validation text file, relative to the data directory."),
    U32("data.vocab_size", vocab_size, 257, 1 << 20, "4096",
        "Size of the byte-level BPE vocabulary trained on the training text."),
    U32("train.steps", steps, 1, 100000000, "1000", "Optimiser steps in all."),
    U32("train.shallow_steps", shallow_steps, 0, 100000000, "250",
        "First steps, trained as a weight-tied network of fixed depth."),
    U32("train.shallow_depth", shallow_depth, 1, 128, "4", "Depth of that network, in evaluations of f."),
    U32("train.batch", batch, 1, 4096, "8", "Sequences in a step."),
    U32("train.micro_batch", micro_batch, 1, 4096, "4", "Sequences one thread works on at a time; divides batch."),
    U32("train.seq_len", seq_len, 2, 65536, "256",
        "Positions of a sequence; of a transformer at most the attention window."),
    ENUM("train.grad", grad, "implicit", "implicit|unroll|explicit",
         "implicit: adjoint fixed point; unroll: the last recorded evaluations only; explicit: no equilibrium, but a "
         "network of solver.max_iter evaluations, differentiated through all of them: the other keys of shallow, "
         "jac, solver, serve, predictor and tune do not concern it."),
    BOOL("train.recompute", recompute, "false",
         "For grad explicit: gradient checkpointing. Few evaluations are kept, the others are made again on the way "
         "back: less memory, the same bits."),
    U32("train.unroll", unroll, 1, 32, "2",
        "Recorded evaluations after the solve, for grad unroll (phantom gradient)."),
    U32("train.drawn_evaluations", drawn, 0, 32, "0",
        "For grad unroll: instead of a solve to solver.tol a number of evaluations drawn of 0..N in every step; 0: a "
        "solve."),
    LIST("train.indexing", indexing,
         "Fixed point correction: numbers of evaluations (0: where iterates begin, if layers propose that) after which "
         "the loss is taken too, as the solve passes by; []: of the last state alone."),
    FLT("train.gamma", gamma, 0, 1, "0.8", "Weight of the last of these losses, to that of the last state; and so on."),
    FLT("train.lr", lr, 0, 10, "1e-3", "Peak learning rate."),
    FLT("train.lr_min", lr_min, 0, 10, "0", "Learning rate at the end."),
    U32("train.warmup", warmup, 0, 100000000, "100", "Steps of linear warm-up."),
    ENUM("train.schedule", schedule, "cosine", "cosine|wsd",
         "After the warm-up: cosine to lr_min, or constant with a linear decay at the end."),
    FLT("train.decay_share", decay_share, 0, 1, "0.2", "wsd: share of the steps that the final decay takes."),
    ENUM("train.optimizer", optimizer, "adamw", "adamw|muon",
         "muon: the cell's matrices by Muon, everything else by AdamW."),
    FLT("train.muon_lr", muon_lr, 0, 10, "4e-3",
        "Muon's peak learning rate (on the scale of AdamW's; follows the same schedule)."),
    FLT("train.muon_momentum", muon_momentum, 0, 0.999, "0.95", "Muon's momentum."),
    FLT("train.beta1", beta1, 0, 0.9999, "0.9", "AdamW's first moment."),
    FLT("train.beta2", beta2, 0, 0.99999, "0.98", "AdamW's second moment."),
    FLT("train.eps", eps, 1e-20, 1, "1e-8", "AdamW's epsilon."),
    FLT("train.weight_decay", weight_decay, 0, 10, "0.05", "Decoupled weight decay, on matrices."),
    FLT("train.clip", clip, 0, 1e9, "1", "Largest 2-norm of the gradient; 0: no clipping."),
    FLT("train.dropout", dropout, 0, 0.9, "0",
        "Variational dropout: one mask a sequence, the same in every evaluation."),
    FLT("train.weight_dropout", weight_dropout, 0, 0.9, "0",
        "Share of the recurrent weights left out of a batch (DropConnect), of kinds that know it."),
    {"train.seed", DEQ_OPT_U64, AT(seed), 0, 9e15, "1", NULL,
     "Seed of initial weights, data order, dropout and probes."},
    FLT("train.jac_weight", jac_weight, 0, 1e6, "0.5", "Weight of the Jacobian penalty |J eps|^2 / (N D)."),
    FLT("train.jac_step", jac_step, 1e-6, 1, "1e-2",
        "Finite-difference step of the penalty, relative to the state's size."),
    U32("train.jac_every", jac_every, 0, 1000000, "2", "The penalty is taken every so many steps; 0: never."),
    U32("train.eval_every", eval_every, 0, 100000000, "250", "Steps between validations; 0: only at the end."),
    U32("train.eval_tokens", eval_tokens, 0, 100000000, "16384", "Tokens of a validation during training; 0: all."),
    U32("train.checkpoint_every", checkpoint_every, 0, 100000000, "250",
        "Steps between checkpoints; 0: only at the end."),
    U32("train.log_every", log_every, 1, 1000000, "10", "Steps between lines of the log."),
    ENUM("solver.method", solver, "anderson", DEQ_SOLVER_CHOICES,
         "Root finder of the forward and the adjoint equation."),
    FLT("solver.tol", tol, 0, 10, "1e-2", "Relative residual at which the forward solve stops."),
    FLT("solver.tol_start", tol_start, 0, 10, "0",
        "Tolerance schedule: tol of the first step through the equilibrium, from where it goes to tol at the last one "
        "(geometrically; adjoint_tol by the same factor); 0: tol in all steps."),
    U32("solver.max_iter", max_iter, 1, 1000, "10",
        "Evaluations of the forward solve at most; depth of a network of grad explicit."),
    U32("solver.memory", memory, 1, DEQ_SOLVER_MEMORY_MAX, "3", "Pairs kept by Anderson, updates kept by Broyden."),
    FLT("solver.beta", beta, 1e-3, 1, "1", "Mixing."),
    FLT("solver.reg", reg, 0, 1, "1e-4", "Anderson's regularisation."),
    FLT("solver.adjoint_tol", adjoint_tol, 0, 10, "1e-2", "Relative residual at which the adjoint solve stops."),
    U32("solver.adjoint_max_iter", adjoint_max_iter, 1, 1000, "10", "VJPs of the adjoint solve at most."),
    ENUM("serve.solver", serve_solver, "anderson", DEQ_SOLVER_CHOICES, "Solver that config.json recommends."),
    FLT("serve.tol", serve_tol, 0, 10, "1e-2", "Tolerance that config.json recommends."),
    U32("serve.max_iter", serve_max_iter, 1, 1000, "32", "Evaluations at most that config.json recommends."),
    U32("serve.memory", serve_memory, 1, DEQ_SOLVER_MEMORY_MAX, "3", "Solver memory that config.json recommends."),
    U32("serve.window", serve_window, 0, DEQ_ROW_WINDOW_MAX, "0",
        "Rows solved behind the committed prefix that config.json recommends; 0: those of the model that the run "
        "starts from, else 8, of a model with layers before its loop 1, and a prompt's 16."),
    ENUM("serve.warm_start", serve_warm, "predictor", DEQ_WARM_CHOICES, "Warm start that config.json recommends."),
    U32("predictor.hidden_size", predictor_hidden, 0, 65536, "512",
        "Hidden width of the warm-start predictor; 0: none."),
    BOOL("predictor.joint", predictor_joint, "false",
         "It is trained together with the model, on the equilibria of its steps, and not fitted behind it: of steps, "
         "lr and tol only lr concerns it then, the peak on the model's schedule."),
    U32("predictor.steps", predictor_steps, 0, 1000000, "400", "Steps of fitting it, after the model is trained."),
    FLT("predictor.lr", predictor_lr, 0, 1, "2e-3", "Learning rate of fitting it (cosine to 0)."),
    FLT("predictor.tol", predictor_tol, 0, 1, "1e-3", "Tolerance of the equilibria that it is fitted on."),
    FLT("tune.loss_budget", tune_budget, 0, 100, "0.1",
        "Loss in percent that may be given for speed: the run ends as deq tune would go on, and config.json gets what "
        "that chooses instead of serve.*; 0: it does not."),
    STR("tune.text", tune_text, NULL, NULL,
        "Text file to tune by, relative to the data directory; null: the validation text."),
    U32("tune.tokens", tune_tokens, 1024, 1 << 24, "65537", "Tokens of it at most."),
    U32("tune.seconds", tune_seconds, 1, 1 << 24, "900", "Time to take: what is known then decides."),
};

/* --- One object for the rows of both tables --- */

const struct deq_arch *deq_recipe_model(const struct deq_recipe *r)
{
    return (const struct deq_arch *)(const void *)((const char *)r + ARCH_AT);
}

enum deq_rc deq_recipe_new(const struct deq_kind *kind, struct deq_recipe **ret, struct deq_err *err)
{
    const struct deq_opt_table *k = &kind->recipe;
    struct deq_arch *arch = deq_arch_new(kind);
    struct deq_recipe *r = deq_alloc(ARCH_AT + kind->arch_size);
    const size_t common = DEQ_COUNT(model_options), n = common + k->n + DEQ_COUNT(options);
    struct deq_opt *rows = DEQ_NEW_ARRAY(struct deq_opt, n);
    if (!arch || !r || !rows) {
        deq_free(arch);
        deq_free(r);
        deq_free(rows);
        return deq_fail(err, DEQ_ENOMEM, "no memory for a recipe");
    }
    memcpy((char *)r + ARCH_AT, arch, kind->arch_size);
    deq_free(arch);
    memcpy(rows, model_options, sizeof model_options);
    for (size_t i = 0; i < k->n; i++) {
        rows[common + i] = k->opt[i];
        rows[common + i].offset += ARCH_AT;
    }
    memcpy(rows + common + k->n, options, sizeof options);
    r->kind = kind;
    r->table = (struct deq_opt_table){rows, n};
    enum deq_rc rc = deq_opt_defaults(&r->table, r, err);
    snprintf(r->type, sizeof r->type, "%s", kind->title);
    if (rc)
        deq_recipe_free(r);
    else
        *ret = r;
    return rc;
}

void deq_recipe_free(struct deq_recipe *r)
{
    if (!r)
        return;
    deq_free((void *)r->table.opt);
    deq_free(r);
}

enum deq_rc deq_recipe_of_model(struct deq_recipe *r, const struct deq_arch *a, struct deq_err *err)
{
    const struct deq_vocab *v = &a->vocab;
    const struct deq_opt *cutoffs = deq_opt_find(&r->table, "model.cutoffs"),
                         *ties = deq_opt_find(&r->table, "model.tie_projections");
    enum deq_rc rc = DEQ_OK;
    memcpy((char *)r + ARCH_AT, a, a->kind->arch_size);
    r->of_model = true;
    r->vocab_size = v->size;
    r->tie_embeddings = !v->head_untied;
    r->cutoffs[0] = r->tie_projections[0] = 0;
    for (uint32_t i = 0; i < v->n_cutoffs && !rc; i++) {
        char id[16];
        snprintf(id, sizeof id, "%u", v->cutoffs[i]);
        rc = deq_opt_set(cutoffs, r, id, (int)i, err);
    }
    for (unsigned c = 0; c < deq_clusters(v) && deq_projects(v) && !rc; c++)
        rc = deq_opt_set(ties, r, v->proj_untied[c] ? "false" : "true", (int)c, err);
    r->predictor_hidden = a->predictor_hidden;
    r->serve_solver = a->serving.solver.method;
    r->serve_tol = a->serving.solver.tol;
    r->serve_max_iter = a->serving.solver.max_iter;
    r->serve_memory = a->serving.solver.memory;
    r->serve_warm = a->serving.warm;
    return rc;
}

static enum deq_rc check_explicit(const struct deq_recipe *r, struct deq_err *err)
{
    if (r->drawn)
        return deq_fail(err, DEQ_EINVAL, "train.drawn_evaluations: %u does not go with train.grad explicit, whose "
                        "evaluations are solver.max_iter", r->drawn);
    if (r->indexing[0])
        return deq_fail(err, DEQ_EINVAL, "train.indexing: does not go with train.grad explicit, whose loss is the last "
                        "state's");
    if (r->recompute && r->max_iter == 1)
        return deq_fail(err, DEQ_EINVAL, "train.recompute: a network of one evaluation (solver.max_iter) has none to "
                        "make again");
    return DEQ_OK;
}

/* Where the loss is taken on the way to an equilibrium. */
static enum deq_rc check_indexing(const struct deq_recipe *r, struct deq_err *err)
{
    const uint32_t below = DEQ_MIN(r->max_iter, (uint32_t)DEQ_INDEXING_MAX);
    for (const char *s = r->indexing; *s; s += strcspn(s, "\n"), s += *s == '\n') {
        char *end = NULL;
        const unsigned long k = *s >= '0' && *s <= '9' ? strtoul(s, &end, 10) : 0;
        if (!end || (*end && *end != '\n') || k >= below)
            return deq_fail(err, DEQ_EINVAL,
                            "train.indexing: \"%.*s\" is not a number in 0..%u (below solver.max_iter)",
                            (int)strcspn(s, "\n"), s, below - 1);
    }
    if (deq_recipe_indexing(r) & 1 && !deq_arch_proposes(deq_recipe_model(r)))
        return deq_fail(err, DEQ_EINVAL,
                        "train.indexing: 0, but no layers before the loop propose where iterates begin");
    return DEQ_OK;
}

/* A number of evaluations that is drawn takes the place of a solve. */
static enum deq_rc check_drawn(const struct deq_recipe *r, struct deq_err *err)
{
    if (r->grad == DEQ_RECIPE_IMPLICIT)
        return deq_fail(err, DEQ_EINVAL, "train.drawn_evaluations: %u does not go with train.grad implicit, which "
                        "needs the equilibrium", r->drawn);
    const char *const other = r->indexing[0]                              ? "train.indexing"
                              : r->predictor_joint && r->predictor_hidden ? "predictor.joint"
                              : r->tol_start > 0                          ? "solver.tol_start"
                                                                          : NULL;
    if (!other)
        return DEQ_OK;
    return deq_fail(err, DEQ_EINVAL, "%s: does not go with train.drawn_evaluations %u, which takes the place of a "
                    "solve", other, r->drawn);
}

static enum deq_rc check_equilibrium(const struct deq_recipe *r, struct deq_err *err)
{
    const enum deq_rc rc = r->drawn ? check_drawn(r, err) : check_indexing(r, err);
    if (rc)
        return rc;
    if (r->recompute)
        return deq_fail(err, DEQ_EINVAL, "train.recompute: is for train.grad explicit, an equilibrium's memory does "
                        "not grow with its evaluations");
    if (r->tol_start > 0 && !(r->tol > 0))
        return deq_fail(err, DEQ_EINVAL, "solver.tol_start: %g has no way to solver.tol 0", (double)r->tol_start);
    if (r->shallow_steps > r->steps)
        return deq_fail(err, DEQ_EINVAL, "train.shallow_steps: %u exceeds train.steps %u; for so few write "
                        "train.shallow_steps: %u, or 0 for none", r->shallow_steps, r->steps,
                        DEQ_MAX(r->steps / 4, UINT32_C(1)));
    if (r->serve_warm == DEQ_WARM_PREDICTOR && !r->predictor_hidden)
        return deq_fail(err, DEQ_EINVAL, "serve.warm_start: predictor, but predictor.hidden_size is 0");
    return DEQ_OK;
}

enum deq_rc deq_recipe_check(const struct deq_recipe *r, struct deq_err *err)
{
    if (!r->train_files[0])
        return deq_fail(err, DEQ_EINVAL, "data.train: missing; one text file can be given as --data FILE");
    if (!r->valid_file[0] && !(r->valid_share > 0))
        return deq_fail(err, DEQ_EINVAL, "data.valid: missing, and data.valid_share is 0");
    if (r->batch % r->micro_batch)
        return deq_fail(err, DEQ_EINVAL, "train.batch: %u is not a multiple of train.micro_batch %u", r->batch,
                        r->micro_batch);
    const struct deq_arch *model = deq_recipe_model(r);
    if (strcmp(r->type, r->kind->title)) {
        char known[160];
        deq_kind_list(known, sizeof known, true);
        return deq_fail(err, DEQ_EINVAL,
                        "model.type: %s, but the file is a recipe of a %s: the kind (one of %s) is chosen in the file, "
                        "beside its own keys",
                        r->type, r->kind->title, known);
    }
    if (r->kind->seq_max && r->seq_len > r->kind->seq_max(model))
        return deq_fail(err, DEQ_EINVAL, "train.seq_len: %u exceeds %u, all that a position of this model sees",
                        r->seq_len, r->kind->seq_max(model));
    if (r->weight_dropout > 0 && !r->kind->drops_weights)
        return deq_fail(err, DEQ_EINVAL, "train.weight_dropout: a %s knows none", r->kind->title);
    const enum deq_rc of_grad = r->grad == DEQ_RECIPE_EXPLICIT ? check_explicit(r, err) : check_equilibrium(r, err);
    if (of_grad)
        return of_grad;
    struct deq_arch *a;
    const enum deq_rc rc = deq_recipe_arch(r, r->vocab_size, &a, err); /* before a tokenizer is trained for it */
    if (!rc)
        deq_free(a);
    return rc;
}

/* model.type of the file, before anything else is read */
static enum deq_rc on_type(void *ctx, const struct deq_yaml_item *item, struct deq_err *err)
{
    (void)err;
    char *type = ctx;
    if (!strcmp(item->key, "model.type") && item->kind == DEQ_YAML_SCALAR)
        snprintf(type, sizeof ((struct deq_recipe *)0)->type, "%s", item->value);
    return DEQ_OK;
}

/* The file over the defaults of its kind, or over a model's architecture. */
static enum deq_rc load(const char *path, const struct deq_arch *of, struct deq_recipe **ret, struct deq_err *err)
{
    char type[sizeof ((struct deq_recipe *)0)->type] = "", known[160];
    struct deq_recipe *r;
    enum deq_rc rc = deq_yaml_walk_file(path, on_type, type, err);
    if (rc)
        return rc;
    if (!type[0])
        snprintf(type, sizeof type, "%s", of ? of->kind->title : deq_transformer_kind.title);
    const struct deq_kind *kind = deq_kind_by_title(type);
    deq_kind_list(known, sizeof known, true);
    if (!kind)
        return deq_fail(err, DEQ_EINVAL, "%s: model.type: %s is not one of %s", path, type, known);
    if (of && of->kind != kind)
        return deq_fail(err, DEQ_EINVAL, "%s: model.type: %s, but the model to start from is a %s", path, type,
                        of->kind->title);
    rc = deq_recipe_new(kind, &r, err);
    if (rc)
        return rc;
    if (of)
        rc = deq_recipe_of_model(r, of, err);
    if (!rc)
        rc = deq_opt_load(&r->table, r, path, err);
    if (rc)
        deq_recipe_free(r);
    else
        *ret = r;
    return rc;
}

enum deq_rc deq_recipe_load(const char *path, const char *init, struct deq_recipe **ret, struct deq_err *err)
{
    char config[4096];
    struct deq_arch *of = NULL;
    enum deq_rc rc = DEQ_OK;
    if (init && !deq_io_join(config, sizeof config, init, "config.json"))
        rc = deq_fail(err, DEQ_EINVAL, "%s: path too long", init);
    else if (init)
        rc = deq_config_load(config, &of, err);
    if (!rc)
        rc = load(path, of, ret, err);
    deq_free(of);
    return rc;
}

uint32_t deq_recipe_indexing(const struct deq_recipe *r)
{
    uint32_t mask = 0;
    for (const char *s = r->indexing; *s; s += strcspn(s, "\n"), s += *s == '\n')
        mask |= UINT32_C(1) << strtoul(s, NULL, 10);
    return mask;
}

float deq_recipe_held_back(const struct deq_recipe *r)
{
    return r->valid_file[0] ? 0 : r->valid_share;
}

const char *deq_recipe_tune_files(const struct deq_recipe *r, float *ret_tail)
{
    *ret_tail = r->tune_text[0] ? 0 : deq_recipe_held_back(r);
    return r->tune_text[0] ? r->tune_text : r->valid_file[0] ? r->valid_file : r->train_files;
}

unsigned deq_recipe_depth(const struct deq_recipe *r, uint64_t step)
{
    return r->grad == DEQ_RECIPE_EXPLICIT ? r->max_iter : step < r->shallow_steps ? r->shallow_depth : 0;
}

const char *deq_recipe_phase(const struct deq_recipe *r, uint64_t step)
{
    return r->grad == DEQ_RECIPE_EXPLICIT ? "explicit" : step < r->shallow_steps ? "shallow" : "deq";
}

const char *deq_recipe_grad_name(const struct deq_recipe *r)
{
    static const char *const names[] = {
        [DEQ_RECIPE_IMPLICIT] = "implicit", [DEQ_RECIPE_UNROLL] = "unroll", [DEQ_RECIPE_EXPLICIT] = "explicit"};
    return names[r->grad];
}

bool deq_recipe_tunes(const struct deq_recipe *r)
{
    return r->grad != DEQ_RECIPE_EXPLICIT && r->tune_budget > 0 && r->serve_tol > 0;
}

struct deq_solver_opts deq_recipe_solver(const struct deq_recipe *r)
{
    struct deq_solver_opts o = deq_solver_defaults();
    o.method = r->solver;
    o.tol = r->tol;
    o.max_iter = r->max_iter;
    o.memory = r->memory;
    o.beta = r->beta;
    o.reg = r->reg;
    return o;
}

struct deq_solver_opts deq_recipe_adjoint(const struct deq_recipe *r)
{
    struct deq_solver_opts o = deq_recipe_solver(r);
    o.tol = r->adjoint_tol;
    o.max_iter = r->adjoint_max_iter;
    return o;
}
