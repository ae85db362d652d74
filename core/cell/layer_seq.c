#include "core/cell/layer_seq.h"

#include <string.h>

#include "core/cell/attention_seq.h"
#include "core/math/gemm.h"
#include "core/math/kern.h"

/* --- Memory: parts of one block (core/base/layout.h) --- */

/* Floats of a row of q, k, v; of the up product. */
static size_t qkv_floats(const struct deq_layer_shape *s)
{
    return (s->n_head + 2 * s->n_kv_head) * s->d_head;
}

static size_t up_floats(const struct deq_looped_arch *a, const struct deq_layer_shape *s)
{
    return (a->ffn == DEQ_FFN_SWIGLU ? 2 : 1) * s->d_inner;
}

void deq_layers_seq_lay_out(struct deq_layers_seq *s, bool dropout, struct deq_layout *l)
{
    const size_t N = s->seq->b * s->seq->t_max;
    size_t width = 0, qkv = 0, av = 0, up = 0, inner = 0;
    for (unsigned p = 0; p < DEQ_PARTS; p++) {
        const struct deq_layer_shape shape = deq_looped_layer(s->arch, p);
        width = DEQ_MAX(width, shape.width);
        qkv = DEQ_MAX(qkv, qkv_floats(&shape));
        av = DEQ_MAX(av, shape.n_head * shape.d_head);
        up = DEQ_MAX(up, up_floats(s->arch, &shape));
        inner = DEQ_MAX(inner, shape.d_inner);
    }
    s->masks[DEQ_HALF_ATTN] = dropout ? s->seq->b * width : 0;
    s->masks[DEQ_HALF_FFN] = dropout ? s->seq->b * inner : 0;
    for (unsigned h = 0; h < DEQ_HALVES; h++)
        DEQ_PART(l, s->mask[h], s->masks[h]);
    DEQ_PART(l, s->d_x, N * width);
    DEQ_PART(l, s->d_branch, N * width);
    DEQ_PART(l, s->d_n, N * width);
    DEQ_PART(l, s->d_qkv, N * qkv);
    DEQ_PART(l, s->d_av, N * av);
    DEQ_PART(l, s->d_up, N * up);
    DEQ_PART(l, s->d_act, N * inner);
    DEQ_PART(l, s->scores, DEQ_ATTENTION_SEQ_ROWS * s->seq->t_max);
}

void deq_layer_seq_lay_out(struct deq_layer_seq *l, struct deq_layout *to)
{
    for (unsigned h = 0; h < DEQ_HALVES && l->shape.gates; h++)
        DEQ_PART(to, l->gate[h], l->shape.width);
}

void deq_layer_tape_lay_out(const struct deq_layers_seq *s, const struct deq_layer_seq *l, struct deq_layer_tape *t,
                            struct deq_layout *to)
{
    const struct deq_layer_shape *a = &l->shape;
    const size_t T = s->seq->t_max, N = s->seq->b * T;
    for (unsigned h = 0; h < DEQ_HALVES; h++) {
        DEQ_PART(to, t->half[h].x, N * a->width);
        DEQ_PART(to, t->half[h].n, N * a->width);
        DEQ_PART(to, t->half[h].rstd, N);
        DEQ_PART(to, t->half[h].branch, N * a->width);
        DEQ_PART(to, t->half[h].out_rstd, N);
    }
    DEQ_PART(to, t->qkv, N * qkv_floats(a));
    DEQ_PART(to, t->qk_rstd, N * (a->n_head + a->n_kv_head));
    DEQ_PART(to, t->values, N * a->n_kv_head);
    DEQ_PART(to, t->probs, s->seq->b * a->n_head * T * T);
    DEQ_PART(to, t->av, N * a->n_head * a->d_head);
    DEQ_PART(to, t->up, N * up_floats(s->arch, a));
    DEQ_PART(to, t->act, N * a->d_inner);
}

void deq_layers_seq_drop(struct deq_layers_seq *s, const struct deq_dropout *d)
{
    s->masked = d && d->units > 0 && s->masks[0];
    for (unsigned h = 0; h < DEQ_HALVES && s->masked; h++)
        deq_seq_draw_mask(s->mask[h], s->masks[h], d->units, d->seed, d->stream * 2 + h);
}

