/* Gradients through an equilibrium (Bai, Kolter, Koltun, "Deep Equilibrium Models", NeurIPS 2019, theorem 1).
 *
 * With z* = f(z*; theta) and a loss L(z*):      dL/dtheta = g' df/dtheta,    where g solves  g = J_f(z*)' g + dL/dz*.
 * The adjoint equation is a fixed point too and is solved by the same solvers with the cell's VJP; then one VJP reaches
 * the parameters. Memory does not depend on the number of iterations: solving uses one tape over and over.
 *
 * unroll k ("phantom gradient", Geng et al., "On training implicit models", NeurIPS 2021): after the solve, k
 * evaluations are recorded and differentiated; what came before is taken as constant.
 *
 * Jacobian penalty (Bai, Koltun, Kolter, "Stabilizing equilibrium models by Jacobian regularization", ICML 2021): E |J
 * eps|^2 / (N S). Their Hutchinson estimate needs a second derivative; the finite difference
 *     v = (f(z* + h eps) - f(z*)) / h
 * is the same in the limit and needs two VJPs: d|v|^2 = 2 v'(df(z* + h eps) - df(z*)) / h. z* is taken as constant, as
 * in the paper. The one at z* is shared with the loss, whose gradient comes through the same evaluation.
 *
 * Fixed point correction (Bai, Geng, Savani, Kolter, "Deep equilibrium optical flow estimation", CVPR 2022; torchdeq's
 * `indexing` and `gamma`): the loss is taken of early iterates too,
 *     L(z*) + sum_i gamma^(n - i) L(z_k(i)),      i = 0 .. n-1,  z_k: the state after k evaluations of the solve,
 * each with a one-step gradient: it passes through the evaluation that gave the state, and what that began from is
 * taken as constant, but for the start itself. It is taken as the solve passes by, on its one tape.
 *
 * An explicit network is the same cell evaluated a fixed number of times from the start, every evaluation recorded:
 * ordinary back-propagation, whose memory grows with depth L. Gradient checkpointing (Chen, Xu, Zhang, Guestrin,
 * "Training deep nets with sublinear memory cost", 2016) keeps every k-th evaluation's input and, on the way back,
 * makes the k evaluations behind it again: k tapes and L / k states instead of L tapes, for almost L more
 * evaluations. What is computed again is the same function of the same numbers, so gradients are equal bit for bit. */
#ifndef DEQ_TRAIN_IMPLICIT_H
#define DEQ_TRAIN_IMPLICIT_H

#include "core/cell/predictor.h"
#include "core/cell/seq.h"
#include "core/solve/solver.h"

enum { DEQ_INDEXING_MAX = 32 }; /* evaluations before which losses are taken */

enum deq_grad_mode { DEQ_GRAD_EXPLICIT, DEQ_GRAD_UNROLL, DEQ_GRAD_IMPLICIT };

struct deq_grad_opts {
    enum deq_grad_mode mode;
    unsigned depth;                 /* recorded evaluations of EXPLICIT (from the start) and UNROLL (after the solve) */
    unsigned segment;               /* k: of those only every k-th one's input is kept; 0: all are on tapes. With it no
                                     * penalty is taken */
    struct deq_solver_opts forward, adjoint;
    float jac_weight, jac_step;     /* 0: no penalty */
    uint32_t indexing;              /* bit k: the loss is also taken after k evaluations of the solve, which must be
                                     * able to make more; not of EXPLICIT */
    float gamma;                    /* its weight: this to the power of how many are taken behind it */
    const struct deq_predictor *predictor; /* of the weights, fitted on z* (predictor.h); NULL: it is not. Not of
                                     * EXPLICIT */
    float dropout, weight_dropout;
};

struct deq_grad_report {
    double loss;                   /* of the last state: nats, sum over this shard / count of the batch */
    unsigned evaluations, adjoint_evaluations; /* those made again too */
    float residual, adjoint_residual; /* means over sequences */
    double jac;                    /* |J eps|^2 / (N S), 0 when not taken */
    double predictor;              /* |z0 - z*|^2 / |z*|^2, sum over this shard / count of the batch */
    bool finite;
};

/* Work of one thread: a sequence set and scratch; reused for shard after shard. */
struct deq_grad_work {
    struct deq_seq *seq;
    float *z, *f;                  /* [N, S] z* and f(z*) */
    float *y, *d, *g;              /* [N, S] each; g for IMPLICIT alone */
    float *kept;                   /* [segments - 1, N, S] the states that segments begin at, but the first */
    float *scratch;                /* solver */
    float *fit;                    /* predictor */
    void *mem;                     /* the one block all of these but seq live in */
    uint64_t activation_bytes;     /* all that is held for evaluations and gradients, but for the head's rows of logits:
                                    * taken here, for good, whatever the number of evaluations of a solve */
};

/* Room for steps with any of the n options. */
enum deq_rc deq_grad_work_new(const struct deq_arch *arch, size_t b, size_t t, const struct deq_grad_opts *opts,
                              size_t n, struct deq_grad_work *ret, struct deq_err *err);
void deq_grad_work_free(struct deq_grad_work *w);

/* The k that holds least, for an explicit network of `depth` evaluations on b sequences of t. (It is below sqrt(depth),
 * the k for tapes no larger than a state.) */
enum deq_rc deq_grad_best_segment(const struct deq_arch *arch, size_t b, size_t t, unsigned depth, unsigned *ret,
                                  struct deq_err *err);

/* Solves z* of the tokens given to begin into work->z, f(z*) into work->f. */
void deq_grad_solve(struct deq_grad_work *work, const struct deq_solver_opts *o, struct deq_solve_report *ret);

/* Loss and gradients of one shard: tokens, targets [N], of `count` in the batch; grads are added to. step, shard: keys
 * of the random numbers. */
void deq_grad_shard(struct deq_grad_work *w, const struct deq_grad_opts *o, const struct deq_weights *weights,
                    const uint32_t *tokens, const uint32_t *targets, size_t count, uint64_t seed, uint64_t step,
                    uint64_t shard, struct deq_weights *grads, struct deq_grad_report *ret);

#endif
