#include "core/cell/transformer_seq.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/math/gemm.h"
#include "core/math/kern.h"

/* --- Memory: one block (core/base/layout.h) --- */

static void lay_out(struct deq_transformer_seq *s, struct deq_layout *l, bool dropout)
{
    const struct deq_transformer_arch *a = &s->arch;
    const size_t N = s->base.n, T = s->base.t, R = s->base.t + s->m_max, D = a->base.vocab.d_model, F = a->d_inner,
                 HD = (size_t)a->n_head * a->d_head;
    deq_seq_lay_out(&s->base, l);
    DEQ_PART(l, s->tape, (size_t)s->base.n_tapes * a->n_block);
    DEQ_PART(l, s->sin, R * D);
    for (unsigned k = 0; k < a->n_block; k++) {
        DEQ_PART(l, s->u[k], N * 3 * HD);
        DEQ_PART(l, s->d_u[k], N * 3 * HD);
        DEQ_PART(l, s->ux[k], a->inject_residual ? N * D : 0);
        DEQ_PART(l, s->d_ux[k], a->inject_residual ? N * D : 0);
        DEQ_PART(l, s->rel[k], R * HD);
        DEQ_PART(l, s->d_rel[k], R * HD);
        DEQ_PART(l, s->memory[k], s->base.b * s->m_max * 2 * HD);
    }
    if (dropout) {
        DEQ_PART(l, s->mask_attn, s->base.b * D);
        DEQ_PART(l, s->mask_ffn, s->base.b * F);
    }
    for (unsigned i = 0; i < s->base.n_tapes * a->n_block; i++) {
        struct deq_tape counted, *t = l->base ? &s->tape[i] : &counted;
        DEQ_PART(l, t->x, N * D);
        DEQ_PART(l, t->n1, a->norm == DEQ_NORM_POST ? 0 : N * D);
        DEQ_PART(l, t->st1, N * 2);
        DEQ_PART(l, t->qkv, N * 3 * HD);
        DEQ_PART(l, t->probs, s->base.b * a->n_head * T * R);
        DEQ_PART(l, t->av, N * HD);
        DEQ_PART(l, t->avn, a->norm == DEQ_NORM_PRE_SUB ? N * HD : 0);
        DEQ_PART(l, t->st_sub, a->norm == DEQ_NORM_PRE_SUB ? N * 2 : 0);
        DEQ_PART(l, t->s, N * D);
        DEQ_PART(l, t->h, N * D);
        DEQ_PART(l, t->act, N * F);
        DEQ_PART(l, t->o, a->norm == DEQ_NORM_POST ? N * D : 0);
        DEQ_PART(l, t->st2, N * 2);
    }
    DEQ_PART(l, s->carry, deq_norm_keeps(a->norm) ? N * D : 0);
    DEQ_PART(l, s->w_nd, N * D);
    DEQ_PART(l, s->w_nd2, N * D);
    DEQ_PART(l, s->w_wide, N * DEQ_MAX(F, 4 * HD));
    DEQ_PART(l, s->w_tt, DEQ_ATTENTION_SEQ_ROWS * R);
    DEQ_PART(l, s->w_tt2, DEQ_ATTENTION_SEQ_ROWS * R);
    DEQ_PART(l, s->w_td, DEQ_ATTENTION_SEQ_ROWS * (size_t)a->d_head);
    DEQ_PART(l, s->stats, N * 2);
}

/* --- Small helpers on [N, n] --- */

static void norm_rows(const struct deq_transformer_arch *a, const float *x, size_t rows, size_t n, const float *g,
                      const float *b, float *y, float *stats)
{
    const struct deq_kern *k = deq_kern();
    for (size_t i = 0; i < rows; i++)
        k->layernorm(x + i * n, n, a->norm_eps, g, b, y + i * n, stats ? stats + 2 * i : NULL);
}

static void norm_rows_vjp(const float *x, const float *stats, size_t rows, size_t n, const float *g, const float *dy,
                          float *dx, float *d_g, float *d_b)
{
    const struct deq_kern *k = deq_kern();
    for (size_t i = 0; i < rows; i++)
        k->layernorm_vjp(x + i * n, stats + 2 * i, n, g, dy + i * n, dx + i * n, d_g, d_b);
}

static void apply_mask(const struct deq_transformer_seq *s, const float *mask, size_t n, float *y)
{
    if (s->masked)
        deq_seq_apply_mask(&s->base, mask, n, y);
}

/* --- Injection: once per token, whatever the number of evaluations --- */

