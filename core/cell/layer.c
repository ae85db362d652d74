#include "core/cell/layer.h"

#include <string.h>

#include "core/math/kern.h"

static unsigned halves(const struct deq_looped_arch *a)
{
    return a->ffn == DEQ_FFN_SWIGLU ? 2 : 1;
}

/* --- Opening --- */

struct deq_layers deq_layers_shape(const struct deq_looped_arch *a, uint32_t n_pages)
{
    struct deq_attention_dims d = {.numeric = a->base.serving.numeric, .d_head = a->d_head, .window = a->max_positions};
    for (unsigned p = 0; p < DEQ_PARTS; p++)
        d.n_kv += a->n_layer[p] * deq_looped_layer(a, p).n_kv_head;
    return (struct deq_layers){.kern = deq_kern(), .attention = deq_attention_shape(&d, n_pages)};
}

static void lay_out_part(struct deq_layers *s, const struct deq_looped_arch *a, enum deq_part part,
                         struct deq_layout *l)
{
    const struct deq_layer_shape shape = deq_looped_layer(a, part);
    DEQ_PART(l, s->layer[part], a->n_layer[part]);
    for (unsigned i = 0; shape.gates && i < a->n_layer[part]; i++) {
        struct deq_layer counted, *layer = l->base ? &s->layer[part][i] : &counted;
        DEQ_PART(l, layer->gate_attn, shape.width);
        DEQ_PART(l, layer->gate_ffn, shape.width);
    }
}

void deq_layers_lay_out(struct deq_layers *s, const struct deq_looped_arch *a, size_t max_rows, unsigned threads,
                        struct deq_layout *l)
{
    const size_t R = max_rows;
    size_t W = 0, Q = 0, KV = 0, F = 0, values = 0;
    deq_attention_lay_out(&s->attention, threads, l);
    for (unsigned p = 0; p < DEQ_PARTS; p++) {
        const struct deq_layer_shape part = deq_looped_layer(a, p);
        W = DEQ_MAX(W, part.width);
        Q = DEQ_MAX(Q, part.n_head * part.d_head);
        KV = DEQ_MAX(KV, part.n_kv_head * part.d_head);
        F = DEQ_MAX(F, part.d_inner);
        if (p != DEQ_CORE && a->value_embeds[p])
            values = KV;
        lay_out_part(s, a, p, l);
    }
    DEQ_PART(l, s->x, R * W);
    DEQ_PART(l, s->n, R * W);
    DEQ_PART(l, s->qkv, R * (Q + 2 * KV));
    DEQ_PART(l, s->av, R * Q);
    DEQ_PART(l, s->s, R * W);
    DEQ_PART(l, s->act, R * halves(a) * F);
    DEQ_PART(l, s->values, R * values);
    DEQ_PART(l, s->operand, R * deq_class_operand_bytes(a->base.serving.numeric, DEQ_MAX(DEQ_MAX(W, Q), F)));
}

void deq_layers_init(struct deq_layers *s, const struct deq_looped_weights *w, struct deq_pool *pool)
{
    size_t at = 0;
    s->w = w;
    s->pool = pool;
    for (unsigned p = 0; p < DEQ_PARTS; p++)
        for (unsigned i = 0; i < w->arch.n_layer[p]; i++) {
            struct deq_layer *l = &s->layer[p][i];
            l->w = &w->layer[p][i];
            l->shape = deq_looped_layer(&w->arch, p);
            l->heads = (struct deq_heads){.n = l->shape.n_head, .n_kv = l->shape.n_kv_head, .at = at};
            at += l->shape.n_kv_head;
            if (l->shape.gates) {
                deq_looped_gates(&w->arch, l->w->gate_attn, l->shape.width, l->gate_attn);
                deq_looped_gates(&w->arch, l->w->gate_ffn, l->shape.width, l->gate_ffn);
            }
        }
}

/* --- Value embeddings --- */

/* where those of a layer of the core stand in u: behind the token, and those of the layers before it */
static size_t value_at(const struct deq_looped_arch *a, unsigned layer)
{
    const struct deq_layer_shape s = deq_looped_layer(a, DEQ_CORE);
    const uint32_t before = a->value_embeds[DEQ_CORE] & (uint32_t)(((uint64_t)1 << DEQ_MIN(layer, 32u)) - 1);
    return 1 + (size_t)__builtin_popcount(before) * s.n_kv_head * s.d_head;
}

size_t deq_token_floats(const struct deq_looped_arch *a)
{
    return value_at(a, a->n_layer[DEQ_CORE]);
}

void deq_keep_token(const struct deq_looped_weights *w, uint32_t token, float *u)
{
    memcpy(u, &token, sizeof token);
    for (unsigned i = 0; i < w->arch.n_layer[DEQ_CORE]; i++)
        if (w->layer[DEQ_CORE][i].value_gate)
            deq_packed_row(&w->layer[DEQ_CORE][i].packed.value_embed, token, u + value_at(&w->arch, i));
}

