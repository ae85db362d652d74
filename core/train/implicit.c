#include "core/train/implicit.h"

#include <math.h>
#include <string.h>

#include "core/base/layout.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/math/kern.h"
#include "core/train/predictor.h"

enum { STREAM_DROPOUT = 201, STREAM_PROBE = 202 };

/* --- Memory --- */

/* Recorded evaluations, and how many of them are on tapes at a time. */
static unsigned recorded(const struct deq_grad_opts *o)
{
    return o->mode == DEQ_GRAD_IMPLICIT ? 1 : o->depth;
}

static unsigned segment_of(const struct deq_grad_opts *o)
{
    return o->segment ? DEQ_MIN(o->segment, recorded(o)) : recorded(o);
}

static unsigned segments(const struct deq_grad_opts *o)
{
    return (recorded(o) - 1) / segment_of(o) + 1;
}

/* What steps with any of some options need, and solves in them. */
struct room {
    unsigned n_tapes, kept;
    bool dropout, adjoint;
    size_t scratch, fit; /* floats */
};

static struct room room_for(const struct deq_grad_opts *opts, size_t n)
{
    struct room r = {0};
    for (size_t i = 0; i < n; i++) {
        const struct deq_grad_opts *o = &opts[i];
        const unsigned penalty = o->jac_weight > 0 ? 2 : 0; /* the first evaluation, and the perturbed one */
        r.n_tapes = DEQ_MAX(r.n_tapes, DEQ_MAX(segment_of(o), penalty));
        r.kept = DEQ_MAX(r.kept, segments(o) - 1);
        r.dropout = r.dropout || o->dropout > 0 || o->weight_dropout > 0;
        r.adjoint = r.adjoint || o->mode == DEQ_GRAD_IMPLICIT;
    }
    return r;
}

static size_t scratch_for(const struct deq_grad_opts *opts, size_t n, size_t b, size_t dim)
{
    size_t floats = 0;
    for (size_t i = 0; i < n; i++) {
        if (opts[i].mode != DEQ_GRAD_EXPLICIT)
            floats = DEQ_MAX(floats, deq_solve_floats(&opts[i].forward, b, dim));
        if (opts[i].mode == DEQ_GRAD_IMPLICIT)
            floats = DEQ_MAX(floats, deq_solve_floats(&opts[i].adjoint, b, dim));
    }
    return floats;
}

static void lay_out(struct deq_grad_work *w, const struct room *r, size_t nd, struct deq_layout *l)
{
    DEQ_PART(l, w->z, nd);
    DEQ_PART(l, w->f, nd);
    DEQ_PART(l, w->y, nd);
    DEQ_PART(l, w->d, nd);
    DEQ_PART(l, w->g, r->adjoint ? nd : 0);
    DEQ_PART(l, w->kept, r->kept * nd);
    DEQ_PART(l, w->scratch, r->scratch);
    DEQ_PART(l, w->fit, r->fit);
}

enum deq_rc deq_grad_work_new(const struct deq_arch *arch, size_t b, size_t t, const struct deq_grad_opts *opts,
                              size_t n, struct deq_grad_work *ret, struct deq_err *err)
{
    struct deq_grad_work w = {0};
    struct room room = room_for(opts, n);
    const struct deq_seq_shape shape = {.b = b, .t = t, .n_tapes = room.n_tapes, .dropout = room.dropout};
    enum deq_rc rc = deq_seq_new(arch, &shape, &w.seq, err);
    if (rc)
        return rc;
    const size_t dim = t * w.seq->state_dim;
    struct deq_layout l = {0};
    room.scratch = scratch_for(opts, n, b, dim);
    for (size_t i = 0; i < n; i++)
        if (opts[i].predictor)
            room.fit = deq_predictor_floats(opts[i].predictor, b * t);
    lay_out(&w, &room, b * dim, &l);
    l = (struct deq_layout){.base = w.mem = deq_alloc(l.bytes)};
    if (!w.mem) {
        deq_grad_work_free(&w);
        return deq_fail(err, DEQ_ENOMEM, "no memory for training on %zu sequences of %zu", b, t);
    }
    lay_out(&w, &room, b * dim, &l);
    w.activation_bytes = w.seq->bytes - w.seq->logits_bytes + l.bytes;
    *ret = w;
    return DEQ_OK;
}

