#include "core/cell/looped_seq.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/cell/layer_seq.h"
#include "core/math/elementary.h"
#include "core/math/gemm.h"
#include "core/math/kern.h"

struct seq {
    struct deq_seq base;
    struct deq_looped_arch arch;
    const struct deq_looped_weights *w; /* set by begin */
    struct deq_layers_seq layers;
    struct deq_layer_seq *layer[DEQ_PARTS]; /* [n_layer] */
    struct deq_layer_tape *tape[DEQ_PARTS]; /* [n_layer], of the core [n_tapes, n_layer] */
    float *before, *before_rstd; /* [N, D], [N] the prelude's output, and of its norm */
    float *e;               /* [N, D] what enters the loop */
    float *u;               /* [N, S] B e, W_e e */
    float *decay, *step;    /* [S] exp(-dt exp(A)), dt */
    float **z;              /* [n_tapes] [N, S] z of an evaluation (DIAGONAL, LINEAR) */
    float *a;               /* [N, S] what the core reads, and its gradient */
    float *d_a;             /* [N, S] the sum of those gradients, of VJPs with parameter gradients */
    float *d_decay;         /* [S] */
    float *y, *y_rstd;      /* [N, D], [N] of a readout: behind core_output, and of core_norm */
    float *last, *last_rstd; /* [N, D], [N] what the final norm reads, and of it */
    float *x;               /* [N, D] what the head reads */
    float *d_y;             /* [N, D] */
    void *mem;              /* the one block all of these live in */
};

static bool has_matrix(const struct deq_looped_arch *a)
{
    return a->injection == DEQ_INJECT_DIAGONAL || a->injection == DEQ_INJECT_LINEAR;
}

/* --- Memory: one block (core/base/layout.h) --- */

static void lay_out(struct seq *s, struct deq_layout *l, bool dropout)
{
    const struct deq_looped_arch *a = &s->arch;
    const size_t N = s->base.n, D = a->base.vocab.d_model, S = s->base.state_dim;
    deq_seq_lay_out(&s->base, l);
    deq_layers_seq_lay_out(&s->layers, dropout, l);
    for (unsigned p = 0; p < DEQ_PARTS; p++) {
        const unsigned evaluations = p == DEQ_CORE ? s->base.n_tapes : 1;
        DEQ_PART(l, s->layer[p], a->n_layer[p]);
        DEQ_PART(l, s->tape[p], (size_t)evaluations * a->n_layer[p]);
        for (unsigned i = 0; i < evaluations * a->n_layer[p]; i++) {
            struct deq_layer_seq counted = {.shape = deq_looped_layer(a, p)}, *layer = &counted;
            struct deq_layer_tape counted_tape, *tape = l->base ? &s->tape[p][i] : &counted_tape;
            if (l->base && i < a->n_layer[p]) {
                layer = &s->layer[p][i];
                *layer = counted;
            }
            if (i < a->n_layer[p])
                deq_layer_seq_lay_out(layer, l);
            deq_layer_tape_lay_out(&s->layers, layer, tape, l);
        }
    }
    DEQ_PART(l, s->before, a->prelude_norm ? N * D : 0);
    DEQ_PART(l, s->before_rstd, N);
    DEQ_PART(l, s->e, N * D);
    DEQ_PART(l, s->u, has_matrix(a) ? N * S : 0);
    DEQ_PART(l, s->decay, S);
    DEQ_PART(l, s->step, S);
    DEQ_PART(l, s->z, s->base.n_tapes);
    for (unsigned i = 0; i < s->base.n_tapes && has_matrix(a); i++) {
        float *counted;
        DEQ_PART(l, *(l->base ? &s->z[i] : &counted), N * S);
    }
    DEQ_PART(l, s->a, N * S);
    DEQ_PART(l, s->d_a, N * S);
    DEQ_PART(l, s->d_decay, S);
    DEQ_PART(l, s->y, N * D);
    DEQ_PART(l, s->y_rstd, N);
    DEQ_PART(l, s->last, N * D);
    DEQ_PART(l, s->last_rstd, N);
    DEQ_PART(l, s->x, N * D);
    DEQ_PART(l, s->d_y, N * D);
}

/* --- Parts of the model --- */

