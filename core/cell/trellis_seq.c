#include "core/cell/trellis_seq.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/math/gemm.h"
#include "core/math/kern.h"

struct tape { /* one evaluation */
    float *h;     /* [N, H] of the input, dropped out */
    float *gates; /* [N, 4H] i, o, g, f, after their nonlinearities */
    float *before; /* [N, H] c_{t-1} */
    float *tc;    /* [N, H] tanh(c_t) */
};

struct seq {
    struct deq_seq base;
    struct deq_trellis_arch arch;
    const struct deq_trellis_weights *w; /* set by begin */
    bool history;       /* something lies before the sequences: */
    float *last_h;      /* [B, H] the state that they end with */
    float *last_c;      /* [B, H] */
    float *u, *d_u;     /* [N, 4H] injection with both biases, and its gradient */
    bool masked;        /* units are dropped: */
    float *mask_e, *mask_h, *mask_y; /* [B, D] [B, H] [B, deq_vocab_out()] */
    bool dropped;       /* weights are dropped: */
    /* [4H, H] masks, weights times them, gradients of those */
    float *mask_w[DEQ_TAPS_MAX], *kept_w[DEQ_TAPS_MAX], *d_w[DEQ_TAPS_MAX];
    const float *state_w[DEQ_TAPS_MAX]; /* what is multiplied with: the weights, or what is kept of them */
    struct tape *tape;  /* [n_tapes] */
    /* work */
    float *a, *d_h, *c, *x, *d_e; /* [N, 4H] [N, H] [N, H] [N, deq_vocab_out()] [N, D] */
    void *mem;          /* the one block all of these live in */
};

static void lay_out(struct seq *s, struct deq_layout *l, bool dropout)
{
    const struct deq_vocab *v = &s->base.vocab;
    const size_t B = s->base.b, N = s->base.n, H = s->arch.state_size;
    deq_seq_lay_out(&s->base, l);
    DEQ_PART(l, s->last_h, B * H);
    DEQ_PART(l, s->last_c, B * H);
    DEQ_PART(l, s->u, N * 4 * H);
    DEQ_PART(l, s->d_u, N * 4 * H);
    if (dropout) {
        DEQ_PART(l, s->mask_e, B * v->d_model);
        DEQ_PART(l, s->mask_h, B * H);
        DEQ_PART(l, s->mask_y, B * deq_vocab_out(v));
        for (unsigned j = 0; j < s->arch.kernel_size; j++) {
            DEQ_PART(l, s->mask_w[j], 4 * H * H);
            DEQ_PART(l, s->kept_w[j], 4 * H * H);
            DEQ_PART(l, s->d_w[j], 4 * H * H);
        }
    }
    DEQ_PART(l, s->tape, s->base.n_tapes);
    for (unsigned i = 0; i < s->base.n_tapes; i++) {
        struct tape counted, *t = l->base ? &s->tape[i] : &counted;
        DEQ_PART(l, t->h, N * H);
        DEQ_PART(l, t->gates, N * 4 * H);
        DEQ_PART(l, t->before, N * H);
        DEQ_PART(l, t->tc, N * H);
    }
    DEQ_PART(l, s->a, N * 4 * H);
    DEQ_PART(l, s->d_h, N * H);
    DEQ_PART(l, s->c, N * H);
    DEQ_PART(l, s->x, N * deq_vocab_out(v));
    DEQ_PART(l, s->d_e, N * v->d_model);
}

/* --- Causal convolutions, tap by tap: tap j of position t reads position t - shift --- */

static size_t shift_of(const struct seq *s, unsigned tap)
{
    return (size_t)(s->arch.kernel_size - 1 - tap) * s->arch.dilation;
}

/* Taps on tokens are neighbours, whatever the dilation. */
static size_t inject_shift(const struct seq *s, unsigned tap)
{
    return s->arch.kernel_size - 1 - tap;
}

/* y [N, 4H] += W x, x [N, n] of the positions `shift` before; nothing lies before the sequence */
static void convolve(const struct seq *s, const float *w, size_t shift, const float *x, size_t n, float *y)
{
    const size_t T = s->base.t, rows = 4 * (size_t)s->arch.state_size;
    if (!shift) {
        s->base.xwt(s->base.n, rows, n, x, n, w, n, y, rows, y, rows);
        return;
    }
    for (size_t b = 0; b < s->base.b && shift < T; b++)
        s->base.xwt(T - shift, rows, n, x + b * T * n, n, w, n, y + (b * T + shift) * rows, rows,
                    y + (b * T + shift) * rows, rows);
}