void deq_layer_seq_begin(const struct deq_layers_seq *s, struct deq_layer_seq *l, const struct deq_layer_weights *w)
{
    l->w = w;
    if (l->shape.gates) {
        deq_looped_gates(s->arch, w->gate_attn, l->shape.width, l->gate[DEQ_HALF_ATTN]);
        deq_looped_gates(s->arch, w->gate_ffn, l->shape.width, l->gate[DEQ_HALF_FFN]);
    }
}

/* --- Norms, dropout --- */

void deq_rms_rows(const float *x, size_t rows, size_t n, float eps, const float *gain, float *y, float *rstd)
{
    const struct deq_kern *k = deq_kern();
    for (size_t i = 0; i < rows; i++)
        k->rmsnorm(x + i * n, n, eps, gain, y + i * n, rstd + i);
}

void deq_rms_rows_vjp(const float *x, const float *rstd, size_t rows, size_t n, const float *gain, const float *dy,
                      float *dx, float *d_gain)
{
    const struct deq_kern *k = deq_kern();
    for (size_t i = 0; i < rows; i++)
        k->rmsnorm_vjp(x + i * n, rstd[i], n, gain, dy + i * n, dx + i * n, d_gain);
}

static void apply_mask(const struct deq_layers_seq *s, enum deq_half h, size_t n, float *y)
{
    if (s->masked)
        deq_seq_apply_mask(s->seq, s->mask[h], n, y);
}

/* --- Both ends of a half --- */

/* The norm in front of a half, and that behind it (SANDWICH). */
static unsigned norm_before(const struct deq_layers_seq *s, enum deq_half h)
{
    return s->arch->norm == DEQ_LAYER_SANDWICH ? 2 * h : h;
}

static unsigned norm_behind(enum deq_half h)
{
    return 2 * h + 1;
}

static void enter(const struct deq_layers_seq *s, const struct deq_layer_seq *l, const struct deq_layer_tape *t,
                  enum deq_half h)
{
    deq_rms_rows(t->half[h].x, s->seq->n, l->shape.width, s->arch->norm_eps, l->w->norm[norm_before(s, h)],
                 t->half[h].n, t->half[h].rstd);
}

/* d_x += the VJP of d_n */
static void enter_vjp(const struct deq_layers_seq *s, const struct deq_layer_seq *l, const struct deq_layer_tape *t,
                      enum deq_half h, float *d_n, float *d_x, const struct deq_layer_weights *g)
{
    const unsigned norm = norm_before(s, h);
    deq_rms_rows_vjp(t->half[h].x, t->half[h].rstd, s->seq->n, l->shape.width, l->w->norm[norm], d_n, d_n,
                     g ? g->norm[norm] : NULL);
    deq_kern()->add(d_x, d_x, d_n, s->seq->n * l->shape.width);
}

static void leave(const struct deq_layers_seq *s, const struct deq_layer_seq *l, const struct deq_layer_tape *t,
                  enum deq_half h, float *out)
{
    const struct deq_kern *k = deq_kern();
    const size_t N = s->seq->n, D = l->shape.width;
    const float *x = t->half[h].x, *gate = l->gate[h];
    float *branch = t->half[h].branch;
    if (s->arch->norm == DEQ_LAYER_SANDWICH) {
        k->add(branch, branch, x, N * D);
        deq_rms_rows(branch, N, D, s->arch->norm_eps, l->w->norm[norm_behind(h)], out, t->half[h].out_rstd);
        return;
    }
    for (size_t i = 0; i < N * D; i += D)
        if (gate) {
            k->mul(out + i, branch + i, gate, D);
            k->add(out + i, out + i, x + i, D);
        } else {
            k->add(out + i, branch + i, x + i, D);
        }
}

