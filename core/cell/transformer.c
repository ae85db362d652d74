#include "core/cell/transformer.h"

#include <math.h>
#include <string.h>

#include "core/base/layout.h"
#include "core/base/mem.h"
#include "core/cell/attention.h"
#include "core/cell/near.h"
#include "core/math/kern.h"

/* --- Scratch --- */

struct cell {
    struct deq_cell base;
    const struct deq_transformer_weights *w;
    const struct deq_kern *kern;
    struct deq_attention attention;
    void *block_of_memory; /* all that follows lies in it */
    /* [max_rows, ...] each */
    float *x;      /* [R, D] block input / embeddings */
    float *n;      /* [R, D] normed input of the next product */
    float *qkv;    /* [R, U] */
    float *av;     /* [R, H*Dh] attention vectors */
    float *s;      /* [R, D] */
    float *act;    /* [R, F] */
    float *y;      /* [R, D] a product on its way to where it belongs */
    char *operand; /* [R] rows prepared for the next product, of a model in integers */
    float *emb;    /* [threads, deq_vocabulary_work()] */
    struct deq_readout readout;
    struct deq_near near;
    struct deq_predict predict;
    /* the call under way */
    const struct deq_rows *rows;
    const uint32_t *tokens;
    const float *const *in;
    float *const *out;
    size_t m;
    unsigned block;
};

static const struct deq_block_weights *weights(const struct cell *c)
{
    return &c->w->block[c->block];
}

static void norm(const struct cell *c, const float *x, size_t n, const float *g, const float *b, float *y)
{
    c->kern->layernorm(x, n, c->w->arch.norm_eps, g, b, y, NULL);
}

/* A thread's share of a product with the rows x, which stand prepared in c->operand where the weights ask for it. */
static void multiply(struct cell *c, const float *x, const struct deq_packed *w, float *y, unsigned thread,
                     unsigned n_threads, deq_then *then)
{
    const struct deq_operand in = deq_operand(w->format, x, w->k, c->operand, w->k);
    deq_multiply(&in, c->m, w, y, w->n, thread, n_threads, then, c);
}

/* --- The evaluation: stages on rows and products in turn, each on all threads, a barrier after each --- */

/* the block's input: z for the first, the block before's output after that; normed for qkv */
static void block_input(struct cell *c, unsigned thread, unsigned n_threads)
{
    const struct deq_transformer_arch *a = &c->w->arch;
    const struct deq_block_weights *w = weights(c);
    const size_t D = a->base.vocab.d_model;
    for DEQ_ROWS_OF (thread, n_threads, c->m) {
        memcpy(c->x + r * D, c->block ? c->rows->fz[r] : c->rows->z[r], D * sizeof(float));
        if (a->norm == DEQ_NORM_POST)
            memcpy(c->n + r * D, c->x + r * D, D * sizeof(float));
        else
            norm(c, c->x + r * D, D, w->attn_norm_g, w->attn_norm_b, c->n + r * D);
        deq_prepare(w->packed.qkv.format, c->n + r * D, D, c->operand, r);
    }
}

/* q, k, v = product + u */
static void then_inject(void *ctx, size_t row, size_t col, size_t n, float *y)
{
    const struct cell *c = ctx;
    c->kern->add(y, y, c->rows->u[row] + c->block * deq_inject_dim(&c->w->arch) + col, n);
}

static struct deq_heads heads_of(const struct deq_transformer_arch *a, unsigned block)
{
    return (struct deq_heads){.n = a->n_head, .n_kv = a->n_head, .at = (size_t)block * a->n_head};
}

/* keys and values go to the cache before anyone reads them */
static void cache_write(struct cell *c, unsigned thread, unsigned n_threads)
{
    const struct deq_transformer_arch *a = &c->w->arch;
    const size_t HD = (size_t)a->n_head * a->d_head;
    for DEQ_ROWS_OF (thread, n_threads, c->m)
        deq_attention_write(&c->attention, heads_of(a, c->block), c->rows->ring[r], c->rows->position[r],
                            c->qkv + r * 3 * HD + HD, thread);
}

