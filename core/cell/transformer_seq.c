#include "core/cell/transformer_seq.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/math/gemm.h"
#include "core/math/kern.h"

enum { LOSS_ROWS = 256, LOSS_FLOATS = 1 << 24 }; /* logits that exist at a time: that many rows, or fewer of a large vocabulary */

/* --- Memory: one block, cut by one walk that first counts, then sets pointers --- */

struct cut {
    float *mem;
    size_t at;
};

static void cut(struct cut *c, float **slot, size_t floats)
{
    if (c->mem)
        *slot = c->mem + c->at;
    c->at += DEQ_ROUND_UP(floats, (size_t)16);
}

static void layout(struct deq_seq *s, struct cut *c, bool dropout)
{
    const struct deq_arch *a = &s->arch;
    const size_t N = s->n, T = s->t, R = s->t + s->m_max, D = a->vocab.d_model, F = a->d_inner, HD = (size_t)a->n_head * a->d_head;
    c->at = 0;
    cut(c, &s->e, N * D);
    cut(c, &s->sin, R * D);
    for (unsigned l = 0; l < a->n_block; l++) {
        cut(c, &s->u[l], N * 3 * HD);
        cut(c, &s->d_u[l], N * 3 * HD);
        cut(c, &s->ux[l], a->inject_residual ? N * D : 0);
        cut(c, &s->d_ux[l], a->inject_residual ? N * D : 0);
        cut(c, &s->rel[l], R * HD);
        cut(c, &s->d_rel[l], R * HD);
        cut(c, &s->memory[l], s->b * s->m_max * 2 * HD);
    }
    if (dropout) {
        cut(c, &s->mask_attn, s->b * D);
        cut(c, &s->mask_ffn, s->b * F);
    }
    for (unsigned i = 0; i < s->n_tapes * a->n_block; i++) {
        struct deq_tape *t = &s->tape[i];
        cut(c, &t->x, N * D);
        cut(c, &t->n1, a->norm == DEQ_NORM_POST ? 0 : N * D);
        cut(c, &t->st1, N * 2);
        cut(c, &t->qkv, N * 3 * HD);
        cut(c, &t->probs, s->b * a->n_head * T * R);
        cut(c, &t->av, N * HD);
        cut(c, &t->avn, a->norm == DEQ_NORM_PRE_SUB ? N * HD : 0);
        cut(c, &t->st_sub, a->norm == DEQ_NORM_PRE_SUB ? N * 2 : 0);
        cut(c, &t->s, N * D);
        cut(c, &t->h, N * D);
        cut(c, &t->act, N * F);
        cut(c, &t->o, a->norm == DEQ_NORM_POST ? N * D : 0);
        cut(c, &t->st2, N * 2);
    }
    cut(c, &s->carry, deq_norm_keeps(a->norm) ? N * D : 0);
    cut(c, &s->w_nd, N * D);
    cut(c, &s->w_nd2, N * D);
    cut(c, &s->w_nf, N * F);
    cut(c, &s->w_nh, N * HD);
    cut(c, &s->w_qkv, N * 3 * HD);
    cut(c, &s->w_tt, 64 * R);
    cut(c, &s->w_tt2, 64 * R);
    cut(c, &s->w_td, 64 * (size_t)a->d_head);
    cut(c, &s->tails, s->loss_rows * a->vocab.n_cutoffs);
    cut(c, &s->gather, s->loss_rows * a->vocab.d_model);
    cut(c, &s->hidden, s->loss_rows * deq_cluster_embed(&a->vocab, 0));
    cut(c, &s->logits, s->loss_rows * (size_t)a->vocab.size);
}