/* [Hkv d] of a row in a layer that has them */
static const float *value_embedding(const struct deq_layers *s, enum deq_part part, unsigned layer, size_t row)
{
    const struct deq_packed *table = &s->w->layer[part][layer].packed.value_embed;
    float *const value = s->values + row * table->k;
    uint32_t token;
    if (part == DEQ_CORE)
        return s->rows->u[row] + value_at(&s->w->arch, layer);
    if (s->tokens)
        token = s->tokens[row];
    else
        memcpy(&token, s->rows->u[row], sizeof token);
    deq_packed_row(table, token, value);
    return value;
}

/* --- Work --- */

uint64_t deq_part_madds(const struct deq_looped_arch *a, enum deq_part part)
{
    const struct deq_layer_shape s = deq_looped_layer(a, part);
    return a->n_layer[part] * s.width * (2 * (s.n_head + s.n_kv_head) * s.d_head + (halves(a) + 1) * s.d_inner);
}

size_t deq_part_work(const struct deq_layers *s, enum deq_part part)
{
    const size_t layers = s->w->arch.n_layer[part];
    if (!layers)
        return 0;
    return s->rows->n * deq_part_madds(&s->w->arch, part) +
           layers * deq_attention_work(&s->attention, s->layer[part][0].heads, s->rows);
}

static void multiply_prepared(const struct deq_layers *s, const float *x, size_t ldx, const struct deq_packed *w,
                              float *y, unsigned thread, unsigned n_threads, deq_then *then, void *ctx)
{
    const struct deq_operand in = deq_operand(w->format, x, ldx, s->operand, w->k);
    deq_multiply(&in, s->rows->n, w, y, w->n, thread, n_threads, then, ctx);
}

void deq_layers_multiply(const struct deq_layers *s, const float *x, const struct deq_packed *w, float *y,
                         unsigned thread, unsigned n_threads, deq_then *then, void *ctx)
{
    for DEQ_ROWS_OF (thread, n_threads, s->rows->n)
        deq_prepare(w->format, x + r * w->k, w->k, s->operand, r);
    deq_pool_barrier(s->pool, thread, n_threads);
    multiply_prepared(s, x, w->k, w, y, thread, n_threads, then, ctx);
}

/* --- The layer: stages on rows and products in turn, each on all threads, a barrier after each --- */

struct pass {
    enum deq_part part;
    unsigned number;
    const struct deq_layer *l;
    const struct deq_layers *s;
    const struct deq_looped_arch *a;
    const struct deq_kern *k;
    unsigned thread, n_threads;
};

static void multiply(struct pass *p, const float *x, size_t ldx, const struct deq_packed *w, float *y, deq_then *then)
{
    multiply_prepared(p->s, x, ldx, w, y, p->thread, p->n_threads, then, p);
}

static void norm(const struct pass *p, const float *x, unsigned i, float *y)
{
    p->k->rmsnorm(x, p->l->shape.width, p->a->norm_eps, p->l->w->norm[i], y, NULL);
}

/* n = rms(x; n1) */
static void layer_input(const struct pass *p)
{
    const size_t W = p->l->shape.width;
    for DEQ_ROWS_OF (p->thread, p->n_threads, p->s->rows->n) {
        norm(p, p->s->x + r * W, 0, p->s->n + r * W);
        deq_prepare(p->l->w->packed.qkv.format, p->s->n + r * W, W, p->s->operand, r);
    }
}

/* v += 2 sigmoid(W_g n[0 .. 31]) * VE, by head */
static void add_value_embedding(const struct pass *p, size_t row, float *v)
{
    const size_t d = p->l->shape.d_head;
    const float *n = p->s->n + row * p->l->shape.width, *value = value_embedding(p->s, p->part, p->number, row);
    for (size_t h = 0; h < p->l->shape.n_kv_head; h++) {
        float gate = p->k->dot(p->l->w->value_gate + h * DEQ_VALUE_GATE_IN, n, DEQ_VALUE_GATE_IN);
        p->k->sigmoid(&gate, &gate, 1);
        p->k->axpy(v + h * d, 2 * gate, value + h * d, d);
    }
}

/* Queries and keys learn their position; keys and values go to the pages before anyone reads them. */
static void place(const struct pass *p)
{
    const struct deq_looped_arch *a = p->a;
    const struct deq_layer_shape *shape = &p->l->shape;
    const size_t d = shape->d_head, turned = shape->n_head + shape->n_kv_head, ld = p->l->w->packed.qkv.n;
    for DEQ_ROWS_OF (p->thread, p->n_threads, p->s->rows->n) {
        const size_t position = p->s->rows->position[r];
        float *q = p->s->qkv + r * ld, *k = q + shape->n_head * d;
        if (a->qk_bias)
            p->k->add(q, q, p->l->w->qk_bias, turned * d);
        for (size_t h = 0; h < turned; h++) {
            p->k->rope(q + h * d, p->s->w->rope + position * d, d, a->rope_pairs, false);
            if (a->qk_norm)
                p->k->rmsnorm(q + h * d, d, a->qk_norm_eps, NULL, q + h * d, NULL);
        }
        if (p->l->w->value_gate)
            add_value_embedding(p, r, q + turned * d);
        deq_attention_write(&p->s->attention, p->l->heads, p->s->rows->ring[r], position, k, p->thread);
    }
}