static void attention_read(struct cell *c, unsigned thread, unsigned n_threads)
{
    const struct deq_attention_rows rows = {.rows = c->rows,
                                            .heads = heads_of(&c->w->arch, c->block),
                                            .r_w = weights(c)->r_w,
                                            .r_r = weights(c)->r_r,
                                            .q = c->qkv,
                                            .ldq = 3 * (size_t)c->w->arch.n_head * c->w->arch.d_head,
                                            .av = c->av};
    deq_attention_read(&c->attention, &rows, thread, n_threads);
}

static void attention_output(struct cell *c, unsigned thread, unsigned n_threads)
{
    const struct deq_block_weights *w = weights(c);
    const size_t HD = (size_t)c->w->arch.n_head * c->w->arch.d_head;
    for DEQ_ROWS_OF (thread, n_threads, c->m) {
        float *av = c->av + r * HD;
        if (c->w->arch.norm == DEQ_NORM_PRE_SUB)
            norm(c, av, HD, w->sub_norm_g, w->sub_norm_b, av);
        deq_prepare(w->packed.out.format, av, HD, c->operand, r);
    }
}

/* s = x + (y + b_o) [+ u_x] */
static void then_residual(void *ctx, size_t row, size_t col, size_t n, float *y)
{
    const struct cell *c = ctx;
    const struct deq_transformer_arch *a = &c->w->arch;
    const size_t D = a->base.vocab.d_model;
    c->kern->add(y, y, weights(c)->out_b + col, n);
    c->kern->add(y, y, c->x + row * D + col, n);
    if (a->inject_residual)
        c->kern->add(y, y, c->rows->u[row] + (c->block + 1) * deq_inject_dim(a) - D + col, n);
}

static void ffn_input(struct cell *c, unsigned thread, unsigned n_threads)
{
    const struct deq_transformer_arch *a = &c->w->arch;
    const struct deq_block_weights *w = weights(c);
    const size_t D = a->base.vocab.d_model;
    for DEQ_ROWS_OF (thread, n_threads, c->m) {
        if (a->norm == DEQ_NORM_POST)
            norm(c, c->s + r * D, D, w->attn_norm_g, w->attn_norm_b, c->n + r * D);
        else
            norm(c, c->s + r * D, D, w->ffn_norm_g, w->ffn_norm_b, c->n + r * D);
        deq_prepare(w->packed.up.format, c->n + r * D, D, c->operand, r);
    }
}

static void then_relu(void *ctx, size_t row, size_t col, size_t n, float *y)
{
    const struct cell *c = ctx;
    (void)row;
    c->kern->add_relu(y, weights(c)->up_b + col, n);
}

static void ffn_inner(struct cell *c, unsigned thread, unsigned n_threads)
{
    const size_t F = c->w->arch.d_inner;
    for DEQ_ROWS_OF (thread, n_threads, c->m)
        deq_prepare(weights(c)->packed.down.format, c->act + r * F, F, c->operand, r);
}

/* f = (n or s) + (y + b_2) */
static void then_output(void *ctx, size_t row, size_t col, size_t n, float *y)
{
    const struct cell *c = ctx;
    const size_t at = row * c->w->arch.base.vocab.d_model + col;
    c->kern->add(y, y, weights(c)->down_b + col, n);
    c->kern->add(c->rows->fz[row] + col, y, deq_norm_keeps(c->w->arch.norm) ? c->s + at : c->n + at, n);
}

static void post_norm(struct cell *c, unsigned thread, unsigned n_threads)
{
    const struct deq_block_weights *w = weights(c);
    for DEQ_ROWS_OF (thread, n_threads, c->m)
        norm(c, c->rows->fz[r], c->w->arch.base.vocab.d_model, w->ffn_norm_g, w->ffn_norm_b, c->rows->fz[r]);
}

