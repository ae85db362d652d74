#include "tests/unit/seq_checks.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/math/kern.h"
#include "tests/unit/test.h"

struct deq_weights *random_weights(const struct deq_arch *a, uint64_t seed)
{
    struct deq_weights *w = NULL;
    if (deq_weights_new(a, &w, NULL))
        return NULL;
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        for (size_t j = 0; j < p->count && p->role != DEQ_ROLE_FIXED; j++) {
            const double x = deq_rng_normal(seed, i, j);
            w->data[p->offset + j] = (float)(p->role == DEQ_ROLE_GAIN ? 1 + 0.2 * x
                                             : p->rows                ? x / sqrt((double)p->cols)
                                                                      : 0.2 * x);
        }
    }
    return w;
}

enum { STEPS = 2 }; /* evaluations that the loss goes through */

struct fixture {
    struct deq_seq *s;
    struct deq_weights *w, *g;
    const struct deq_dropout *drop;
    size_t n; /* numbers of all states */
    uint32_t tok[512], tgt[512];
    float *z0, *z, *d, *v, *up, *down;
};

static bool open_fixture(struct fixture *f, const struct deq_arch *a, size_t b, size_t t,
                         const struct deq_dropout *drop)
{
    const struct deq_seq_shape shape = {.b = b, .t = t, .n_tapes = STEPS, .dropout = true};
    *f = (struct fixture){.drop = drop, .w = random_weights(a, 1)};
    if (!f->w || deq_seq_new(a, &shape, &f->s, NULL) || deq_weights_new(a, &f->g, NULL))
        return false;
    f->n = b * t * f->s->state_dim;
    float **const of[] = {&f->z0, &f->z, &f->d, &f->v, &f->up, &f->down};
    for (size_t i = 0; i < DEQ_COUNT(of); i++)
        if (!(*of[i] = DEQ_NEW_ARRAY(float, f->n)))
            return false;
    for (size_t i = 0; i < b * t; i++) {
        f->tok[i] = (uint32_t)deq_rng_below(3, 0, i, a->vocab.size);
        f->tgt[i] = (uint32_t)deq_rng_below(3, 1, i, a->vocab.size);
    }
    f->tgt[1] = UINT32_MAX; /* left out of the loss */
    for (size_t i = 0; i < f->n; i++)
        f->z0[i] = (float)deq_rng_normal(4, 0, i);
    return true;
}

static void close_fixture(struct fixture *f)
{
    float *const of[] = {f->z0, f->z, f->d, f->v, f->up, f->down};
    for (size_t i = 0; i < DEQ_COUNT(of); i++)
        deq_free(of[i]);
    deq_seq_free(f->s);
    deq_weights_free(f->w);
    deq_weights_free(f->g);
}

/* loss after STEPS evaluations from where the kind begins, or z0 where that is zero; the last state is left in f->z */
static double loss_of(struct fixture *f)
{
    f->s->ops->begin(f->s, f->w, f->tok, f->drop);
    memcpy(f->z, f->s->start ? f->s->start : f->z0, f->n * sizeof(float));
    for (unsigned i = 0; i < STEPS; i++)
        f->s->ops->forward(f->s, i, f->z, f->z);
    return deq_seq_loss(f->s, f->z, f->tgt, 1.0f / (float)f->s->n, NULL, NULL, NULL);
}

/* Per tensor, along its own gradient direction mixed with noise: (L(+h) - L(-h)) / 2h against <grad, dir>. f32 losses
 * near 3.6 have an error near 1e-6, h is chosen so that the difference is near 4e-3: relative error 1e-3 and the h^2
 * term of about 1e-3; kinks add the rest. */