/* Gradients of the same: d_x [N, n] += W' d_y, and d_w [4H, n] += d_y' x; either may be NULL */
static void convolve_vjp(const struct seq *s, const float *w, size_t shift, const float *x, size_t n, const float *d_y,
                         float *d_x, float *d_w)
{
    const size_t T = s->base.t, rows = 4 * (size_t)s->arch.state_size;
    for (size_t b = 0; b < s->base.b && shift < T; b++) {
        const float *d = d_y + (b * T + shift) * rows;
        if (d_x)
            deq_gemm_dyw(T - shift, rows, n, d, rows, w, n, d_x + b * T * n, n, d_x + b * T * n, n);
        if (d_w)
            deq_gemm_dytx(T - shift, rows, n, d, rows, x + b * T * n, n, d_w, n);
    }
}

/* What the first positions read of those before the sequence: the state it ended with, at every tap, as in the authors'
 * code (with two neighbouring taps that is the position before). */
static void convolve_history(const struct seq *s, unsigned tap, float *y)
{
    const size_t T = s->base.t, H = s->arch.state_size, n = DEQ_MIN(shift_of(s, tap), T);
    if (n)
        s->base.xwt(s->base.b, 4 * H, H, s->last_h, H, s->state_w[tap], H, NULL, 0, s->a, 4 * H);
    for (size_t b = 0; b < s->base.b; b++)
        for (size_t t = 0; t < n; t++)
            deq_kern()->add(y + (b * T + t) * 4 * H, y + (b * T + t) * 4 * H, s->a + b * 4 * H, 4 * H);
}

/* --- Injection --- */

static void draw(struct seq *s, const struct deq_dropout *d)
{
    const size_t H = s->arch.state_size, n = 4 * H * H;
    enum { STREAMS = 16 }; /* of one batch */
    s->masked = d && d->units > 0 && s->mask_e;
    s->dropped = d && d->weights > 0 && s->mask_e;
    if (s->masked) {
        deq_seq_draw_mask(s->mask_e, s->base.b * s->base.vocab.d_model, d->units, d->seed, d->stream * STREAMS);
        deq_seq_draw_mask(s->mask_h, s->base.b * H, d->units, d->seed, d->stream * STREAMS + 1);
        deq_seq_draw_mask(s->mask_y, s->base.b * deq_vocab_out(&s->base.vocab), d->units, d->seed,
                          d->stream * STREAMS + 2);
    }
    for (unsigned j = 0; j < s->arch.kernel_size; j++) {
        s->state_w[j] = s->dropped ? s->kept_w[j] : s->w->state_w[j];
        if (!s->dropped)
            continue;
        deq_seq_draw_mask(s->mask_w[j], n, d->weights, d->seed, d->stream * STREAMS + 3 + j);
        deq_kern()->mul(s->kept_w[j], s->w->state_w[j], s->mask_w[j], n);
        memset(s->d_w[j], 0, n * sizeof(float));
    }
}

static float scale_of(const struct seq *s)
{
    return s->arch.embed_scale ? sqrtf((float)s->base.vocab.d_model) : 1;
}

static void begin(struct deq_seq *base, const struct deq_weights *weights, const uint32_t *tokens,
                  const struct deq_dropout *d)
{
    struct seq *s = (struct seq *)base;
    const size_t D = base->vocab.d_model, G = 4 * (size_t)s->arch.state_size;
    s->w = (const struct deq_trellis_weights *)weights;
    deq_seq_embed(base, weights, &s->w->vocabulary, tokens, scale_of(s));
    draw(s, d);
    if (s->masked)
        deq_seq_apply_mask(base, s->mask_e, D, base->e);
    memset(s->u, 0, base->n * G * sizeof(float));
    memset(s->d_u, 0, base->n * G * sizeof(float));
    for (unsigned j = 0; j < s->arch.kernel_size; j++)
        convolve(s, s->w->inject_w[j], inject_shift(s, j), base->e, D, s->u);
    deq_seq_add_bias(s->u, s->w->inject_b, base->n, G);
    deq_seq_add_bias(s->u, s->w->state_b, base->n, G);
}

static void end(struct deq_seq *base, struct deq_weights *grads)
{
    struct seq *s = (struct seq *)base;
    struct deq_trellis_weights *g = deq_trellis_weights(grads);
    const size_t D = base->vocab.d_model, H = s->arch.state_size;
    float *d_e = s->d_e;
    memset(d_e, 0, base->n * D * sizeof(float));
    for (unsigned j = 0; j < s->arch.kernel_size; j++)
        convolve_vjp(s, s->w->inject_w[j], inject_shift(s, j), base->e, D, s->d_u, d_e, g->inject_w[j]);
    deq_seq_sum_rows(s->d_u, base->n, 4 * H, g->inject_b);
    deq_seq_sum_rows(s->d_u, base->n, 4 * H, g->state_b);
    for (unsigned j = 0; s->dropped && j < s->arch.kernel_size; j++) {
        deq_kern()->mul(s->d_w[j], s->d_w[j], s->mask_w[j], 4 * H * H);
        deq_kern()->add(g->state_w[j], g->state_w[j], s->d_w[j], 4 * H * H);
    }
    if (s->masked)
        deq_seq_apply_mask(base, s->mask_e, D, d_e);
    deq_seq_embed_vjp(base, d_e, scale_of(s), grads);
}

