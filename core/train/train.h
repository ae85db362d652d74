/* The training run: recipe + data directory -> model directory.
 *
 * Everything that a run begins with is read and checked before the output directory receives anything: tokenizer.json
 * (unless it is there, see tokenizer.h), checkpoint.safetensors (atomically, every checkpoint_every steps, at the end
 * and when asked to stop) and, at the end of a run, config.json and model.safetensors. A step's batch is cut into
 * shards of micro_batch sequences, each with its own gradient buffer; buffers are added in order, so the result does
 * not depend on the number of threads.
 * The caller's thread runs it; hooks are called on that thread. */
#ifndef DEQ_TRAIN_TRAIN_H
#define DEQ_TRAIN_TRAIN_H

#include "core/train/checkpoint.h"
#include "core/train/recipe.h"

/* What a run is and holds from its first step to its last. */
struct deq_train_size {
    const char *grad;           /* train.grad */
    unsigned depth, segment;    /* of an explicit network, 0: an equilibrium; evaluations from one that is kept to the
                                 * next (train.recompute), 0: all are */
    unsigned threads;           /* that work at a time, each on micro_batch sequences */
    uint64_t parameters, non_embedding, predictor; /* in all; outside embedding, head and predictor; the predictor's */
    uint64_t activation_bytes;  /* for evaluations and their gradients, of all threads, without the head's logits */
    uint64_t parameter_bytes;   /* weights, moments and gradient buffers of the non_embedding ones */
};

struct deq_train_event {
    enum {
        DEQ_TRAIN_START,
        DEQ_TRAIN_STEP,
        DEQ_TRAIN_VALID,
        DEQ_TRAIN_SAVED,
        DEQ_TRAIN_PREDICTOR,
        DEQ_TRAIN_NOTE
    } kind;
    uint64_t step, steps;
    const char *phase;        /* "shallow", "deq", "explicit", "predictor" */
    double loss;              /* nats a token, of the last state; for PREDICTOR the relative error of the start */
    double bits_per_byte;     /* VALID */
    double perplexity;        /* VALID */
    float lr, grad_norm;
    double evaluations, adjoint_evaluations, residual, jac;
    double predictor; /* relative error of the start, with predictor.joint; else 0 */
    double tokens_per_second, seconds, cpu_seconds, eta_seconds;
    uint64_t tokens;
    const char *note;         /* NOTE, SAVED: a path or a sentence */
    const struct deq_train_size *size; /* START */
};

struct deq_train_hooks {
    void (*event)(void *ctx, const struct deq_train_event *e); /* may be NULL */
    bool (*stop)(void *ctx);                                   /* asked once a step; may be NULL */
    void *ctx;
};

struct deq_train_opts {
    const char *data_dir, *out_dir;
    unsigned threads;
    bool resume;       /* go on from out_dir/checkpoint.safetensors */
    bool new_recipe;   /* also where the recipe is not the one it began with */
    bool bf16;         /* write model.safetensors as BF16 */
    const char *init;  /* start from this model directory's weights (fresh optimiser), or NULL */
};

enum deq_rc deq_train_run(const struct deq_recipe *r, const struct deq_train_opts *o,
                          const struct deq_train_hooks *hooks, struct deq_err *err);

/* Initial values of the parameters from offset `from` on (0: all; w->n_main: the predictor). */
void deq_train_init(struct deq_weights *w, size_t from, uint64_t seed);
/* Learning rate of step `step` (from 0). */
float deq_train_lr(const struct deq_recipe *r, uint64_t step);
/* How much wider than solver.tol and solver.adjoint_tol the tolerances of step `step` are: at the first one through the
 * equilibrium as solver.tol_start says, at the last one 1, between them geometrically. */
float deq_train_widening(const struct deq_recipe *r, uint64_t step);
/* Evaluations that go before the recorded ones in a step, by train.drawn_evaluations N: 0..N, of seed and step only. */
unsigned deq_train_drawn(const struct deq_recipe *r, uint64_t step);

#endif