static struct deq_layer_weights *layer_weights(struct deq_weights *grads, enum deq_part p, unsigned i)
{
    return grads ? &deq_looped_weights(grads)->layer[p][i] : NULL;
}

/* y = the part's layers of x */
static void part_forward(struct seq *s, enum deq_part p, unsigned tape, const float *x, float *y)
{
    const unsigned n = s->arch.n_layer[p];
    if (!n)
        memcpy(y, x, s->base.n * s->arch.base.vocab.d_model * sizeof(float));
    for (unsigned i = 0; i < n; i++)
        deq_layer_forward(&s->layers, &s->layer[p][i], &s->tape[p][tape * n + i], i ? y : x, y);
}

/* d [N, width], in place */
static void part_vjp(struct seq *s, enum deq_part p, unsigned tape, float *d, struct deq_weights *grads)
{
    const unsigned n = s->arch.n_layer[p];
    for (unsigned i = n; i-- > 0;)
        deq_layer_vjp(&s->layers, &s->layer[p][i], &s->tape[p][tape * n + i], d, d, layer_weights(grads, p, i));
}

/* --- Once a batch: embedding, prelude, injection --- */

static void begin(struct deq_seq *base, const struct deq_weights *weights, const uint32_t *tokens,
                  const struct deq_dropout *d)
{
    struct seq *s = (struct seq *)base;
    const struct deq_looped_weights *w = (const struct deq_looped_weights *)weights;
    const struct deq_looped_arch *a = &s->arch;
    const size_t N = base->n, D = a->base.vocab.d_model, S = base->state_dim;
    s->w = w;
    s->layers.rope = w->rope;
    for (unsigned p = 0; p < DEQ_PARTS; p++)
        for (unsigned i = 0; i < a->n_layer[p]; i++)
            deq_layer_seq_begin(&s->layers, &s->layer[p][i], &w->layer[p][i]);
    deq_layers_seq_drop(&s->layers, d);
    deq_seq_embed(base, weights, &w->vocabulary, tokens, a->embed_scale);
    part_forward(s, DEQ_PRELUDE, 0, base->e, a->prelude_norm ? s->before : s->e);
    if (a->prelude_norm)
        deq_rms_rows(s->before, N, D, a->norm_eps, w->prelude_norm, s->e, s->before_rstd);
    if (has_matrix(a))
        base->xwt(N, S, D, s->e, D, w->inject_w, D, NULL, 0, s->u, S);
    if (a->injection == DEQ_INJECT_DIAGONAL)
        deq_looped_decay(w->decay_log, w->step_bias, S, s->decay, s->step);
    memset(s->d_a, 0, N * S * sizeof(float));
    memset(s->d_decay, 0, S * sizeof(float));
    base->prelude = s->e;
    base->start = a->injection == DEQ_INJECT_PROPOSAL ? s->e : NULL;
}

/* DIAGONAL: a = z decay + step u, step = softplus(b), decay = exp(-step exp(A)): the sums of d_a become those of u,
 * and A, b get theirs. */
static void decay_vjp(struct seq *s, struct deq_looped_weights *g)
{
    const size_t N = s->base.n, S = s->base.state_dim;
    for (size_t i = 0; i < S; i++) {
        const double rate = deq_exp((double)s->w->decay_log[i]), step = (double)s->step[i],
                     d_rate = -(double)s->d_decay[i] * (double)s->decay[i]; /* that of step * exp(A) */
        double d_step = d_rate * rate;
        for (size_t n = 0; n < N; n++) {
            d_step += (double)s->d_a[n * S + i] * (double)s->u[n * S + i];
            s->d_a[n * S + i] *= s->step[i];
        }
        g->decay_log[i] += (float)(d_rate * rate * step);
        g->step_bias[i] += (float)(d_step / (1 + deq_exp(-(double)s->w->step_bias[i])));
    }
}