static void check_tensor(struct fixture *f, size_t i)
{
    const struct deq_param *p = &f->w->params[i];
    float *x = f->w->data + p->offset, *keep = DEQ_NEW_ARRAY(float, p->count), *dir = DEQ_NEW_ARRAY(float, p->count);
    const float *grad = f->g->data + p->offset;
    const double norm = sqrt((double)deq_kern()->dot(grad, grad, p->count)), h = DEQ_MIN(2e-3 / (norm + 1e-9), 0.05);
    double slope = 0, loss[2];
    CHECK_MSG(norm > 0, "%s has no gradient", p->name);
    memcpy(keep, x, p->count * sizeof(float));
    for (size_t j = 0; j < p->count; j++) {
        dir[j] = (float)(grad[j] / norm + 0.3 * deq_rng_normal(6, i, j) / sqrt((double)p->count));
        slope += (double)dir[j] * (double)grad[j];
    }
    for (int k = 0; k < 2; k++) {
        for (size_t j = 0; j < p->count; j++)
            x[j] = keep[j] + (float)(k ? -h : h) * dir[j];
        loss[k] = loss_of(f);
    }
    memcpy(x, keep, p->count * sizeof(float));
    const double difference = (loss[0] - loss[1]) / (2 * h);
    CHECK_MSG(fabs(difference - slope) < 0.03 * fabs(slope) + 2e-5, "%s: finite difference %g, gradient %g", p->name,
              difference, slope);
    deq_free(keep);
    deq_free(dir);
}

static void check_gradients(struct fixture *f)
{
    loss_of(f);
    deq_seq_loss(f->s, f->z, f->tgt, 1.0f / (float)f->s->n, f->d, f->g, NULL);
    for (unsigned i = STEPS; i-- > 0;)
        f->s->ops->vjp(f->s, i, f->d, f->d, f->g);
    if (f->s->ops->start_vjp)
        f->s->ops->start_vjp(f->s, f->d);
    f->s->ops->end(f->s, f->g);
    for (size_t i = 0; i < f->w->n_params; i++)
        if (f->w->params[i].role != DEQ_ROLE_FIXED)
            check_tensor(f, i);
}

/* <d, J v> = <J' d, v>, J v by a central difference in z */
static void check_adjoint(struct fixture *f)
{
    const struct deq_seq_ops *o = f->s->ops;
    const float h = 1e-3f;
    double left = 0, right = 0, size = 0;
    for (size_t i = 0; i < f->n; i++) {
        f->v[i] = (float)deq_rng_normal(7, 0, i);
        f->d[i] = (float)deq_rng_normal(7, 1, i);
        f->up[i] = f->z0[i] + h * f->v[i];
        f->down[i] = f->z0[i] - h * f->v[i];
    }
    o->begin(f->s, f->w, f->tok, NULL);
    o->forward(f->s, 0, f->up, f->up);
    o->forward(f->s, 0, f->down, f->down);
    for (size_t i = 0; i < f->n; i++) {
        const double term = (double)f->d[i] * ((double)f->up[i] - (double)f->down[i]) / (2 * (double)h);
        left += term;
        size += fabs(term);
    }
    o->forward(f->s, 0, f->z0, f->z);
    o->vjp(f->s, 0, f->d, f->d, NULL);
    for (size_t i = 0; i < f->n; i++)
        right += (double)f->d[i] * (double)f->v[i];
    /* f32 rounding of f is 1e-7 * |f| / h = 1e-4 an element; the sum of absolute terms bounds what may cancel */
    CHECK_MSG(fabs(left - right) < 2e-3 * size, "<d, Jv> %g, <J'd, v> %g", left, right);
}

/* A change at position p of the first sequence leaves the positions before it bitwise
 * alone, and the other sequences. */
static void check_causality(struct fixture *f)
{
    const struct deq_seq *s = f->s;
    const size_t S = s->state_dim, p = s->t / 2;
    memcpy(f->up, f->z0, f->n * sizeof(float));
    for (size_t c = 0; c < S; c++)
        f->up[p * S + c] += 1.0f;
    s->ops->forward(f->s, 0, f->z0, f->z);
    s->ops->forward(f->s, 1, f->up, f->down);
    CHECK(!memcmp(f->z, f->down, p * S * sizeof(float)));
    CHECK(memcmp(f->z + p * S, f->down + p * S, S * sizeof(float)));
    CHECK(!memcmp(f->z + s->t * S, f->down + s->t * S, (s->n - s->t) * S * sizeof(float)));
}

void check_seq(const struct deq_arch *a, size_t b, size_t t, const struct deq_dropout *d)
{
    struct fixture f;
    CHECK(open_fixture(&f, a, b, t, d));
    if (f.down) {
        check_gradients(&f);
        check_adjoint(&f);
        check_causality(&f);
    }
    close_fixture(&f);
}