/* One block. Stages that the model or its format leaves nothing to do in are left out, and their barrier. */
static void evaluate_block(void *ctx, unsigned thread, unsigned n)
{
    struct cell *c = ctx;
    const struct deq_block_weights *w = weights(c);
    const bool prepares = deq_format_is_int(w->packed.qkv.format);
#define BARRIER deq_pool_barrier(c->base.pool, thread, n)
    block_input(c, thread, n);
    BARRIER;
    multiply(c, c->n, &w->packed.qkv, c->qkv, thread, n, then_inject);
    BARRIER;
    cache_write(c, thread, n);
    BARRIER;
    attention_read(c, thread, n);
    BARRIER;
    if (prepares || c->w->arch.norm == DEQ_NORM_PRE_SUB) {
        attention_output(c, thread, n);
        BARRIER;
    }
    multiply(c, c->av, &w->packed.out, c->s, thread, n, then_residual);
    BARRIER;
    ffn_input(c, thread, n);
    BARRIER;
    multiply(c, c->n, &w->packed.up, c->act, thread, n, then_relu);
    BARRIER;
    if (prepares) {
        ffn_inner(c, thread, n);
        BARRIER;
    }
    multiply(c, c->act, &w->packed.down, c->y, thread, n, then_output);
    if (c->w->arch.norm == DEQ_NORM_POST) {
        BARRIER;
        post_norm(c, thread, n);
    }
}

static void run(struct cell *c, deq_pool_fn stages, size_t work)
{
    deq_pool_stage(c->base.pool, stages, c, work);
}

static void cell_step(struct deq_cell *base, const struct deq_rows *rows)
{
    struct cell *c = (struct cell *)base;
    c->rows = rows;
    c->m = rows->n;
    const size_t work = rows->n * base->step_madds / c->w->arch.n_block +
                        deq_attention_work(&c->attention, heads_of(&c->w->arch, 0), rows);
    for (c->block = 0; c->block < c->w->arch.n_block; c->block++)
        run(c, evaluate_block, work);
}

/* --- Injection, predictor, head --- */

/* u = W_u e + b_u */
static void then_bias(void *ctx, size_t row, size_t col, size_t n, float *y)
{
    const struct cell *c = ctx;
    c->kern->add(c->out[row] + c->block * deq_inject_dim(&c->w->arch) + col, y, weights(c)->inject_b + col, n);
}

static void embed(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t D = c->w->arch.base.vocab.d_model;
    const float root = sqrtf((float)D);
    for DEQ_ROWS_OF (thread, n_threads, c->m) {
        deq_vocabulary_embed(&c->w->vocabulary, c->tokens[r],
                             c->emb + thread * deq_vocabulary_work(&c->w->arch.base.vocab), c->x + r * D);
        c->kern->scale(c->x + r * D, root, D);
        deq_prepare(c->w->block[0].packed.inject.format, c->x + r * D, D, c->operand, r);
    }
}

static void inject_block(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    multiply(c, c->x, &weights(c)->packed.inject, c->qkv, thread, n_threads, then_bias);
}

static void cell_inject(struct deq_cell *base, const struct deq_rows *rows, const uint32_t *tokens, float *const *u)
{
    struct cell *c = (struct cell *)base;
    const size_t n = rows->n;
    c->m = n;
    c->tokens = tokens;
    c->out = u;
    const size_t D = c->w->arch.base.vocab.d_model, U = deq_inject_dim(&c->w->arch);
    run(c, embed, n * D);
    for (c->block = 0; c->block < c->w->arch.n_block; c->block++)
        run(c, inject_block, n * D * U);
}

static void cell_predict(struct deq_cell *base, size_t n, const uint32_t *tokens, const float *const *z_prev,
                         float *const *z0)
{
    deq_predict_rows(&((struct cell *)base)->predict, n, tokens, z_prev, z0);
}

/* x [D] = a state as the head wants it */
static void read_state(const struct cell *c, const float *z, float *x)
{
    const size_t D = c->w->arch.base.vocab.d_model;
    if (c->w->arch.final_norm)
        norm(c, z, D, c->w->final_norm_g, c->w->final_norm_b, x);
    else
        memcpy(x, z, D * sizeof(float));
}

