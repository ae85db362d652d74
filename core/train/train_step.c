/* One step of the optimiser: gradients shard by shard, their sum in one order, and every
 * tensor by the rule of its role. */
#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/math/kern.h"
#include "core/train/muon.h"
#include "core/train/train_impl.h"

enum { STREAM_DRAWN = 203 };

float deq_train_lr(const struct deq_recipe *r, uint64_t step)
{
    const double n = r->steps, s = (double)step;
    if (step < r->warmup)
        return (float)(r->lr * (s + 1) / r->warmup);
    if (r->schedule == DEQ_RECIPE_WSD) {
        const double decay = fmax(1, n * r->decay_share);
        return (float)(s < n - decay ? r->lr : r->lr_min + (r->lr - r->lr_min) * (n - s) / decay);
    }
    const double x = (s - r->warmup) / fmax(1, n - r->warmup);
    return (float)(r->lr_min + 0.5 * (r->lr - r->lr_min) * (1 + cos(3.141592653589793 * fmin(1, x))));
}

unsigned deq_train_drawn(const struct deq_recipe *r, uint64_t step)
{
    return (unsigned)deq_rng_below(r->seed, STREAM_DRAWN, step, (uint64_t)r->drawn + 1);
}

float deq_train_widening(const struct deq_recipe *r, uint64_t step)
{
    if (!(r->tol_start > 0))
        return 1;
    const double first = r->shallow_steps, all = fmax(1, (double)r->steps - 1 - first),
                 left = fmin(1, fmax(0, ((double)r->steps - 1 - (double)step) / all));
    return (float)pow((double)r->tol_start / (double)r->tol, left);
}

/* NULL: it is not trained with the model. */
static const struct deq_predictor *joint_predictor(const struct deq_train *r)
{
    return r->recipe->predictor_joint && r->arch->predictor_hidden ? r->arch->kind->predictor(r->w) : NULL;
}

/* depth: of an explicit network; 0: an equilibrium. */
static struct deq_grad_opts grad_opts_at(const struct deq_train *r, unsigned depth, bool penalty)
{
    const struct deq_recipe *c = r->recipe;
    return (struct deq_grad_opts){
        .mode = depth                          ? DEQ_GRAD_EXPLICIT
                : c->grad == DEQ_RECIPE_UNROLL ? DEQ_GRAD_UNROLL
                                               : DEQ_GRAD_IMPLICIT,
        .depth = depth ? depth : c->unroll,
        .segment = r->segment,
        .forward = deq_recipe_solver(c),
        .adjoint = deq_recipe_adjoint(c),
        .jac_weight = penalty ? c->jac_weight : 0,
        .jac_step = c->jac_step,
        .indexing = depth ? 0 : deq_recipe_indexing(c),
        .gamma = c->gamma,
        .predictor = depth ? NULL : joint_predictor(r),
        .dropout = c->dropout,
        .weight_dropout = c->weight_dropout,
    };
}

void deq_train_grad_ways(const struct deq_train *r, struct deq_grad_opts ret[2])
{
    const unsigned first = deq_recipe_depth(r->recipe, 0), last = deq_recipe_depth(r->recipe, UINT64_MAX);
    ret[0] = grad_opts_at(r, first, false);
    ret[1] = grad_opts_at(r, last, !last && r->recipe->jac_every);
}

/* Where no evaluation was drawn to go before the recorded ones they begin at the start, whose gradient is known. */
static struct deq_grad_opts grad_opts(const struct deq_train *r, uint64_t step)
{
    const struct deq_recipe *c = r->recipe;
    const unsigned depth = deq_recipe_depth(c, step);
    struct deq_grad_opts o = grad_opts_at(r, depth, !depth && c->jac_every && step % c->jac_every == 0);
    o.forward.tol *= deq_train_widening(c, step);
    o.adjoint.tol *= deq_train_widening(c, step);
    if (!depth && c->drawn) {
        const unsigned n = deq_train_drawn(c, step);
        o.mode = n ? DEQ_GRAD_UNROLL : DEQ_GRAD_EXPLICIT;
        o.forward.tol = 0;
        o.forward.max_iter = n + 1; /* the last one is the first that is recorded */
    }
    return o;
}

/* Matrices inside the cell, those stacked in a tensor one by one. The injection is an embedding's
 * image and stays with AdamW. (AdamW leaves a fixed table alone: its gradient is zero.) */
static size_t muon_parts(const struct deq_train *r, const struct deq_param *p)
{
    const bool inner = p->role == DEQ_ROLE_MATRIX || p->role == DEQ_ROLE_RESIDUAL_OUT;
    return r->recipe->optimizer == DEQ_RECIPE_MUON && inner ? p->parts : 0;
}

enum deq_rc deq_train_step_prepare(struct deq_train *r, struct deq_err *err)
{
    r->owner = DEQ_NEW_ARRAY(unsigned, r->w->n_params);
    r->muon_scratch = DEQ_NEW_ARRAY(float *, r->n_threads);
    r->norm_parts = DEQ_NEW_ARRAY(double, r->w->n_params);
    if (!r->owner || !r->muon_scratch || !r->norm_parts)
        return deq_fail(err, DEQ_ENOMEM, "no memory for training");
    size_t largest = 0;
    double load[256] = {0}; /* the pool has at most 256 threads */
    for (size_t i = 0; i < r->w->n_params; i++) {
        const struct deq_param *p = &r->w->params[i];
        largest = DEQ_MAX(largest, deq_muon_floats(DEQ_MAX(p->rows, (size_t)1), p->cols));
        const size_t parts = muon_parts(r, p), small = DEQ_MIN(parts ? p->rows / parts : 0, p->cols);
        unsigned least = 0;
        for (unsigned t = 1; t < r->n_threads; t++)
            least = load[t] < load[least] ? t : least;
        r->owner[i] = least;
        load[least] += (double)p->count * (1.0 + (double)small);
    }
    for (unsigned i = 0; i < r->n_threads && r->recipe->optimizer == DEQ_RECIPE_MUON; i++)
        if (!(r->muon_scratch[i] = DEQ_NEW_ARRAY(float, largest)))
            return deq_fail(err, DEQ_ENOMEM, "no memory for training");
    return DEQ_OK;
}

