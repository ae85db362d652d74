/* Fits the warm-start predictor: a small map from (token at t, equilibrium at t-1) to the equilibrium at t,
 *     z0_t = W_o relu(W_e e_t + W_z z*_{t-1} + b) + b_o,
 * by regression on equilibria of training text, |z0 - z*|^2 / |z*|^2 with AdamW: behind the model's training, on
 * equilibria solved for it, or together with the model, on those of its own steps. z* is the target and no more: no
 * gradient reaches the model. A wrong start costs evaluations, never correctness. */
#ifndef DEQ_TRAIN_PREDICTOR_H
#define DEQ_TRAIN_PREDICTOR_H

#include "core/base/pool.h"
#include "core/cell/predictor.h"
#include "core/train/dataset.h"
#include "core/train/implicit.h"

struct deq_predictor_fit {
    unsigned steps;
    float lr, tol;
    uint64_t seed, first_step; /* data of steps first_step, first_step + 1, ... */
    void (*progress)(void *ctx, unsigned step, unsigned steps, double relative_error);
    bool (*stop)(void *ctx); /* asked once a step */
    void *ctx;
};

/* Fits the predictor in w; the other weights are read only. A step takes `shards` batches of micro_batch
 * sequences. work: one a pool thread. Stopped, it leaves a predictor that is fitted in part. */
enum deq_rc deq_predictor_fit(const struct deq_predictor_fit *fit, const struct deq_arch *arch, struct deq_weights *w,
                              struct deq_dataset *data, struct deq_pool *pool, struct deq_grad_work *work,
                              size_t micro_batch, size_t shards, const struct deq_solver_opts *solver,
                              bool *ret_stopped, struct deq_err *err);

/* What it loses on equilibria z [N, S] of the tokens that s was begun with, and its gradients (added to grads), both
 * over `count`, the positions of the batch. scratch: deq_predictor_floats() of them. */
double deq_predictor_shard(const struct deq_predictor *p, const struct deq_weights *w, const struct deq_seq *s,
                           const float *z, size_t count, float *scratch, struct deq_weights *grads);
size_t deq_predictor_floats(const struct deq_predictor *p, size_t rows);

/* The loss of n rows and its gradients (added to grads): e [n, D] scaled embeddings; z_prev, target [n, S]; hidden,
 * d_hidden [n, Hp], out [n, S] scratch. Returns sum over rows of |z0 - target|^2 / |target|^2. grads, of w's layout,
 * NULL: loss only. scale: of the gradient. */
double deq_predictor_loss(const struct deq_predictor *p, const struct deq_weights *w, size_t embed_dim, size_t n,
                          const float *e, const float *z_prev, const float *target, float scale, float *hidden,
                          float *d_hidden, float *out, struct deq_weights *grads);

#endif
