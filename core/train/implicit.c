#include "core/train/implicit.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/math/kern.h"

enum { STREAM_DROPOUT = 201, STREAM_PROBE = 202 };

enum deq_rc deq_grad_work_new(const struct deq_arch *arch, size_t b, size_t t, const struct deq_grad_opts *widest,
                              unsigned n_tapes, bool dropout, struct deq_grad_work *ret, struct deq_err *err)
{
    struct deq_grad_work w = {0};
    const struct deq_seq_shape shape = {.b = b, .t = t, .n_tapes = n_tapes, .dropout = dropout};
    enum deq_rc rc = deq_seq_new(arch, &shape, &w.seq, err);
    if (rc)
        return rc;
    const size_t dim = t * w.seq->state_dim, nd = b * dim;
    const size_t floats = DEQ_MAX(deq_solve_floats(&widest->forward, b, dim),
                                  deq_solve_floats(&widest->adjoint, b, dim));
    w.z = DEQ_NEW_ARRAY(float, nd);
    w.f = DEQ_NEW_ARRAY(float, nd);
    w.y = DEQ_NEW_ARRAY(float, nd);
    w.d = DEQ_NEW_ARRAY(float, nd);
    w.g = DEQ_NEW_ARRAY(float, nd);
    w.noise = DEQ_NEW_ARRAY(float, nd);
    w.scratch = DEQ_NEW_ARRAY(float, floats);
    if (!w.z || !w.f || !w.y || !w.d || !w.g || !w.noise || !w.scratch) {
        deq_grad_work_free(&w);
        return deq_fail(err, DEQ_ENOMEM, "no memory for training on %zu sequences of %zu", b, t);
    }
    *ret = w;
    return DEQ_OK;
}

void deq_grad_work_free(struct deq_grad_work *w)
{
    deq_seq_free(w->seq);
    deq_free(w->z);
    deq_free(w->f);
    deq_free(w->y);
    deq_free(w->d);
    deq_free(w->g);
    deq_free(w->noise);
    deq_free(w->scratch);
    *w = (struct deq_grad_work){0};
}

static void eval_f(void *ctx, const float *z, float *fz)
{
    struct deq_seq *s = ctx;
    s->ops->forward(s, 0, z, fz);
}

/* g -> J' g + dL/dz */
static void eval_adjoint(void *ctx, const float *g, float *out)
{
    struct deq_grad_work *w = ctx;
    w->seq->ops->vjp(w->seq, 0, g, out, NULL);
    deq_kern()->add(out, out, w->d, w->seq->n * w->seq->state_dim);
}

void deq_grad_solve(struct deq_grad_work *w, const struct deq_solver_opts *o, struct deq_solve_report *ret)
{
    const size_t dim = w->seq->t * w->seq->state_dim;
    deq_seq_start(w->seq, w->z);
    deq_solve(o, w->seq->b, dim, eval_f, w->seq, w->z, w->f, w->scratch, NULL, ret);
}

/* The penalty's gradients, but for what passes through f(z*): that is taken from its gradient d_f [N, S]. The
 * perturbed evaluation goes to the last tape. */
static double jacobian_penalty(struct deq_grad_work *w, const struct deq_grad_opts *o, size_t count, uint64_t seed,
                               uint64_t key, float *d_f, struct deq_weights *grads)
{
    struct deq_seq *s = w->seq;
    const struct deq_kern *k = deq_kern();
    const size_t nd = s->n * s->state_dim;
    const unsigned last = s->n_tapes - 1;
    const float h = o->jac_step * sqrtf(k->dot(w->z, w->z, nd) / (float)nd) + 1e-8f;
    for (size_t i = 0; i < nd; i++)
        w->noise[i] = (float)deq_rng_normal(seed, STREAM_PROBE + (key << 8), i);
    float *v = w->noise;
    k->scale(v, h, nd);
    k->add(v, v, w->z, nd);
    s->ops->forward(s, last, v, v);
    k->sub(v, v, w->f, nd);
    k->scale(v, 1.0f / h, nd);
    const double penalty = (double)k->dot(v, v, nd) / (double)nd;
    /* the whole batch's mean: this shard has n of its `count` rows */
    k->scale(v, 2.0f * o->jac_weight / h / (float)(count * s->state_dim), nd);
    k->sub(d_f, d_f, v, nd);
    s->ops->vjp(s, last, v, v, grads);
    return penalty;
}

/* z* and what is recorded behind it: tape 0 is f at w->z, with its value in w->f. Returns the last state. */
static const float *record(struct deq_grad_work *w, const struct deq_grad_opts *o, struct deq_grad_report *r)
{
    struct deq_seq *s = w->seq;
    struct deq_solve_report solve = {.finite = true};
    if (o->mode == DEQ_GRAD_SHALLOW)
        deq_seq_start(s, w->z);
    else
        deq_grad_solve(w, &o->forward, &solve);
    r->evaluations = solve.evaluations;
    r->residual = solve.residual_mean;
    r->finite = solve.finite;
    if (!solve.newest) { /* else the solver's last evaluation is the one to record */
        s->ops->forward(s, 0, w->z, w->f);
        r->evaluations++;
    }
    const float *y = w->f;
    for (unsigned i = 1; i < o->depth && o->mode != DEQ_GRAD_IMPLICIT; i++, r->evaluations++) {
        s->ops->forward(s, i, y, w->y);
        y = w->y;
    }
    return y;
}

void deq_grad_shard(struct deq_grad_work *w, const struct deq_grad_opts *o, const struct deq_weights *weights,
                    const uint32_t *tokens, const uint32_t *targets, size_t count, uint64_t seed, uint64_t step,
                    uint64_t shard, struct deq_weights *grads, struct deq_grad_report *ret)
{
    struct deq_seq *s = w->seq;
    const size_t nd = s->n * s->state_dim, dim = s->t * s->state_dim;
    const uint64_t key = step * 4096 + shard;
    struct deq_grad_report r = {0};

    const struct deq_dropout drop = {o->dropout, o->weight_dropout, seed, STREAM_DROPOUT + (key << 8)};
    s->ops->begin(s, weights, tokens, &drop);
    const float *y = record(w, o, &r);
    r.loss = deq_seq_loss(s, y, targets, count, w->d, grads, NULL);
    r.finite = r.finite && isfinite(r.loss);
    float *d = w->d; /* the gradient of what tape 0 gave */
    if (r.finite && o->mode == DEQ_GRAD_IMPLICIT) {
        struct deq_solve_report solve;
        d = w->g;
        memcpy(d, w->d, nd * sizeof(float));
        deq_solve(&o->adjoint, s->b, dim, eval_adjoint, w, d, NULL, w->scratch, NULL, &solve);
        r.adjoint_evaluations = solve.evaluations;
        r.adjoint_residual = solve.residual_mean;
        r.finite = solve.finite;
    } else if (r.finite) {
        for (unsigned i = o->depth; i-- > 1;)
            s->ops->vjp(s, i, d, d, grads);
    }
    if (r.finite && o->jac_weight > 0)
        r.jac = jacobian_penalty(w, o, count, seed, key, d, grads);
    if (r.finite) {
        s->ops->vjp(s, 0, d, d, grads);
        if (o->mode == DEQ_GRAD_SHALLOW && s->ops->start_vjp) /* behind a solve it is constant */
            s->ops->start_vjp(s, d);
        s->ops->end(s, grads);
    }
    *ret = r;
}