/* d_out -> d_x, that of the way beside the branch, which may be d_out; and d_branch */
static void leave_vjp(const struct deq_layers_seq *s, const struct deq_layer_seq *l, const struct deq_layer_tape *t,
                      enum deq_half h, const float *d_out, float *d_x, float *d_branch,
                      const struct deq_layer_weights *g)
{
    const struct deq_kern *k = deq_kern();
    const size_t N = s->seq->n, D = l->shape.width;
    const float *branch = t->half[h].branch, *gate = l->gate[h];
    if (s->arch->norm == DEQ_LAYER_SANDWICH) {
        const unsigned norm = norm_behind(h);
        deq_rms_rows_vjp(branch, t->half[h].out_rstd, N, D, l->w->norm[norm], d_out, d_x, g ? g->norm[norm] : NULL);
        memcpy(d_branch, d_x, N * D * sizeof(float));
        return;
    }
    if (d_x != d_out)
        memcpy(d_x, d_out, N * D * sizeof(float));
    memcpy(d_branch, d_x, N * D * sizeof(float));
    if (!gate)
        return;
    float *d_raw = !g ? NULL : h == DEQ_HALF_ATTN ? g->gate_attn : g->gate_ffn;
    for (size_t n = 0; n < N; n++) {
        float *d = d_branch + n * D;
        for (size_t i = 0; i < D && d_raw; i++) /* g' = g (1 - g / gamma_max) */
            d_raw[i] += d[i] * branch[n * D + i] * gate[i] * (1.0f - gate[i] / s->arch->gamma_max);
        k->mul(d, d, gate, D);
    }
}

/* --- Queries, keys and values: what lies between the product and attention --- */

static const float *value_embed(const struct deq_layers_seq *s, const struct deq_layer_seq *l, size_t n)
{
    return l->w->value_embed + s->seq->tokens[n] * l->shape.n_kv_head * l->shape.d_head;
}

static void finish_qkv(const struct deq_layers_seq *s, const struct deq_layer_seq *l, const struct deq_layer_tape *t)
{
    const struct deq_kern *k = deq_kern();
    const struct deq_looped_arch *a = s->arch;
    const size_t d = l->shape.d_head, K = l->shape.n_kv_head, turned = l->shape.n_head + K, ld = (turned + K) * d;
    for (size_t n = 0; n < s->seq->n; n++) {
        float *q = t->qkv + n * ld, *v = q + turned * d, *gate = t->values + n * K;
        const float *turn = s->rope + n % s->seq->t * d, *normed = t->half[DEQ_HALF_ATTN].n + n * l->shape.width;
        if (a->qk_bias)
            k->add(q, q, l->w->qk_bias, turned * d);
        for (size_t h = 0; h < turned; h++) {
            k->rope(q + h * d, turn, d, a->rope_pairs, false);
            if (a->qk_norm)
                k->rmsnorm(q + h * d, d, a->qk_norm_eps, NULL, q + h * d, t->qk_rstd + n * turned + h);
        }
        if (!l->w->value_embed)
            continue;
        const float *embed = value_embed(s, l, n);
        for (size_t h = 0; h < K; h++)
            gate[h] = k->dot(l->w->value_gate + h * DEQ_VALUE_GATE_IN, normed, DEQ_VALUE_GATE_IN);
        k->sigmoid(gate, gate, K);
        for (size_t h = 0; h < K; h++)
            k->axpy(v + h * d, 2 * gate[h], embed + h * d, d);
    }
}

/* A row's value embeddings: d_v [Hkv, d] -> d_n [width] += */
static void values_vjp(const struct deq_layers_seq *s, const struct deq_layer_seq *l, const struct deq_layer_tape *t,
                       size_t n, const float *d_v, float *d_n, const struct deq_layer_weights *g)
{
    const struct deq_kern *k = deq_kern();
    const size_t d = l->shape.d_head, K = l->shape.n_kv_head;
    const float *embed = value_embed(s, l, n), *gate = t->values + n * K,
                *normed = t->half[DEQ_HALF_ATTN].n + n * l->shape.width;
    for (size_t h = 0; h < K; h++) {
        const float slope = 2 * gate[h] * (1 - gate[h]) * k->dot(d_v + h * d, embed + h * d, d);
        k->axpy(d_n, slope, l->w->value_gate + h * DEQ_VALUE_GATE_IN, DEQ_VALUE_GATE_IN);
        if (!g)
            continue;
        float *d_gate = g->value_gate + h * DEQ_VALUE_GATE_IN,
              *d_embed = g->value_embed + (size_t)(embed - l->w->value_embed) + h * d;
        k->axpy(d_gate, slope, normed, DEQ_VALUE_GATE_IN);
        k->axpy(d_embed, 2 * gate[h], d_v + h * d, d);
    }
}