static void end(struct deq_seq *base, struct deq_weights *grads)
{
    struct seq *s = (struct seq *)base;
    struct deq_looped_weights *g = deq_looped_weights(grads);
    const struct deq_looped_arch *a = &s->arch;
    const size_t N = base->n, D = a->base.vocab.d_model, S = base->state_dim;
    float *d_e = s->d_y;
    if (a->injection == DEQ_INJECT_DIAGONAL)
        decay_vjp(s, g);
    if (has_matrix(a)) {
        deq_gemm_dytx(N, S, D, s->d_a, S, s->e, D, g->inject_w, D);
        deq_gemm_dyw(N, S, D, s->d_a, S, s->w->inject_w, D, NULL, 0, d_e, D);
    } else {
        memcpy(d_e, s->d_a, N * D * sizeof(float));
    }
    if (a->prelude_norm)
        deq_rms_rows_vjp(s->before, s->before_rstd, N, D, s->w->prelude_norm, d_e, d_e, g->prelude_norm);
    part_vjp(s, DEQ_PRELUDE, 0, d_e, grads);
    deq_seq_embed_vjp(base, d_e, a->embed_scale, grads);
}

/* --- An evaluation --- */

static void forward(struct deq_seq *base, unsigned tape, const float *z, float *fz)
{
    struct seq *s = (struct seq *)base;
    const struct deq_kern *k = deq_kern();
    const size_t N = base->n, S = base->state_dim;
    if (has_matrix(&s->arch))
        memcpy(s->z[tape], z, N * S * sizeof(float));
    switch (s->arch.injection) {
    case DEQ_INJECT_PROPOSAL:
    case DEQ_INJECT_ADD: k->add(s->a, z, s->e, N * S); break;
    case DEQ_INJECT_DIAGONAL:
        for (size_t n = 0; n < N * S; n += S) {
            k->mul(s->a + n, z + n, s->decay, S);
            for (size_t i = 0; i < S; i++)
                s->a[n + i] += s->step[i] * s->u[n + i];
        }
        break;
    case DEQ_INJECT_LINEAR: base->xwt(N, S, S, z, S, s->w->state_w, S, s->u, S, s->a, S); break;
    }
    part_forward(s, DEQ_CORE, tape, s->a, s->a);
    if (s->arch.injection == DEQ_INJECT_PROPOSAL)
        k->sub(fz, s->a, z, N * S);
    else
        memcpy(fz, s->a, N * S * sizeof(float));
}

static void vjp(struct deq_seq *base, unsigned tape, const float *d_fz, float *dz, struct deq_weights *grads)
{
    struct seq *s = (struct seq *)base;
    const struct deq_kern *k = deq_kern();
    const size_t N = base->n, S = base->state_dim;
    struct deq_looped_weights *g = grads ? deq_looped_weights(grads) : NULL;
    float *d_a = s->a;
    memcpy(d_a, d_fz, N * S * sizeof(float));
    part_vjp(s, DEQ_CORE, tape, d_a, grads);
    if (g)
        k->add(s->d_a, s->d_a, d_a, N * S);
    switch (s->arch.injection) {
    case DEQ_INJECT_PROPOSAL: k->sub(dz, d_a, d_fz, N * S); break;
    case DEQ_INJECT_ADD: memcpy(dz, d_a, N * S * sizeof(float)); break;
    case DEQ_INJECT_DIAGONAL:
        for (size_t n = 0; n < N * S; n += S) {
            for (size_t i = 0; i < S && g; i++)
                s->d_decay[i] += d_a[n + i] * s->z[tape][n + i];
            k->mul(dz + n, d_a + n, s->decay, S);
        }
        break;
    case DEQ_INJECT_LINEAR:
        if (g)
            deq_gemm_dytx(N, S, S, d_a, S, s->z[tape], S, g->state_w, S);
        deq_gemm_dyw(N, S, S, d_a, S, s->w->state_w, S, NULL, 0, dz, S);
        break;
    }
}

/* Iterates that begin at e, which PROPOSAL adds to them: its gradient is gathered in the same place. */
static void start_vjp(struct deq_seq *base, const float *d_z)
{
    struct seq *s = (struct seq *)base;
    if (base->start)
        deq_kern()->add(s->d_a, s->d_a, d_z, base->n * base->state_dim);
}

/* --- What the head reads --- */