enum deq_rc deq_seq_new(const struct deq_arch *arch, size_t b, size_t t, size_t memory, unsigned n_tapes, bool dropout, struct deq_seq **ret,
                        struct deq_err *err)
{
    struct deq_seq *s = DEQ_NEW(struct deq_seq);
    if (!s || !(s->tape = DEQ_NEW_ARRAY(struct deq_tape, (size_t)n_tapes * arch->n_block)))
        goto nomem;
    s->arch = *arch;
    s->b = b;
    s->t = s->t_max = t;
    s->n = b * t;
    s->m_max = memory;
    s->xwt = deq_gemm_xwt;
    s->dyw = deq_gemm_dyw;
    s->loss_rows = DEQ_MAX(DEQ_MIN((size_t)LOSS_ROWS, (size_t)LOSS_FLOATS / arch->vocab.size), (size_t)1);
    s->n_tapes = n_tapes;
    struct cut c = {0};
    layout(s, &c, dropout);
    s->mem = DEQ_NEW_ARRAY(float, c.at);
    if (!s->mem)
        goto nomem;
    c.mem = s->mem;
    layout(s, &c, dropout);
    for (size_t i = 0; i < t + memory; i++)
        deq_sinusoid((uint32_t)(t + memory - 1 - i), arch->vocab.d_model, s->sin + i * arch->vocab.d_model);
    *ret = s;
    return DEQ_OK;
nomem:
    deq_seq_free(s);
    return deq_fail(err, DEQ_ENOMEM, "no memory for %zu sequences of %zu positions", b, t);
}

void deq_seq_free(struct deq_seq *s)
{
    if (!s)
        return;
    deq_free(s->mem);
    deq_free(s->tape);
    deq_free(s);
}

void deq_seq_wide(struct deq_seq *s)
{
    s->xwt = deq_gemm_xwt_wide;
    s->dyw = deq_gemm_dyw_wide;
}

void deq_seq_length(struct deq_seq *s, size_t t)
{
    s->t = t;
    s->n = s->b * t;
}

/* --- Small helpers on [N, n] --- */

static void add_bias(float *y, const float *b, size_t rows, size_t n)
{
    const struct deq_kern *k = deq_kern();
    for (size_t i = 0; i < rows; i++)
        k->add(y + i * n, y + i * n, b, n);
}

static void sum_rows(const float *dy, size_t rows, size_t n, float *d_b)
{
    const struct deq_kern *k = deq_kern();
    for (size_t i = 0; i < rows; i++)
        k->add(d_b, d_b, dy + i * n, n);
}

static void norm_rows(const struct deq_arch *a, const float *x, size_t rows, size_t n, const float *g, const float *b, float *y,
                      float *stats)
{
    const struct deq_kern *k = deq_kern();
    for (size_t i = 0; i < rows; i++)
        k->layernorm(x + i * n, n, a->norm_eps, g, b, y + i * n, stats ? stats + 2 * i : NULL);
}

static void norm_rows_vjp(const float *x, const float *stats, size_t rows, size_t n, const float *g, const float *dy, float *dx,
                          float *d_g, float *d_b)
{
    const struct deq_kern *k = deq_kern();
    for (size_t i = 0; i < rows; i++)
        k->layernorm_vjp(x + i * n, stats + 2 * i, n, g, dy + i * n, dx + i * n, d_g, d_b);
}

static void apply_mask(const struct deq_seq *s, const float *mask, size_t n, float *y)
{
    if (!s->masked)
        return;
    const struct deq_kern *k = deq_kern();
    for (size_t i = 0; i < s->n; i++)
        k->mul(y + i * n, y + i * n, mask + i / s->t * n, n);
}

static void draw_mask(float *mask, size_t n, float dropout, uint64_t seed, uint64_t stream)
{
    for (size_t i = 0; i < n; i++)
        mask[i] = deq_rng_uniform(seed, stream, i) < dropout ? 0.0f : 1.0f / (1.0f - dropout);
}

/* --- Injection: once per token, whatever the number of evaluations --- */