static void begin(struct deq_seq *base, const struct deq_weights *weights, const uint32_t *tokens,
                  const struct deq_dropout *d)
{
    struct deq_transformer_seq *s = (struct deq_transformer_seq *)base;
    const struct deq_transformer_weights *w = (const struct deq_transformer_weights *)weights;
    const size_t D = s->arch.base.vocab.d_model, HD = (size_t)s->arch.n_head * s->arch.d_head,
                 R = s->base.t_max + s->m_max;
    s->w = w;
    deq_seq_embed(base, weights, &w->vocabulary, tokens, sqrtf((float)D));
    for (unsigned l = 0; l < s->arch.n_block; l++) {
        const float *inject_w = w->block[l].inject_w, *inject_b = w->block[l].inject_b;
        s->base.xwt(s->base.n, 3 * HD, D, s->base.e, D, inject_w, D, inject_b, 0, s->u[l], 3 * HD);
        if (s->arch.inject_residual) {
            s->base.xwt(s->base.n, D, D, s->base.e, D, inject_w + 3 * HD * D, D, inject_b + 3 * HD, 0, s->ux[l], D);
            memset(s->d_ux[l], 0, s->base.n * D * sizeof(float));
        }
        s->base.xwt(R, HD, D, s->sin, D, w->block[l].rel_w, D, NULL, 0, s->rel[l], HD);
        memset(s->d_u[l], 0, s->base.n * 3 * HD * sizeof(float));
        memset(s->d_rel[l], 0, R * HD * sizeof(float));
    }
    s->masked = d && d->units > 0 && s->mask_attn;
    if (s->masked) {
        deq_seq_draw_mask(s->mask_attn, base->b * D, d->units, d->seed, d->stream * 2);
        deq_seq_draw_mask(s->mask_ffn, base->b * s->arch.d_inner, d->units, d->seed, d->stream * 2 + 1);
    }
}

static void end(struct deq_seq *base, struct deq_weights *grads)
{
    struct deq_transformer_seq *s = (struct deq_transformer_seq *)base;
    struct deq_transformer_weights *g = deq_transformer_weights(grads);
    const size_t D = s->arch.base.vocab.d_model, HD = (size_t)s->arch.n_head * s->arch.d_head;
    float *d_e = s->w_nd;
    memset(d_e, 0, s->base.n * D * sizeof(float));
    for (unsigned l = 0; l < s->arch.n_block; l++) {
        deq_gemm_dytx(s->base.n, 3 * HD, D, s->d_u[l], 3 * HD, s->base.e, D, g->block[l].inject_w, D);
        deq_seq_sum_rows(s->d_u[l], s->base.n, 3 * HD, g->block[l].inject_b);
        deq_gemm_dyw(s->base.n, 3 * HD, D, s->d_u[l], 3 * HD, s->w->block[l].inject_w, D, d_e, D, d_e, D);
        if (s->arch.inject_residual) {
            deq_gemm_dytx(s->base.n, D, D, s->d_ux[l], D, s->base.e, D, g->block[l].inject_w + 3 * HD * D, D);
            deq_seq_sum_rows(s->d_ux[l], s->base.n, D, g->block[l].inject_b + 3 * HD);
            deq_gemm_dyw(s->base.n, D, D, s->d_ux[l], D, s->w->block[l].inject_w + 3 * HD * D, D, d_e, D, d_e, D);
        }
        deq_gemm_dytx(s->base.t_max + s->m_max, HD, D, s->d_rel[l], HD, s->sin, D, g->block[l].rel_w, D);
    }
    deq_seq_embed_vjp(base, d_e, sqrtf((float)D), grads);
}

/* --- One block, forward and VJP --- */

/* y += x [N, D]. Where nothing norms the state (deq_norm_keeps) it grows from block to block and step to step, and in a
 * float every addition would lose what is small beside it: what was lost (Knuth's two-sum, exact) is kept and given
 * back at the end of the evaluation. */