/* --- One evaluation, forward and VJP --- */

/* c of all positions; where `from` is given, c_{t-1} is that of the level below, [N, S] with c behind h. */
static void run_gates(struct seq *s, const struct tape *t, const float *from, float *c)
{
    const struct deq_kern *k = deq_kern();
    const size_t T = s->base.t, H = s->arch.state_size, S = s->base.state_dim;
    for (size_t n = 0; n < s->base.n; n++) {
        float *i = t->gates + n * 4 * H, *o = i + H, *g = o + H, *f = g + H, *before = t->before + n * H,
              *tc = t->tc + n * H;
        const float *old = n % T        ? (from ? from + (n - 1) * S + H : c + (n - 1) * H)
                           : s->history ? s->last_c + n / T * H
                                        : NULL;
        if (old)
            memcpy(before, old, H * sizeof(float));
        else
            memset(before, 0, H * sizeof(float));
        k->sigmoid(i, i, 2 * H);
        k->tanh_of(g, g, H);
        k->sigmoid(f, f, H);
        for (size_t d = 0; d < H; d++)
            tc[d] = c[n * H + d] = f[d] * before[d] + i[d] * g[d];
        k->tanh_of(tc, tc, H);
    }
}

static void forward(struct deq_seq *base, unsigned tape, const float *z, float *fz)
{
    struct seq *s = (struct seq *)base;
    const struct tape *t = &s->tape[tape];
    const size_t N = base->n, H = s->arch.state_size, S = base->state_dim;
    for (size_t n = 0; n < N; n++)
        memcpy(t->h + n * H, z + n * S, H * sizeof(float));
    if (s->masked)
        deq_seq_apply_mask(base, s->mask_h, H, t->h);
    memcpy(t->gates, s->u, N * 4 * H * sizeof(float));
    for (unsigned j = 0; j < s->arch.kernel_size; j++) {
        convolve(s, s->state_w[j], shift_of(s, j), t->h, H, t->gates);
        if (s->history)
            convolve_history(s, j, t->gates);
    }
    run_gates(s, t, s->arch.levels ? z : NULL, s->c);
    for (size_t n = 0; n < N; n++) {
        deq_kern()->mul(fz + n * S, t->gates + n * 4 * H + H, t->tc + n * H, H);
        if (s->arch.levels)
            memcpy(fz + n * S + H, s->c + n * H, H * sizeof(float));
    }
}

/* d_a [N, 4H] and, of levels, d_c [N, H], the gradient of the c below, from d_fz. */
static void gates_vjp(struct seq *s, const struct tape *t, const float *d_fz, float *d_a, float *d_c)
{
    const size_t T = s->base.t, H = s->arch.state_size, S = s->base.state_dim;
    const bool levels = s->arch.levels;
    for (size_t n = s->base.n; n-- > 0;) {
        const float *i = t->gates + n * 4 * H, *o = i + H, *g = o + H, *f = g + H, *before = t->before + n * H,
                    *tc = t->tc + n * H;
        const float *d_h = d_fz + n * S;
        float *di = d_a + n * 4 * H, *d_o = di + H, *dg = d_o + H, *df = dg + H;
        float *later = d_c + n * H;                 /* what position t+1 made of c_t; of levels it comes with d_fz */
        float *earlier = n % T ? later - H : NULL; /* and what this one makes of c_{t-1} */
        for (size_t d = 0; d < H; d++) {
            const float from_above = levels ? d_h[H + d] : n % T == T - 1 ? 0 : later[d];
            const float dc = d_h[d] * o[d] * (1 - tc[d] * tc[d]) + from_above;
            d_o[d] = d_h[d] * tc[d] * o[d] * (1 - o[d]);
            di[d] = dc * g[d] * i[d] * (1 - i[d]);
            dg[d] = dc * i[d] * (1 - g[d] * g[d]);
            df[d] = dc * before[d] * f[d] * (1 - f[d]);
            if (earlier)
                earlier[d] = dc * f[d];
        }
        if (levels && n % T == T - 1)
            memset(later, 0, H * sizeof(float)); /* nobody reads the last c of the level below */
    }
}