/* d_qkv, of what attention read, becomes that of the product; d_n [N, width] += what comes by value embeddings */
static void finish_qkv_vjp(const struct deq_layers_seq *s, const struct deq_layer_seq *l,
                           const struct deq_layer_tape *t, float *d_qkv, float *d_n, const struct deq_layer_weights *g)
{
    const struct deq_kern *k = deq_kern();
    const struct deq_looped_arch *a = s->arch;
    const size_t d = l->shape.d_head, K = l->shape.n_kv_head, turned = l->shape.n_head + K, ld = (turned + K) * d;
    for (size_t n = 0; n < s->seq->n; n++) {
        float *dq = d_qkv + n * ld;
        const float *turn = s->rope + n % s->seq->t * d, *q = t->qkv + n * ld, *rstd = t->qk_rstd + n * turned;
        for (size_t h = 0; h < turned; h++) {
            if (a->qk_norm) { /* kept is what it gave, q rstd: the VJP at that with a rstd of one, times rstd */
                k->rmsnorm_vjp(q + h * d, 1, d, NULL, dq + h * d, dq + h * d, NULL);
                k->scale(dq + h * d, rstd[h], d);
            }
            k->rope(dq + h * d, turn, d, a->rope_pairs, true);
        }
        if (a->qk_bias && g)
            k->add(g->qk_bias, g->qk_bias, dq, turned * d);
        if (l->w->value_embed)
            values_vjp(s, l, t, n, dq + turned * d, d_n + n * l->shape.width, g);
    }
}

static struct deq_attention_seq attention(const struct deq_layers_seq *s, const struct deq_layer_seq *l,
                                          const struct deq_layer_tape *t)
{
    return (struct deq_attention_seq){.seq = s->seq, .n_head = l->shape.n_head, .n_kv_head = l->shape.n_kv_head,
                                      .d_head = l->shape.d_head, .window = SIZE_MAX, .qkv = t->qkv, .probs = t->probs,
                                      .av = t->av, .scores = s->scores};
}

/* --- The layer --- */

static void nonlinearity(const struct deq_looped_arch *a, const struct deq_layer_tape *t, size_t rows, size_t F)
{
    const struct deq_kern *k = deq_kern();
    if (a->ffn == DEQ_FFN_RELU2)
        k->relu2(t->act, t->up, rows * F);
    else
        for (size_t n = 0; n < rows; n++)
            k->swiglu(t->act + n * F, t->up + n * 2 * F, t->up + n * 2 * F + F, F);
}

static void nonlinearity_vjp(const struct deq_looped_arch *a, const struct deq_layer_tape *t, size_t rows, size_t F,
                             const float *d_act, float *d_up)
{
    const struct deq_kern *k = deq_kern();
    if (a->ffn == DEQ_FFN_RELU2)
        k->relu2_vjp(t->up, d_act, d_up, rows * F);
    else
        for (size_t n = 0; n < rows; n++)
            k->swiglu_vjp(t->up + n * 2 * F, t->up + n * 2 * F + F, d_act + n * F, d_up + n * 2 * F,
                          d_up + n * 2 * F + F, F);
}