static void add_carry(struct deq_transformer_seq *s, float *y, const float *x)
{
    const size_t n = s->base.n * s->arch.base.vocab.d_model;
    if (!deq_norm_keeps(s->arch.norm)) {
        deq_kern()->add(y, y, x, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const float sum = y[i] + x[i], part = sum - y[i];
        s->carry[i] += (y[i] - (sum - part)) + (x[i] - part);
        y[i] = sum;
    }
}

static struct deq_attention_seq attention(const struct deq_transformer_seq *s, unsigned l, const struct deq_tape *t)
{
    const struct deq_block_weights *w = &s->w->block[l];
    return (struct deq_attention_seq){
        .seq = &s->base, .n_head = s->arch.n_head, .n_kv_head = s->arch.n_head, .d_head = s->arch.d_head,
        .window = s->arch.attn_window, .qkv = t->qkv, .probs = t->probs, .av = t->av, .rel = s->rel[l],
        .n_rel = s->base.t_max + s->m_max, .r_w = w->r_w, .r_r = w->r_r, .memory = s->memory[l], .m = s->m,
        .m_max = s->m_max, .scores = s->w_tt, .scores2 = s->w_tt2, .queries = s->w_td};
}

static void block_forward(struct deq_transformer_seq *s, unsigned l, const struct deq_tape *t, const float *x, float *y)
{
    const struct deq_kern *k = deq_kern();
    const struct deq_transformer_arch *a = &s->arch;
    const struct deq_block_weights *w = &s->w->block[l];
    const size_t N = s->base.n, D = a->base.vocab.d_model, F = a->d_inner, HD = (size_t)a->n_head * a->d_head;
    const float *in = t->x, *av = t->av;

    memcpy(t->x, x, N * D * sizeof(float));
    if (a->norm != DEQ_NORM_POST) {
        norm_rows(a, t->x, N, D, w->attn_norm_g, w->attn_norm_b, t->n1, t->st1);
        in = t->n1;
    }
    s->base.xwt(N, 3 * HD, D, in, D, w->qkv_w, D, s->u[l], 3 * HD, t->qkv, 3 * HD);
    const struct deq_attention_seq attn = attention(s, l, t);
    deq_attention_seq(&attn);
    if (a->norm == DEQ_NORM_PRE_SUB) {
        norm_rows(a, t->av, N, HD, w->sub_norm_g, w->sub_norm_b, t->avn, t->st_sub);
        av = t->avn;
    }
    s->base.xwt(N, D, HD, av, HD, w->out_w, HD, w->out_b, 0, t->s, D);
    apply_mask(s, s->mask_attn, D, t->s);
    add_carry(s, t->s, t->x);
    if (a->inject_residual)
        add_carry(s, t->s, s->ux[l]);

    if (a->norm == DEQ_NORM_POST)
        norm_rows(a, t->s, N, D, w->attn_norm_g, w->attn_norm_b, t->h, t->st1);
    else
        norm_rows(a, t->s, N, D, w->ffn_norm_g, w->ffn_norm_b, t->h, t->st2);
    s->base.xwt(N, F, D, t->h, D, w->up_w, D, NULL, 0, t->act, F);
    for (size_t i = 0; i < N; i++)
        k->add_relu(t->act + i * F, w->up_b, F);
    apply_mask(s, s->mask_ffn, F, t->act);
    float *o = a->norm == DEQ_NORM_POST ? t->o : y;
    s->base.xwt(N, D, F, t->act, F, w->down_w, F, w->down_b, 0, o, D);
    add_carry(s, o, deq_norm_keeps(a->norm) ? t->s : t->h);
    if (a->norm == DEQ_NORM_POST)
        norm_rows(a, o, N, D, w->ffn_norm_g, w->ffn_norm_b, y, t->st2);
}

/* dy [N, D] -> dx [N, D]; they may be the same. g NULL: no parameter gradients. */
static void block_vjp(struct deq_transformer_seq *s, unsigned l, const struct deq_tape *t, const float *dy, float *dx,
                      struct deq_transformer_weights *grads)
{
    const struct deq_kern *k = deq_kern();
    const struct deq_transformer_arch *a = &s->arch;
    const struct deq_block_weights *w = &s->w->block[l];
    struct deq_block_weights *g = grads ? &grads->block[l] : NULL;
    const size_t N = s->base.n, D = a->base.vocab.d_model, F = a->d_inner, HD = (size_t)a->n_head * a->d_head;
    float *d_o = s->w_nd, *d_h = s->w_nd2, *d_act = s->w_wide;
    float *d_qkv = s->w_wide, *d_av = s->w_wide + N * 3 * HD; /* d_act is done with when attention's turn comes */

    /* o = h + act W_2^T + b_2 */
    if (a->norm == DEQ_NORM_POST)
        norm_rows_vjp(t->o, t->st2, N, D, w->ffn_norm_g, dy, d_o, g ? g->ffn_norm_g : NULL, g ? g->ffn_norm_b : NULL);
    else
        memcpy(d_o, dy, N * D * sizeof(float));
    deq_gemm_dyw(N, D, F, d_o, D, w->down_w, F, NULL, 0, d_act, F);
    if (g) {
        deq_gemm_dytx(N, D, F, d_o, D, t->act, F, g->down_w, F);
        deq_seq_sum_rows(d_o, N, D, g->down_b);
    }
    /* act = mask * relu(h W_1^T + b_1): a unit that is zero passes nothing, whichever made it zero */
    apply_mask(s, s->mask_ffn, F, d_act);
    for (size_t i = 0; i < N * F; i++)
        d_act[i] = t->act[i] > 0 ? d_act[i] : 0.0f;
    deq_gemm_dyw(N, F, D, d_act, F, w->up_w, D, NULL, 0, d_h, D);
    if (g) {
        deq_gemm_dytx(N, F, D, d_act, F, t->h, D, g->up_w, D);
        deq_seq_sum_rows(d_act, N, F, g->up_b);
    }
    /* d_s: the gradient of s = x + attention */
    float *d_s = d_o;
    if (deq_norm_keeps(a->norm)) { /* f = s + ffn(n4(s)) */
        norm_rows_vjp(t->s, t->st2, N, D, w->ffn_norm_g, d_h, d_h, g ? g->ffn_norm_g : NULL, g ? g->ffn_norm_b : NULL);
        k->add(d_s, d_o, d_h, N * D);
    } else { /* f = h + ffn(h), h = norm(s) */
        k->add(d_h, d_h, d_o, N * D);
        if (a->norm == DEQ_NORM_POST)
            norm_rows_vjp(t->s, t->st1, N, D, w->attn_norm_g, d_h, d_s, g ? g->attn_norm_g : NULL,
                          g ? g->attn_norm_b : NULL);
        else
            norm_rows_vjp(t->s, t->st2, N, D, w->ffn_norm_g, d_h, d_s, g ? g->ffn_norm_g : NULL,
                          g ? g->ffn_norm_b : NULL);
    }
    if (g && a->inject_residual)
        k->add(s->d_ux[l], s->d_ux[l], d_s, N * D);
    /* attention's output: mask * (av W_o^T + b_o) */
    float *d_a = d_h;
    memcpy(d_a, d_s, N * D * sizeof(float));
    apply_mask(s, s->mask_attn, D, d_a);
    deq_gemm_dyw(N, D, HD, d_a, D, w->out_w, HD, NULL, 0, d_av, HD);
    if (g) {
        deq_gemm_dytx(N, D, HD, d_a, D, a->norm == DEQ_NORM_PRE_SUB ? t->avn : t->av, HD, g->out_w, HD);
        deq_seq_sum_rows(d_a, N, D, g->out_b);
    }
    if (a->norm == DEQ_NORM_PRE_SUB)
        norm_rows_vjp(t->av, t->st_sub, N, HD, w->sub_norm_g, d_av, d_av, g ? g->sub_norm_g : NULL,
                      g ? g->sub_norm_b : NULL);
    const struct deq_attention_seq attn = attention(s, l, t);
    deq_attention_seq_vjp(&attn, d_av, d_qkv, g ? g->r_w : NULL, g ? g->r_r : NULL, g ? s->d_rel[l] : NULL);
    /* qkv = in W_qkv^T + u */
    const float *in = a->norm == DEQ_NORM_POST ? t->x : t->n1;
    deq_gemm_dyw(N, 3 * HD, D, d_qkv, 3 * HD, w->qkv_w, D, NULL, 0, d_h, D);
    if (g) {
        deq_gemm_dytx(N, 3 * HD, D, d_qkv, 3 * HD, in, D, g->qkv_w, D);
        k->add(s->d_u[l], s->d_u[l], d_qkv, N * 3 * HD);
    }
    if (a->norm != DEQ_NORM_POST)
        norm_rows_vjp(t->x, t->st1, N, D, w->attn_norm_g, d_h, d_h, g ? g->attn_norm_g : NULL,
                      g ? g->attn_norm_b : NULL);
    k->add(dx, d_s, d_h, N * D);
}

static void forward(struct deq_seq *base, unsigned tape, const float *z, float *fz)
{
    struct deq_transformer_seq *s = (struct deq_transformer_seq *)base;
    const bool carries = deq_norm_keeps(s->arch.norm);
    if (carries)
        memset(s->carry, 0, s->base.n * s->arch.base.vocab.d_model * sizeof(float));
    for (unsigned l = 0; l < s->arch.n_block; l++)
        block_forward(s, l, &s->tape[tape * s->arch.n_block + l], l ? fz : z, fz);
    if (carries)
        deq_kern()->add(fz, fz, s->carry, s->base.n * s->arch.base.vocab.d_model);
}

static void vjp(struct deq_seq *base, unsigned tape, const float *d_fz, float *dz, struct deq_weights *grads)
{
    struct deq_transformer_seq *s = (struct deq_transformer_seq *)base;
    for (unsigned l = s->arch.n_block; l-- > 0;)
        block_vjp(s, l, &s->tape[tape * s->arch.n_block + l], l == s->arch.n_block - 1 ? d_fz : dz, dz,
                  grads ? deq_transformer_weights(grads) : NULL);
}

/* --- Memory --- */

static void remember(struct deq_seq *base, const float *z, float *shown)
{
    struct deq_transformer_seq *s = (struct deq_transformer_seq *)base;
    const struct deq_transformer_arch *a = &s->arch;
    const size_t N = s->base.n, T = s->base.t, D = a->base.vocab.d_model, HD = (size_t)a->n_head * a->d_head,
                 kv = 2 * HD;
    const size_t m = DEQ_MIN(s->m + T, s->m_max), old = m > T ? m - T : 0, new = m - old;
    for (unsigned l = 0; l < a->n_block; l++) {
        const struct deq_block_weights *w = &s->w->block[l];
        const float *in = z;
        if (a->norm != DEQ_NORM_POST) {
            norm_rows(a, z, N, D, w->attn_norm_g, w->attn_norm_b, s->w_nd, NULL);
            in = s->w_nd;
        }
        float *qkv = s->w_wide;
        s->base.xwt(N, kv, D, in, D, w->qkv_w + HD * D, D, s->u[l] + HD, 3 * HD, qkv + HD, 3 * HD);
        for (size_t b = 0; b < s->base.b; b++) {
            float *to = s->memory[l] + b * s->m_max * kv;
            memmove(to, to + (s->m - old) * kv, old * kv * sizeof(float));
            for (size_t i = 0; i < new; i++)
                memcpy(to + (old + i) * kv, qkv + (b * T + T - new + i) * 3 * HD + HD, kv * sizeof(float));
        }
    }
    s->m = m;
    if (shown)
        memcpy(shown, z, N * D * sizeof(float));
}

static void forget(struct deq_seq *base)
{
    ((struct deq_transformer_seq *)base)->m = 0;
}

/* --- What the head reads --- */

static const float *read_states(struct deq_seq *base, const float *z)
{
    struct deq_transformer_seq *s = (struct deq_transformer_seq *)base;
    if (!s->arch.final_norm)
        return z;
    norm_rows(&s->arch, z, base->n, base->state_dim, s->w->final_norm_g, s->w->final_norm_b, s->w_nd, s->stats);
    return s->w_nd;
}

static void read_vjp(struct deq_seq *base, const float *z, const float *d_x, float *d_z, struct deq_weights *grads)
{
    struct deq_transformer_seq *s = (struct deq_transformer_seq *)base;
    struct deq_transformer_weights *g = grads ? deq_transformer_weights(grads) : NULL;
    if (s->arch.final_norm)
        norm_rows_vjp(z, s->stats, base->n, base->state_dim, s->w->final_norm_g, d_x, d_z, g ? g->final_norm_g : NULL,
                      g ? g->final_norm_b : NULL);
    else
        memcpy(d_z, d_x, base->n * base->state_dim * sizeof(float));
}

/* --- Opening --- */

static void seq_free(struct deq_seq *base)
{
    struct deq_transformer_seq *s = (struct deq_transformer_seq *)base;
    deq_free(s->mem);
    deq_free(s);
}

static const struct deq_seq_ops ops = {.begin = begin, .forward = forward, .vjp = vjp, .end = end, .remember = remember,
                                       .forget = forget, .read = read_states, .read_vjp = read_vjp, .free = seq_free};

enum deq_rc deq_transformer_seq_new(const struct deq_arch *a, const struct deq_seq_shape *shape, struct deq_seq **ret,
                                    struct deq_err *err)
{
    const size_t R = shape->t + shape->memory, D = a->vocab.d_model;
    struct deq_transformer_seq *s = DEQ_NEW(struct deq_transformer_seq);
    struct deq_layout l = {0};
    if (!s)
        goto nomem;
    s->arch = *deq_transformer_arch(a);
    s->m_max = shape->memory;
    deq_seq_init(&s->base, &ops, a, shape, D);
    lay_out(s, &l, shape->dropout);
    l = (struct deq_layout){.base = s->mem = deq_alloc(l.bytes)};
    if (!s->mem)
        goto nomem;
    lay_out(s, &l, shape->dropout);
    s->base.bytes = l.bytes;
    for (size_t i = 0; i < R; i++)
        deq_sinusoid((uint32_t)(R - 1 - i), (uint32_t)D, s->sin + i * D);
    *ret = &s->base;
    return DEQ_OK;
nomem:
    deq_free(s);
    return deq_fail(err, DEQ_ENOMEM, "no memory for %zu sequences of %zu positions", shape->b, shape->t);
}