static void vjp(struct deq_seq *base, unsigned tape, const float *d_fz, float *dz, struct deq_weights *grads)
{
    struct seq *s = (struct seq *)base;
    const struct tape *t = &s->tape[tape];
    struct deq_trellis_weights *g = grads ? deq_trellis_weights(grads) : NULL;
    const size_t N = base->n, H = s->arch.state_size, S = base->state_dim;
    float *d_a = s->a, *d_c = s->c, *d_h = s->d_h;
    gates_vjp(s, t, d_fz, d_a, d_c);
    memset(d_h, 0, N * H * sizeof(float));
    for (unsigned j = 0; j < s->arch.kernel_size; j++) {
        float *d_w = !g ? NULL : s->dropped ? s->d_w[j] : g->state_w[j];
        convolve_vjp(s, s->state_w[j], shift_of(s, j), t->h, H, d_a, d_h, d_w);
    }
    if (s->masked)
        deq_seq_apply_mask(base, s->mask_h, H, d_h);
    if (g)
        deq_kern()->add(s->d_u, s->d_u, d_a, N * 4 * H);
    for (size_t n = 0; n < N; n++) {
        memcpy(dz + n * S, d_h + n * H, H * sizeof(float));
        if (s->arch.levels)
            memcpy(dz + n * S + H, d_c + n * H, H * sizeof(float));
    }
}

/* --- What lies before --- */

static void remember(struct deq_seq *base, const float *z, float *shown)
{
    struct seq *s = (struct seq *)base;
    const size_t T = base->t, H = s->arch.state_size, S = base->state_dim;
    if (!s->arch.levels)
        forward(base, 0, z, s->d_h); /* for its c; f(z) is not asked for */
    for (size_t n = 0; n < base->n; n++) {
        if (s->arch.levels)
            memcpy(s->c + n * H, z + n * S + H, H * sizeof(float));
        if (shown) {
            memcpy(shown + n * 2 * H, z + n * S, H * sizeof(float));
            memcpy(shown + n * 2 * H + H, s->c + n * H, H * sizeof(float));
        }
    }
    for (size_t b = 0; b < base->b; b++) {
        memcpy(s->last_h + b * H, z + (b * T + T - 1) * S, H * sizeof(float));
        memcpy(s->last_c + b * H, s->c + (b * T + T - 1) * H, H * sizeof(float));
    }
    s->history = true;
}

static void forget(struct deq_seq *base)
{
    ((struct seq *)base)->history = false;
}

/* --- What the head reads: the last of h --- */

static const float *read_states(struct deq_seq *base, const float *z)
{
    struct seq *s = (struct seq *)base;
    const size_t H = s->arch.state_size, S = base->state_dim, Y = deq_vocab_out(&base->vocab);
    for (size_t n = 0; n < base->n; n++)
        memcpy(s->x + n * Y, z + n * S + H - Y, Y * sizeof(float));
    if (s->masked)
        deq_seq_apply_mask(base, s->mask_y, Y, s->x);
    return s->x;
}

static void read_vjp(struct deq_seq *base, const float *z, const float *d_x, float *d_z, struct deq_weights *grads)
{
    struct seq *s = (struct seq *)base;
    const size_t H = s->arch.state_size, S = base->state_dim, Y = deq_vocab_out(&base->vocab);
    (void)z;
    (void)grads;
    memcpy(s->x, d_x, base->n * Y * sizeof(float));
    if (s->masked)
        deq_seq_apply_mask(base, s->mask_y, Y, s->x);
    memset(d_z, 0, base->n * S * sizeof(float));
    for (size_t n = 0; n < base->n; n++)
        memcpy(d_z + n * S + H - Y, s->x + n * Y, Y * sizeof(float));
}

/* --- Opening --- */

static void seq_free(struct deq_seq *base)
{
    struct seq *s = (struct seq *)base;
    deq_free(s->mem);
    deq_free(s);
}

static const struct deq_seq_ops ops = {.begin = begin, .forward = forward, .vjp = vjp, .end = end, .remember = remember,
                                       .forget = forget, .read = read_states, .read_vjp = read_vjp, .free = seq_free};

enum deq_rc deq_trellis_seq_new(const struct deq_arch *a, const struct deq_seq_shape *shape, struct deq_seq **ret,
                                struct deq_err *err)
{
    struct seq *s = DEQ_NEW(struct seq);
    struct deq_layout l = {0};
    if (!s)
        goto nomem;
    s->arch = *deq_trellis_arch(a);
    deq_seq_init(&s->base, &ops, a, shape, deq_trellis_state(&s->arch));
    s->base.shown_dim = 2 * (size_t)s->arch.state_size;
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