void deq_seq_begin(struct deq_seq *s, const struct deq_weights *w, const uint32_t *tokens, float dropout, uint64_t seed, uint64_t step)
{
    const struct deq_kern *k = deq_kern();
    const size_t D = s->arch.vocab.d_model, HD = (size_t)s->arch.n_head * s->arch.d_head, R = s->t_max + s->m_max;
    const float root = sqrtf((float)D);
    s->w = w;
    s->tokens = tokens;
    for (size_t i = 0; i < s->n; i++) {
        deq_seq_embed(w, tokens[i], s->e + i * D);
        k->scale(s->e + i * D, root, D);
    }
    for (unsigned l = 0; l < s->arch.n_block; l++) {
        s->xwt(s->n, 3 * HD, D, s->e, D, w->block[l].inject_w, D, 0, s->u[l], 3 * HD);
        add_bias(s->u[l], w->block[l].inject_b, s->n, 3 * HD);
        if (s->arch.inject_residual) {
            s->xwt(s->n, D, D, s->e, D, w->block[l].inject_w + 3 * HD * D, D, 0, s->ux[l], D);
            add_bias(s->ux[l], w->block[l].inject_b + 3 * HD, s->n, D);
            memset(s->d_ux[l], 0, s->n * D * sizeof(float));
        }
        s->xwt(R, HD, D, s->sin, D, w->block[l].rel_w, D, 0, s->rel[l], HD);
        memset(s->d_u[l], 0, s->n * 3 * HD * sizeof(float));
        memset(s->d_rel[l], 0, R * HD * sizeof(float));
    }
    s->masked = dropout > 0 && s->mask_attn;
    if (s->masked) {
        draw_mask(s->mask_attn, s->b * D, dropout, seed, step * 2);
        draw_mask(s->mask_ffn, s->b * s->arch.d_inner, dropout, seed, step * 2 + 1);
    }
}

void deq_seq_end(struct deq_seq *s, struct deq_weights *g)
{
    const struct deq_kern *k = deq_kern();
    const size_t D = s->arch.vocab.d_model, HD = (size_t)s->arch.n_head * s->arch.d_head;
    const float root = sqrtf((float)D);
    float *d_e = s->w_nd;
    memset(d_e, 0, s->n * D * sizeof(float));
    for (unsigned l = 0; l < s->arch.n_block; l++) {
        deq_gemm_dytx(s->n, 3 * HD, D, s->d_u[l], 3 * HD, s->e, D, g->block[l].inject_w, D);
        sum_rows(s->d_u[l], s->n, 3 * HD, g->block[l].inject_b);
        deq_gemm_dyw(s->n, 3 * HD, D, s->d_u[l], 3 * HD, s->w->block[l].inject_w, D, 1, d_e, D);
        if (s->arch.inject_residual) {
            deq_gemm_dytx(s->n, D, D, s->d_ux[l], D, s->e, D, g->block[l].inject_w + 3 * HD * D, D);
            sum_rows(s->d_ux[l], s->n, D, g->block[l].inject_b + 3 * HD);
            deq_gemm_dyw(s->n, D, D, s->d_ux[l], D, s->w->block[l].inject_w + 3 * HD * D, D, 1, d_e, D);
        }
        deq_gemm_dytx(s->t_max + s->m_max, HD, D, s->d_rel[l], HD, s->sin, D, g->block[l].rel_w, D);
    }
    for (size_t i = 0; i < s->n; i++)
        k->axpy(g->embed[0] + s->tokens[i] * D, root, d_e + i * D, D);
}

/* --- One block, forward and VJP --- */

/* y += x [N, D]. Where nothing norms the state (deq_norm_keeps) it grows from block to block and step to step, and in a float every addition would lose
 * what is small beside it: what was lost (Knuth's two-sum, exact) is kept and given back at the end of the evaluation. */