void deq_train_step_free(struct deq_train *r)
{
    for (unsigned i = 0; r->muon_scratch && i < r->n_threads; i++)
        deq_free(r->muon_scratch[i]);
    deq_free(r->muon_scratch);
    deq_free(r->owner);
    deq_free(r->norm_parts);
}

static void shards_of_thread(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_train *r = ctx;
    const size_t rows = (size_t)r->recipe->micro_batch * r->recipe->seq_len, count = rows * r->n_shards;
    for (size_t i = thread; i < r->n_shards; i += n_threads) {
        memset(r->grads[i]->data, 0, r->w->n * sizeof(float));
        deq_grad_shard(&r->work[thread], &r->grad_opts, r->w, r->tokens + i * rows, r->targets + i * rows, count,
                       r->recipe->seed, r->at.step, i, r->grads[i], &r->reports[i]);
    }
}

/* Parameters are dealt out whole, so each tensor's sums are made in one order whatever the number of threads. */
static void sum_grads(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_train *r = ctx;
    const struct deq_kern *k = deq_kern();
    for (size_t i = thread; i < r->w->n_params; i += n_threads) {
        const struct deq_param *p = &r->w->params[i];
        float *sum = r->grads[0]->data + p->offset;
        for (size_t s = 1; s < r->n_shards; s++)
            k->add(sum, sum, r->grads[s]->data + p->offset, p->count);
        r->norm_parts[i] = k->dot(sum, sum, p->count);
    }
}

static void update(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_train *r = ctx;
    (void)n_threads;
    for (size_t i = 0; i < r->w->n_params; i++) {
        const struct deq_param *p = &r->w->params[i];
        if (r->owner[i] != thread)
            continue;
        if (p->offset >= r->w->n_main) {
            if (joint_predictor(r)) /* else it is fitted behind */
                deq_adamw_update(&r->adamw_predictor, r->w->data + p->offset, r->m + p->offset, r->v + p->offset,
                                 r->grads[0]->data + p->offset, 1.0f, false, p->count);
            continue;
        }
        const size_t parts = muon_parts(r, p);
        for (size_t k = 0; k < parts; k++) {
            const size_t rows = p->rows / parts, at = p->offset + k * rows * p->cols;
            deq_muon_update(r->muon_lr, r->recipe->muon_momentum, r->recipe->weight_decay, r->w->data + at, r->m + at,
                            r->grads[0]->data + at, r->grad_scale, rows, p->cols, r->muon_scratch[thread]);
        }
        if (parts)
            continue;
        const bool decay = deq_role_is_matrix(p->role);
        deq_adamw_update(&r->adamw, r->w->data + p->offset, r->m + p->offset, r->v + p->offset,
                         r->grads[0]->data + p->offset, r->grad_scale, decay, p->count);
    }
}

/* Returns false when the step was skipped because something was not finite. */
bool deq_train_step(struct deq_train *r, struct deq_train_event *e)
{
    const struct deq_recipe *c = r->recipe;
    deq_dataset_batch(r->train, r->at.step, c->batch, r->tokens, r->targets);
    r->grad_opts = grad_opts(r, r->at.step);
    deq_pool_run(r->pool, shards_of_thread, r);
    deq_pool_run(r->pool, sum_grads, r);
    double norm = 0;
    bool finite = true;
    *e = (struct deq_train_event){.kind = DEQ_TRAIN_STEP, .phase = deq_recipe_phase(c, r->at.step)};
    for (size_t i = 0; i < r->w->n_params && r->w->params[i].offset < r->w->n_main; i++)
        norm += r->norm_parts[i]; /* what clips the model's gradient is the model's */
    norm = sqrt(norm);
    for (size_t i = 0; i < r->n_shards; i++) {
        const struct deq_grad_report *p = &r->reports[i];
        const double share = 1.0 / (double)r->n_shards;
        finite = finite && p->finite;
        e->loss += p->loss;
        e->evaluations += p->evaluations * share;
        e->adjoint_evaluations += p->adjoint_evaluations * share;
        e->residual += p->residual * share;
        e->jac += p->jac * share;
        e->predictor += p->predictor;
    }
    e->predictor = sqrt(e->predictor);
    e->grad_norm = (float)norm;
    e->lr = deq_train_lr(c, r->at.step);
    finite = finite && isfinite(norm);
    if (finite) {
        r->grad_scale = c->clip > 0 && norm > c->clip ? (float)(c->clip / norm) : 1.0f;
        r->muon_lr = c->muon_lr * e->lr / c->lr; /* the same schedule */
        r->adamw = (struct deq_adamw){e->lr, c->beta1, c->beta2, c->eps, c->weight_decay,
                                      r->at.step + 1 - r->at.skipped};
        r->adamw_predictor = r->adamw;
        r->adamw_predictor.lr = c->predictor_lr * e->lr / c->lr;
        deq_pool_run(r->pool, update, r);
    } else {
        r->at.skipped++;
    }
    r->at.step++;
    r->at.tokens += (uint64_t)c->batch * c->seq_len;
    return finite;
}