static void stage_final_norm(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    for DEQ_ROWS_OF (thread, n_threads, c->m)
        read_state(c, c->in[r], c->n + r * c->w->arch.base.vocab.d_model);
}

/* n = the states as the head wants them */
static void final_norm(struct cell *c, const struct deq_rows *rows)
{
    c->m = rows->n;
    c->in = rows->z;
    run(c, stage_final_norm, rows->n * c->w->arch.base.vocab.d_model);
}

static void cell_readout(struct deq_cell *base, const struct deq_rows *rows, float *const *logits, float *const *tails)
{
    struct cell *c = (struct cell *)base;
    final_norm(c, rows);
    deq_vocabulary_head(&c->readout, rows->n, c->n, logits, tails);
}

static void cell_readout_tail(struct deq_cell *base, unsigned cluster, const struct deq_rows *rows,
                              float *const *logits, const float *const *tails)
{
    struct cell *c = (struct cell *)base;
    final_norm(c, rows);
    deq_vocabulary_tail(&c->readout, cluster, rows->n, c->n, logits, tails);
}

static bool cell_screen(struct deq_cell *base, const struct deq_rows *rows, float *const *logits)
{
    struct cell *c = (struct cell *)base;
    final_norm(c, rows);
    return deq_near_screen(&c->near, rows->n, c->n, logits);
}

static uint32_t cell_best_near(struct deq_cell *base, unsigned thread, const float *z, const struct deq_known *known)
{
    const struct cell *c = (const struct cell *)base;
    if (!c->near.thread)
        return UINT32_MAX;
    read_state(c, z, c->near.thread[thread].x);
    read_state(c, known->state, c->near.thread[thread].before);
    return deq_near_best(&c->near, thread, known);
}

static void cell_page_copy(struct deq_cell *base, uint32_t to, uint32_t from)
{
    deq_attention_page_copy(&((const struct cell *)base)->attention, to, from);
}

static void cell_page_get(const struct deq_cell *base, uint32_t page, uint32_t n, void *out)
{
    deq_attention_page_get(&((const struct cell *)base)->attention, page, n, out);
}

static void cell_page_put(struct deq_cell *base, uint32_t page, const void *in)
{
    deq_attention_page_put(&((const struct cell *)base)->attention, page, in);
}

/* --- Opening --- */

static void cell_free(struct deq_cell *base)
{
    struct cell *c = (struct cell *)base;
    deq_free(c->block_of_memory);
    deq_free(c);
}

static const struct deq_cell_ops ops = {.name = "transformer",
                                        .inject = cell_inject,
                                        .predict = cell_predict,
                                        .step = cell_step,
                                        .readout = cell_readout,
                                        .readout_tail = cell_readout_tail,
                                        .screen = cell_screen,
                                        .best_near = cell_best_near,
                                        .page_copy = cell_page_copy,
                                        .page_get = cell_page_get,
                                        .page_put = cell_page_put,
                                        .free = cell_free};
static const struct deq_cell_ops ops_without_predictor = {.name = "transformer",
                                                          .inject = cell_inject,
                                                          .step = cell_step,
                                                          .readout = cell_readout,
                                                          .readout_tail = cell_readout_tail,
                                                          .screen = cell_screen,
                                                          .best_near = cell_best_near,
                                                          .page_copy = cell_page_copy,
                                                          .page_get = cell_page_get,
                                                          .page_put = cell_page_put,
                                                          .free = cell_free};

static void lay_out(struct cell *c, const struct deq_transformer_arch *a, unsigned threads, struct deq_layout *l)
{
    const size_t R = c->base.max_rows, D = a->base.vocab.d_model, HD = (size_t)a->n_head * a->d_head;
    deq_attention_lay_out(&c->attention, threads, l);
    DEQ_PART(l, c->x, R * D);
    DEQ_PART(l, c->n, R * D);
    DEQ_PART(l, c->qkv, R * deq_inject_dim(a));
    DEQ_PART(l, c->av, R * HD);
    DEQ_PART(l, c->s, R * D);
    DEQ_PART(l, c->act, R * a->d_inner);
    DEQ_PART(l, c->y, R * D);
    DEQ_PART(l, c->operand,
             R * deq_class_operand_bytes(a->base.serving.numeric, DEQ_MAX(DEQ_MAX(D, HD), (size_t)a->d_inner)));
    DEQ_PART(l, c->emb, threads * deq_vocabulary_work(&a->base.vocab));
    deq_readout_lay_out(&c->readout, &a->base.vocab, a->base.serving.numeric, R, l);
    deq_near_lay_out(&c->near, &a->base.vocab, a->base.serving.numeric, R, threads, l);
    deq_predict_lay_out(&c->predict, a->base.predictor_hidden, D, &a->base.vocab, a->base.serving.numeric, R, threads,
                        l);
}