void deq_layer_forward(const struct deq_layers_seq *s, const struct deq_layer_seq *l, const struct deq_layer_tape *t,
                       const float *x, float *y)
{
    const struct deq_layer_weights *w = l->w;
    const size_t N = s->seq->n, D = l->shape.width, F = l->shape.d_inner, U = up_floats(s->arch, &l->shape),
                 Q = l->shape.n_head * l->shape.d_head, ld = qkv_floats(&l->shape);
    const struct deq_attention_seq attn = attention(s, l, t);
    deq_gemm_fn *xwt = s->seq->xwt;

    memcpy(t->half[DEQ_HALF_ATTN].x, x, N * D * sizeof(float));
    enter(s, l, t, DEQ_HALF_ATTN);
    xwt(N, ld, D, t->half[DEQ_HALF_ATTN].n, D, w->qkv_w, D, NULL, 0, t->qkv, ld);
    finish_qkv(s, l, t);
    deq_attention_seq(&attn);
    xwt(N, D, Q, t->av, Q, w->out_w, Q, NULL, 0, t->half[DEQ_HALF_ATTN].branch, D);
    apply_mask(s, DEQ_HALF_ATTN, D, t->half[DEQ_HALF_ATTN].branch);
    leave(s, l, t, DEQ_HALF_ATTN, t->half[DEQ_HALF_FFN].x);

    enter(s, l, t, DEQ_HALF_FFN);
    xwt(N, U, D, t->half[DEQ_HALF_FFN].n, D, w->up_w, D, NULL, 0, t->up, U);
    nonlinearity(s->arch, t, N, F);
    apply_mask(s, DEQ_HALF_FFN, F, t->act);
    xwt(N, D, F, t->act, F, w->down_w, F, NULL, 0, t->half[DEQ_HALF_FFN].branch, D);
    leave(s, l, t, DEQ_HALF_FFN, y);
}

void deq_layer_vjp(const struct deq_layers_seq *s, const struct deq_layer_seq *l, const struct deq_layer_tape *t,
                   const float *dy, float *dx, const struct deq_layer_weights *g)
{
    const struct deq_layer_weights *w = l->w;
    const size_t N = s->seq->n, D = l->shape.width, F = l->shape.d_inner, U = up_floats(s->arch, &l->shape),
                 Q = l->shape.n_head * l->shape.d_head, ld = qkv_floats(&l->shape);
    const struct deq_attention_seq attn = attention(s, l, t);

    leave_vjp(s, l, t, DEQ_HALF_FFN, dy, s->d_x, s->d_branch, g);
    deq_gemm_dyw(N, D, F, s->d_branch, D, w->down_w, F, NULL, 0, s->d_act, F);
    if (g)
        deq_gemm_dytx(N, D, F, s->d_branch, D, t->act, F, g->down_w, F);
    apply_mask(s, DEQ_HALF_FFN, F, s->d_act);
    nonlinearity_vjp(s->arch, t, N, F, s->d_act, s->d_up);
    deq_gemm_dyw(N, U, D, s->d_up, U, w->up_w, D, NULL, 0, s->d_n, D);
    if (g)
        deq_gemm_dytx(N, U, D, s->d_up, U, t->half[DEQ_HALF_FFN].n, D, g->up_w, D);
    enter_vjp(s, l, t, DEQ_HALF_FFN, s->d_n, s->d_x, g);

    leave_vjp(s, l, t, DEQ_HALF_ATTN, s->d_x, s->d_x, s->d_branch, g);
    apply_mask(s, DEQ_HALF_ATTN, D, s->d_branch);
    deq_gemm_dyw(N, D, Q, s->d_branch, D, w->out_w, Q, NULL, 0, s->d_av, Q);
    if (g)
        deq_gemm_dytx(N, D, Q, s->d_branch, D, t->av, Q, g->out_w, Q);
    deq_attention_seq_vjp(&attn, s->d_av, s->d_qkv, NULL, NULL, NULL);
    memset(s->d_n, 0, N * D * sizeof(float));
    finish_qkv_vjp(s, l, t, s->d_qkv, s->d_n, g);
    deq_gemm_dyw(N, ld, D, s->d_qkv, ld, w->qkv_w, D, s->d_n, D, s->d_n, D);
    if (g)
        deq_gemm_dytx(N, ld, D, s->d_qkv, ld, t->half[DEQ_HALF_ATTN].n, D, g->qkv_w, D);
    enter_vjp(s, l, t, DEQ_HALF_ATTN, s->d_n, s->d_x, g);
    memcpy(dx, s->d_x, N * D * sizeof(float));
}