static const float *read_states(struct deq_seq *base, const float *z)
{
    struct seq *s = (struct seq *)base;
    const struct deq_looped_arch *a = &s->arch;
    const size_t N = base->n, D = a->base.vocab.d_model, S = base->state_dim;
    const float *y = z;
    if (a->core_output) {
        base->xwt(N, D, S, y, S, s->w->core_out_w, S, NULL, 0, s->y, D);
        y = s->y;
    }
    if (a->core_norm) { /* y [N, D] is kept for the VJP */
        if (y != s->y)
            memcpy(s->y, y, N * D * sizeof(float));
        deq_rms_rows(s->y, N, D, a->norm_eps, s->w->final_norm, s->x, s->y_rstd);
        y = s->x;
    }
    part_forward(s, DEQ_CODA, 0, y, s->last);
    deq_rms_rows(s->last, N, D, a->norm_eps, s->w->final_norm, s->x, s->last_rstd);
    if (a->logit_scale != 1)
        deq_kern()->scale(s->x, a->logit_scale, N * D);
    return s->x;
}

static void read_vjp(struct deq_seq *base, const float *z, const float *d_x, float *d_z, struct deq_weights *grads)
{
    struct seq *s = (struct seq *)base;
    const struct deq_looped_arch *a = &s->arch;
    const size_t N = base->n, D = a->base.vocab.d_model, S = base->state_dim;
    struct deq_looped_weights *g = grads ? deq_looped_weights(grads) : NULL;
    float *d = s->d_y, *d_norm = g ? g->final_norm : NULL;
    memcpy(d, d_x, N * D * sizeof(float));
    if (a->logit_scale != 1)
        deq_kern()->scale(d, a->logit_scale, N * D);
    deq_rms_rows_vjp(s->last, s->last_rstd, N, D, s->w->final_norm, d, d, d_norm);
    part_vjp(s, DEQ_CODA, 0, d, grads);
    if (a->core_norm)
        deq_rms_rows_vjp(s->y, s->y_rstd, N, D, s->w->final_norm, d, d, d_norm);
    if (!a->core_output) {
        memcpy(d_z, d, N * D * sizeof(float));
        return;
    }
    deq_gemm_dyw(N, D, S, d, D, s->w->core_out_w, S, NULL, 0, d_z, S);
    if (g)
        deq_gemm_dytx(N, D, S, d, D, z, S, g->core_out_w, S);
}

/* --- What lies before: nothing --- */

static void remember(struct deq_seq *base, const float *z, float *shown)
{
    if (shown)
        memcpy(shown, z, base->n * base->state_dim * sizeof(float));
}

static void forget(struct deq_seq *base)
{
    (void)base;
}

/* --- Opening --- */

static void seq_free(struct deq_seq *base)
{
    struct seq *s = (struct seq *)base;
    deq_free(s->mem);
    deq_free(s);
}

static const struct deq_seq_ops ops = {.begin = begin, .forward = forward, .vjp = vjp, .start_vjp = start_vjp,
                                       .end = end, .remember = remember, .forget = forget, .read = read_states,
                                       .read_vjp = read_vjp, .free = seq_free};

enum deq_rc deq_looped_seq_new(const struct deq_arch *a, const struct deq_seq_shape *shape, struct deq_seq **ret,
                               struct deq_err *err)
{
    const struct deq_looped_arch *arch = deq_looped_arch(a);
    if (shape->t > arch->max_positions)
        return deq_fail(err, DEQ_EINVAL, "sequences of %zu positions; max_position_embeddings is %u", shape->t,
                        arch->max_positions);
    struct seq *s = DEQ_NEW(struct seq);
    struct deq_layout l = {0};
    if (!s)
        goto nomem;
    s->arch = *arch;
    deq_seq_init(&s->base, &ops, a, shape, deq_looped_state(arch));
    s->base.logit_softcap = arch->logit_softcap;
    s->layers.seq = &s->base;
    s->layers.arch = &s->arch;
    lay_out(s, &l, shape->dropout);
    l = (struct deq_layout){.base = s->mem = deq_alloc(l.bytes)};
    if (!s->mem)
        goto nomem;
    lay_out(s, &l, shape->dropout);
    s->base.bytes = l.bytes;
    *ret = &s->base;
    return DEQ_OK;
nomem:
    deq_free(s);
    return deq_fail(err, DEQ_ENOMEM, "no memory for %zu sequences of %zu positions", shape->b, shape->t);
}