static struct deq_attention attention_of(const struct deq_transformer_arch *a, uint32_t n_pages)
{
    return deq_attention_shape(&(struct deq_attention_dims){.numeric = a->base.serving.numeric,
                                                            .n_kv = (size_t)a->n_block * a->n_head,
                                                            .d_head = a->d_head,
                                                            .window = a->attn_window,
                                                            .relative = true}, n_pages);
}

struct deq_cell deq_transformer_shape(const struct deq_arch *arch, size_t max_rows, uint32_t n_pages, unsigned threads)
{
    const struct deq_transformer_arch *a = deq_transformer_arch(arch);
    const size_t D = a->base.vocab.d_model, HD = (size_t)a->n_head * a->d_head;
    struct cell c = {.base = {.ops = a->base.predictor_hidden ? &ops : &ops_without_predictor,
                              .state_dim = D,
                              .read_dim = D,
                              .inject_dim = deq_inject_dim(a) * a->n_block,
                              .vocab_size = a->base.vocab.size,
                              .max_rows = max_rows,
                              .n_tails = a->base.vocab.n_cutoffs,
                              .step_madds = a->n_block * (4 * HD * D + 2 * D * a->d_inner),
                              .readout_madds = deq_vocabulary_madds(&a->base.vocab),
                              .lookback = DEQ_MAX(a->attn_window - 1, 1u),
                              .page_tok = DEQ_KV_PAGE_TOK,
                              .n_pages = n_pages},
                     .attention = attention_of(a, n_pages)};
    struct deq_layout l = {0};
    lay_out(&c, a, threads, &l);
    c.base.page_bytes = deq_attention_page_bytes(&c.attention);
    c.base.bytes = sizeof c + l.bytes;
    return c.base;
}

enum deq_rc deq_transformer_open(const struct deq_weights *weights, size_t max_rows, uint32_t n_pages,
                                 struct deq_pool *pool, struct deq_cell **ret, struct deq_err *err)
{
    const struct deq_transformer_weights *w = (const struct deq_transformer_weights *)weights;
    const struct deq_transformer_arch *a = &w->arch;
    const unsigned threads = deq_pool_threads(pool);
    struct cell *c = DEQ_NEW(struct cell);
    if (!c)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the cell");
    c->base = deq_transformer_shape(&a->base, max_rows, n_pages, threads);
    c->base.pool = pool;
    c->w = w;
    c->kern = deq_kern();
    c->attention = attention_of(a, n_pages);
    struct deq_layout l = {.base = c->block_of_memory = deq_alloc(c->base.bytes - sizeof *c)};
    if (!l.base) {
        cell_free(&c->base);
        return deq_fail(err, DEQ_ENOMEM, "no memory for %zu rows and %u cache pages", max_rows, n_pages);
    }
    lay_out(c, a, threads, &l);
    deq_readout_init(&c->readout, &w->vocabulary, pool);
    deq_near_init(&c->near, &w->vocabulary, pool);
    deq_predict_init(&c->predict, &w->predictor, &w->vocabulary, pool);
    for (unsigned k = 0; k < a->n_block; k++)
        for (size_t d = 0; d < c->attention.reach; d++) {
            deq_transformer_relative(w, k, d, c->x, c->av);
            deq_attention_relative(&c->attention, heads_of(a, k), d, c->av);
        }
    *ret = &c->base;
    return DEQ_OK;
}