static void add_carry(struct deq_seq *s, float *y, const float *x)
{
    const size_t n = s->n * s->arch.vocab.d_model;
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

static void block_forward(struct deq_seq *s, unsigned l, const struct deq_tape *t, const float *x, float *y)
{
    const struct deq_kern *k = deq_kern();
    const struct deq_arch *a = &s->arch;
    const struct deq_block_weights *w = &s->w->block[l];
    const size_t N = s->n, D = a->vocab.d_model, F = a->d_inner, HD = (size_t)a->n_head * a->d_head;
    const float *in = t->x, *av = t->av;

    memcpy(t->x, x, N * D * sizeof(float));
    if (a->norm != DEQ_NORM_POST) {
        norm_rows(a, t->x, N, D, w->attn_norm_g, w->attn_norm_b, t->n1, t->st1);
        in = t->n1;
    }
    memcpy(t->qkv, s->u[l], N * 3 * HD * sizeof(float));
    s->xwt(N, 3 * HD, D, in, D, w->qkv_w, D, 1, t->qkv, 3 * HD);
    deq_attention_seq(s, l, t);
    if (a->norm == DEQ_NORM_PRE_SUB) {
        norm_rows(a, t->av, N, HD, w->sub_norm_g, w->sub_norm_b, t->avn, t->st_sub);
        av = t->avn;
    }
    s->xwt(N, D, HD, av, HD, w->out_w, HD, 0, t->s, D);
    add_bias(t->s, w->out_b, N, D);
    apply_mask(s, s->mask_attn, D, t->s);
    add_carry(s, t->s, t->x);
    if (a->inject_residual)
        add_carry(s, t->s, s->ux[l]);

    if (a->norm == DEQ_NORM_POST)
        norm_rows(a, t->s, N, D, w->attn_norm_g, w->attn_norm_b, t->h, t->st1);
    else
        norm_rows(a, t->s, N, D, w->ffn_norm_g, w->ffn_norm_b, t->h, t->st2);
    s->xwt(N, F, D, t->h, D, w->up_w, D, 0, t->act, F);
    for (size_t i = 0; i < N; i++)
        k->add_relu(t->act + i * F, w->up_b, F);
    apply_mask(s, s->mask_ffn, F, t->act);
    float *o = a->norm == DEQ_NORM_POST ? t->o : y;
    s->xwt(N, D, F, t->act, F, w->down_w, F, 0, o, D);
    add_bias(o, w->down_b, N, D);
    add_carry(s, o, deq_norm_keeps(a->norm) ? t->s : t->h);
    if (a->norm == DEQ_NORM_POST)
        norm_rows(a, o, N, D, w->ffn_norm_g, w->ffn_norm_b, y, t->st2);
}

/* dy [N, D] -> dx [N, D]; they may be the same. g NULL: no parameter gradients. */
static void block_vjp(struct deq_seq *s, unsigned l, const struct deq_tape *t, const float *dy, float *dx, struct deq_weights *grads)
{
    const struct deq_kern *k = deq_kern();
    const struct deq_arch *a = &s->arch;
    const struct deq_block_weights *w = &s->w->block[l];
    struct deq_block_weights *g = grads ? &grads->block[l] : NULL;
    const size_t N = s->n, D = a->vocab.d_model, F = a->d_inner, HD = (size_t)a->n_head * a->d_head;
    float *d_o = s->w_nd, *d_h = s->w_nd2, *d_act = s->w_nf, *d_av = s->w_nh, *d_qkv = s->w_qkv;

    /* o = h + act W_2^T + b_2 */
    if (a->norm == DEQ_NORM_POST)
        norm_rows_vjp(t->o, t->st2, N, D, w->ffn_norm_g, dy, d_o, g ? g->ffn_norm_g : NULL, g ? g->ffn_norm_b : NULL);
    else
        memcpy(d_o, dy, N * D * sizeof(float));
    deq_gemm_dyw(N, D, F, d_o, D, w->down_w, F, 0, d_act, F);
    if (g) {
        deq_gemm_dytx(N, D, F, d_o, D, t->act, F, g->down_w, F);
        sum_rows(d_o, N, D, g->down_b);
    }
    /* act = mask * relu(h W_1^T + b_1): a unit that is zero passes nothing, whichever made it zero */
    apply_mask(s, s->mask_ffn, F, d_act);
    for (size_t i = 0; i < N * F; i++)
        d_act[i] = t->act[i] > 0 ? d_act[i] : 0.0f;
    deq_gemm_dyw(N, F, D, d_act, F, w->up_w, D, 0, d_h, D);
    if (g) {
        deq_gemm_dytx(N, F, D, d_act, F, t->h, D, g->up_w, D);
        sum_rows(d_act, N, F, g->up_b);
    }
    /* d_s: the gradient of s = x + attention */
    float *d_s = d_o;
    if (deq_norm_keeps(a->norm)) { /* f = s + ffn(n4(s)) */
        norm_rows_vjp(t->s, t->st2, N, D, w->ffn_norm_g, d_h, d_h, g ? g->ffn_norm_g : NULL, g ? g->ffn_norm_b : NULL);
        k->add(d_s, d_o, d_h, N * D);
    } else { /* f = h + ffn(h), h = norm(s) */
        k->add(d_h, d_h, d_o, N * D);
        if (a->norm == DEQ_NORM_POST)
            norm_rows_vjp(t->s, t->st1, N, D, w->attn_norm_g, d_h, d_s, g ? g->attn_norm_g : NULL, g ? g->attn_norm_b : NULL);
        else
            norm_rows_vjp(t->s, t->st2, N, D, w->ffn_norm_g, d_h, d_s, g ? g->ffn_norm_g : NULL, g ? g->ffn_norm_b : NULL);
    }
    if (g && a->inject_residual)
        k->add(s->d_ux[l], s->d_ux[l], d_s, N * D);
    /* attention's output: mask * (av W_o^T + b_o) */
    float *d_a = d_h;
    memcpy(d_a, d_s, N * D * sizeof(float));
    apply_mask(s, s->mask_attn, D, d_a);
    deq_gemm_dyw(N, D, HD, d_a, D, w->out_w, HD, 0, d_av, HD);
    if (g) {
        deq_gemm_dytx(N, D, HD, d_a, D, a->norm == DEQ_NORM_PRE_SUB ? t->avn : t->av, HD, g->out_w, HD);
        sum_rows(d_a, N, D, g->out_b);
    }
    if (a->norm == DEQ_NORM_PRE_SUB)
        norm_rows_vjp(t->av, t->st_sub, N, HD, w->sub_norm_g, d_av, d_av, g ? g->sub_norm_g : NULL, g ? g->sub_norm_b : NULL);
    deq_attention_seq_vjp(s, l, t, d_av, d_qkv, grads);
    /* qkv = in W_qkv^T + u */
    const float *in = a->norm == DEQ_NORM_POST ? t->x : t->n1;
    deq_gemm_dyw(N, 3 * HD, D, d_qkv, 3 * HD, w->qkv_w, D, 0, d_h, D);
    if (g) {
        deq_gemm_dytx(N, 3 * HD, D, d_qkv, 3 * HD, in, D, g->qkv_w, D);
        k->add(s->d_u[l], s->d_u[l], d_qkv, N * 3 * HD);
    }
    if (a->norm != DEQ_NORM_POST)
        norm_rows_vjp(t->x, t->st1, N, D, w->attn_norm_g, d_h, d_h, g ? g->attn_norm_g : NULL, g ? g->attn_norm_b : NULL);
    k->add(dx, d_s, d_h, N * D);
}

void deq_seq_forward(struct deq_seq *s, unsigned tape, const float *z, float *fz)
{
    const bool carries = deq_norm_keeps(s->arch.norm);
    if (carries)
        memset(s->carry, 0, s->n * s->arch.vocab.d_model * sizeof(float));
    for (unsigned l = 0; l < s->arch.n_block; l++)
        block_forward(s, l, &s->tape[tape * s->arch.n_block + l], l ? fz : z, fz);
    if (carries)
        deq_kern()->add(fz, fz, s->carry, s->n * s->arch.vocab.d_model);
}

void deq_seq_vjp(struct deq_seq *s, unsigned tape, const float *d_fz, float *dz, struct deq_weights *grads)
{
    for (unsigned l = s->arch.n_block; l-- > 0;)
        block_vjp(s, l, &s->tape[tape * s->arch.n_block + l], l == s->arch.n_block - 1 ? d_fz : dz, dz, grads);
}

/* --- Memory --- */

void deq_seq_remember(struct deq_seq *s, const float *z)
{
    const struct deq_arch *a = &s->arch;
    const size_t N = s->n, T = s->t, D = a->vocab.d_model, HD = (size_t)a->n_head * a->d_head, kv = 2 * HD;
    const size_t m = DEQ_MIN(s->m + T, s->m_max), old = m > T ? m - T : 0, new = m - old;
    for (unsigned l = 0; l < a->n_block; l++) {
        const struct deq_block_weights *w = &s->w->block[l];
        const float *in = z;
        if (a->norm != DEQ_NORM_POST) {
            norm_rows(a, z, N, D, w->attn_norm_g, w->attn_norm_b, s->w_nd, NULL);
            in = s->w_nd;
        }
        float *qkv = s->w_qkv;
        memcpy(qkv, s->u[l], N * 3 * HD * sizeof(float));
        s->xwt(N, kv, D, in, D, w->qkv_w + HD * D, D, 1, qkv + HD, 3 * HD);
        for (size_t b = 0; b < s->b; b++) {
            float *to = s->memory[l] + b * s->m_max * kv;
            memmove(to, to + (s->m - old) * kv, old * kv * sizeof(float));
            for (size_t i = 0; i < new; i++)
                memcpy(to + (old + i) * kv, qkv + (b * T + T - new + i) * 3 * HD + HD, kv * sizeof(float));
        }
    }
    s->m = m;
}

void deq_seq_forget(struct deq_seq *s)
{
    s->m = 0;
}

/* --- Head and loss --- */

double deq_seq_loss(struct deq_seq *s, const float *z, const uint32_t *targets, size_t count, float *d_z, struct deq_weights *g,
                    float *ret_nll)
{
    const struct deq_kern *k = deq_kern();
    const struct deq_weights *w = s->w;
    const size_t D = s->arch.vocab.d_model, V = s->arch.vocab.size;
    float *x = s->w_nd, *d_x = s->w_nd2, *stats = s->w_nf; /* w_nf has room for [N, 2] when F >= 2; [N, F] otherwise unused here */
    const float *h = z;
    double sum = 0;
    if (s->arch.final_norm) {
        norm_rows(&s->arch, z, s->n, D, w->final_norm_g, w->final_norm_b, x, stats);
        h = x;
    }
    for (size_t r = 0; r < s->n; r += s->loss_rows) {
        const size_t rows = DEQ_MIN(s->loss_rows, s->n - r);
        deq_gemm_xwt(rows, V, D, h + r * D, D, w->embed[0], D, 0, s->logits, V);
        for (size_t i = 0; i < rows; i++) {
            float *y = s->logits + i * V;
            const uint32_t target = targets[r + i];
            if (target == UINT32_MAX) {
                memset(y, 0, V * sizeof(float));
                if (ret_nll)
                    ret_nll[r + i] = 0;
                continue;
            }
            const float top = k->max(y, V), at = y[target];
            const float total = k->exp_sum(y, y, top, V);
            const double nll = log((double)total) + top - at;
            sum += nll;
            if (ret_nll)
                ret_nll[r + i] = (float)nll;
            k->scale(y, 1.0f / total / (float)count, V); /* softmax / count */
            y[target] -= 1.0f / (float)count;
        }
        if (d_z)
            deq_gemm_dyw(rows, V, D, s->logits, V, w->embed[0], D, 0, d_x + r * D, D);
        if (g)
            deq_gemm_dytx(rows, V, D, s->logits, V, h + r * D, D, g->embed[0], D);
    }
    if (d_z && s->arch.final_norm)
        norm_rows_vjp(z, stats, s->n, D, w->final_norm_g, d_x, d_z, g ? g->final_norm_g : NULL, g ? g->final_norm_b : NULL);
    else if (d_z)
        memcpy(d_z, d_x, s->n * D * sizeof(float));
    return sum / (double)count;
}