void deq_grad_work_free(struct deq_grad_work *w)
{
    deq_seq_free(w->seq);
    deq_free(w->mem);
    *w = (struct deq_grad_work){0};
}

enum deq_rc deq_grad_best_segment(const struct deq_arch *arch, size_t b, size_t t, unsigned depth, unsigned *ret,
                                  struct deq_err *err)
{
    size_t bytes[2], state = 0, least = SIZE_MAX; /* of all with one tape and with two */
    for (unsigned i = 0; i < 2; i++) {
        const struct deq_seq_shape shape = {.b = b, .t = t, .n_tapes = i + 1};
        struct deq_seq *s;
        const enum deq_rc rc = deq_seq_new(arch, &shape, &s, err);
        if (rc)
            return rc;
        bytes[i] = s->bytes;
        state = s->n * s->state_dim * sizeof(float);
        deq_seq_free(s);
    }
    for (unsigned k = 1; k <= depth; k++) {
        const size_t held = (depth - 1) / k * state + k * (bytes[1] - bytes[0]);
        if (held < least) {
            least = held;
            *ret = k;
        }
    }
    return DEQ_OK;
}

/* --- The forward pass --- */

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
 * perturbed evaluation goes to the last tape: what was recorded behind the first has been differentiated. */
static double jacobian_penalty(struct deq_grad_work *w, const struct deq_grad_opts *o, size_t count, uint64_t seed,
                               uint64_t key, float *d_f, struct deq_weights *grads)
{
    struct deq_seq *s = w->seq;
    const struct deq_kern *k = deq_kern();
    const size_t nd = s->n * s->state_dim;
    const unsigned last = s->n_tapes - 1;
    const float h = o->jac_step * sqrtf(k->dot(w->z, w->z, nd) / (float)nd) + 1e-8f;
    float *v = w->y;
    for (size_t i = 0; i < nd; i++)
        v[i] = (float)deq_rng_normal(seed, STREAM_PROBE + (key << 8), i);
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

/* --- Losses at early iterates --- */

/* A solve that is passed by. */
struct passing {
    struct deq_grad_work *work;
    const struct deq_grad_opts *o;
    const uint32_t *targets;
    size_t count;
    struct deq_weights *grads;
    unsigned evaluations; /* so far */
};

/* Of the state y, the gradient to work->d. */
static void early_loss(const struct passing *p, const float *y)
{
    const unsigned behind = 1 + (unsigned)__builtin_popcount(p->o->indexing >> p->evaluations >> 1);
    deq_seq_loss(p->work->seq, y, p->targets, powf(p->o->gamma, (float)behind) / (float)p->count, p->work->d, p->grads,
                 NULL);
}

static bool is_taken(const struct passing *p)
{
    return p->evaluations < DEQ_INDEXING_MAX && p->o->indexing >> p->evaluations & 1;
}

/* The gradient of where iterates begin, where that is known. */
static void start_vjp(struct deq_seq *s, const float *d)
{
    if (s->ops->start_vjp)
        s->ops->start_vjp(s, d);
}

static void eval_passing(void *ctx, const float *z, float *fz)
{
    struct passing *p = ctx;
    struct deq_grad_work *w = p->work;
    eval_f(w->seq, z, fz);
    p->evaluations++;
    if (!is_taken(p))
        return;
    early_loss(p, fz);
    w->seq->ops->vjp(w->seq, 0, w->d, w->d, p->grads);
    if (p->evaluations == 1)
        start_vjp(w->seq, w->d);
}

/* deq_grad_solve with the losses on its way, all of which it passes. */
static void solve_with_losses(struct passing *p, struct deq_solve_report *ret)
{
    struct deq_grad_work *w = p->work;
    struct deq_solver_opts forward = p->o->forward;
    const unsigned last = DEQ_INDEXING_MAX - 1 - (unsigned)__builtin_clz(p->o->indexing);
    forward.min_iter = DEQ_MAX(forward.min_iter, last + 1);
    deq_seq_start(w->seq, w->z);
    if (is_taken(p)) {
        early_loss(p, w->z);
        start_vjp(w->seq, w->d);
    }
    deq_solve(&forward, w->seq->b, w->seq->t * w->seq->state_dim, eval_passing, p, w->z, w->f, w->scratch, NULL, ret);
}

/* --- What is recorded --- */

/* The state that a segment begins at. */
static float *segment_start(struct deq_grad_work *w, unsigned segment)
{
    return segment ? w->kept + (segment - 1) * w->seq->n * w->seq->state_dim : w->z;
}

/* z* and what is recorded behind it: the first evaluation is f at w->z, with its value in w->f; evaluation i is on tape
 * i mod k until the next segment's takes its place. Returns the last state. */
static const float *record(struct passing *p, struct deq_grad_report *r)
{
    struct deq_grad_work *w = p->work;
    const struct deq_grad_opts *o = p->o;
    struct deq_seq *s = w->seq;
    struct deq_solve_report solve = {.finite = true};
    if (o->mode == DEQ_GRAD_EXPLICIT)
        deq_seq_start(s, w->z);
    else if (o->indexing)
        solve_with_losses(p, &solve);
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
    const unsigned k = segment_of(o);
    for (unsigned i = 1; i < recorded(o); i++, r->evaluations++) {
        if (i % k == 0)
            memcpy(segment_start(w, i / k), y, s->n * s->state_dim * sizeof(float));
        s->ops->forward(s, i % k, y, w->y);
        y = w->y;
    }
    return y;
}

/* --- The way back --- */

/* d, the gradient of the last state, becomes that of what the first recorded evaluation gave, in place. The last
 * segment's tapes are there, those of the others are made again. */
static void back(struct deq_grad_work *w, const struct deq_grad_opts *o, float *d, struct deq_weights *grads,
                 struct deq_grad_report *r)
{
    struct deq_seq *s = w->seq;
    const unsigned k = segment_of(o), n = segments(o);
    for (unsigned segment = n; segment-- > 0;) {
        const unsigned size = DEQ_MIN(k, recorded(o) - segment * k);
        const float *y = segment_start(w, segment);
        for (unsigned i = 0; i < size && segment + 1 < n; i++, r->evaluations++) {
            s->ops->forward(s, i, y, w->y);
            y = w->y;
        }
        for (unsigned i = size; i-- > (segment ? 0 : 1);)
            s->ops->vjp(s, i, d, d, grads);
    }
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
    const float *y = record(&(struct passing){w, o, targets, count, grads, 0}, &r);
    r.loss = deq_seq_loss(s, y, targets, 1.0f / (float)count, w->d, grads, NULL);
    if (o->predictor)
        r.predictor = deq_predictor_shard(o->predictor, weights, s, w->z, count, w->fit, grads);
    r.finite = r.finite && isfinite(r.loss) && isfinite(r.predictor);
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
        back(w, o, d, grads, &r);
    }
    if (r.finite && o->jac_weight > 0)
        r.jac = jacobian_penalty(w, o, count, seed, key, d, grads);
    if (r.finite) {
        s->ops->vjp(s, 0, d, d, grads);
        if (o->mode == DEQ_GRAD_EXPLICIT) /* behind a solve it is constant */
            start_vjp(s, d);
        s->ops->end(s, grads);
    }
    *ret = r;
}