static void attend(const struct pass *p)
{
    const struct deq_attention_rows rows = {.rows = p->s->rows,
                                            .heads = p->l->heads,
                                            .q = p->s->qkv,
                                            .ldq = p->l->w->packed.qkv.n,
                                            .av = p->s->av};
    deq_attention_read(&p->s->attention, &rows, p->thread, p->n_threads);
}

static void prepare_out(const struct pass *p)
{
    const struct deq_packed *w = &p->l->w->packed.out;
    for DEQ_ROWS_OF (p->thread, p->n_threads, p->s->rows->n)
        deq_prepare(w->format, p->s->av + r * w->k, w->k, p->s->operand, r);
}

/* y = x + g y */
static void add_branch(const struct pass *p, const float *gate, const float *x, size_t row, size_t col, size_t n,
                       float *y)
{
    if (gate)
        p->k->mul(y, y, gate + col, n);
    p->k->add(y, y, x + row * p->l->shape.width + col, n);
}

static void then_attention(void *ctx, size_t row, size_t col, size_t n, float *y)
{
    const struct pass *p = ctx;
    add_branch(p, p->l->gate_attn, p->s->x, row, col, n, y);
}

static void ffn_input(const struct pass *p)
{
    const size_t W = p->l->shape.width;
    for DEQ_ROWS_OF (p->thread, p->n_threads, p->s->rows->n) {
        float *s = p->s->s + r * W, *n = p->s->n + r * W;
        const bool sandwich = p->a->norm == DEQ_LAYER_SANDWICH;
        if (sandwich)
            norm(p, s, 1, s);
        norm(p, s, sandwich ? 2 : 1, n);
        deq_prepare(p->l->w->packed.up.format, n, W, p->s->operand, r);
    }
}

static void then_relu2(void *ctx, size_t row, size_t col, size_t n, float *y)
{
    const struct pass *p = ctx;
    (void)row;
    (void)col;
    p->k->relu2(y, y, n);
}

static void ffn_inner(const struct pass *p)
{
    const size_t F = p->l->shape.d_inner, ld = p->l->w->packed.up.n;
    for DEQ_ROWS_OF (p->thread, p->n_threads, p->s->rows->n) {
        float *act = p->s->act + r * ld;
        if (p->a->ffn == DEQ_FFN_SWIGLU)
            p->k->swiglu(act, act, act + F, F);
        deq_prepare(p->l->w->packed.down.format, act, F, p->s->operand, r);
    }
}

static void then_ffn(void *ctx, size_t row, size_t col, size_t n, float *y)
{
    const struct pass *p = ctx;
    add_branch(p, p->l->gate_ffn, p->s->s, row, col, n, y);
}

static void output_norm(const struct pass *p)
{
    for DEQ_ROWS_OF (p->thread, p->n_threads, p->s->rows->n) {
        float *x = p->s->x + r * p->l->shape.width;
        norm(p, x, 3, x);
    }
}

/* Stages that the model or its format leaves nothing to do in are left out, and their barrier. */
static void evaluate(struct pass *p)
{
    const struct deq_layers *s = p->s;
    const struct deq_layer_weights *w = p->l->w;
    const bool prepares = deq_format_is_int(w->packed.qkv.format), swiglu = p->a->ffn == DEQ_FFN_SWIGLU;
#define BARRIER deq_pool_barrier(s->pool, p->thread, p->n_threads)
    layer_input(p);
    BARRIER;
    multiply(p, s->n, w->packed.qkv.k, &w->packed.qkv, s->qkv, NULL);
    BARRIER;
    place(p);
    BARRIER;
    attend(p);
    BARRIER;
    if (prepares) {
        prepare_out(p);
        BARRIER;
    }
    multiply(p, s->av, w->packed.out.k, &w->packed.out, s->s, then_attention);
    BARRIER;
    ffn_input(p);
    BARRIER;
    multiply(p, s->n, w->packed.up.k, &w->packed.up, s->act, swiglu ? NULL : then_relu2);
    BARRIER;
    if (prepares || swiglu) {
        ffn_inner(p);
        BARRIER;
    }
    multiply(p, s->act, w->packed.up.n, &w->packed.down, s->x, then_ffn);
    BARRIER;
    if (p->a->norm == DEQ_LAYER_SANDWICH)
        output_norm(p);
#undef BARRIER
}

void deq_part_evaluate(const struct deq_layers *s, enum deq_part part, unsigned thread, unsigned n_threads)
{
    for (unsigned i = 0; i < s->w->arch.n_layer[part]; i++)
        evaluate(&(struct pass){.part = part, .number = i, .l = &s->layer[part][i], .s = s, .a = &s->w->arch,
                                .k = s->kern, .thread = thread, .n_threads = n_threads});
}
