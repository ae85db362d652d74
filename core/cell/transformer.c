#include "core/cell/transformer.h"

#include <math.h>
#include <string.h>

#include "core/base/layout.h"
#include "core/base/mem.h"
#include "core/cell/attention.h"
#include "core/math/kern.h"

/* --- Scratch and the evaluation, cut into stages with a barrier after each --- */

struct cell {
    struct deq_cell base;
    const struct deq_transformer_weights *w;
    const struct deq_kern *kern;
    void *block_of_memory; /* all that follows lies in it */
    struct deq_attention attention;
    /* [max_rows, ...] each */
    float *x;   /* [R, D] block input / embeddings */
    float *n;   /* [R, D] normed input of the next product */
    float *qkv; /* [R, U] */
    float *av;  /* [R, H*Dh] attention vectors */
    float *s;   /* [R, D] */
    float *act; /* [R, F] */
    float *y;   /* [R, D] product that lands here before its bias and residual are added */
    float **emb; /* [threads] -> [E_0] a token's embedding before its projection */
    struct deq_readout readout;
    struct deq_predict predict;
    /* the call under way */
    const struct deq_rows *rows;
    const uint32_t *tokens;
    const float *const *in;
    float *const *out;
    size_t m;
    unsigned block;
};

static const struct deq_block_weights *vectors(const struct cell *c)
{
    return &c->w->block[c->block];
}

static void norm(const struct cell *c, const float *x, size_t n, const float *g, const float *b, float *y)
{
    c->kern->layernorm(x, n, c->w->arch.norm_eps, g, b, y, NULL);
}

/* the block's input: z for the first, the block before's output after that; normed for qkv */
static void stage_input(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_transformer_arch *a = &c->w->arch;
    const struct deq_block_weights *w = vectors(c);
    const size_t D = a->base.vocab.d_model;
    for DEQ_ROWS_OF (thread, n_threads, c->m) {
        memcpy(c->x + r * D, c->block ? c->rows->fz[r] : c->rows->z[r], D * sizeof(float));
        if (a->norm == DEQ_NORM_POST)
            memcpy(c->n + r * D, c->x + r * D, D * sizeof(float));
        else
            norm(c, c->x + r * D, D, w->attn_norm_g, w->attn_norm_b, c->n + r * D);
    }
}

static void stage_qkv(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t HD3 = 3 * (size_t)c->w->arch.n_head * c->w->arch.d_head;
    deq_gemm_exact(c->n, c->w->arch.base.vocab.d_model, c->m, &c->w->block[c->block].packed.qkv, c->qkv, HD3, thread,
                   n_threads);
}

/* qkv + u; keys and values go to the cache before anyone reads them */
static void stage_cache(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_transformer_arch *a = &c->w->arch;
    const size_t HD = (size_t)a->n_head * a->d_head;
    for DEQ_ROWS_OF (thread, n_threads, c->m) {
        float *q = c->qkv + r * 3 * HD;
        c->kern->add(q, q, c->rows->u[r] + c->block * deq_inject_dim(a), 3 * HD);
        deq_attention_write(&c->attention, c->block, c->rows->ring[r], c->rows->position[r], q + HD);
    }
}

static void stage_attention(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_attention_rows rows = {.rows = c->rows,
                                            .block = c->block,
                                            .r_w = vectors(c)->r_w,
                                            .r_r = vectors(c)->r_r,
                                            .qkv = c->qkv,
                                            .av = c->av};
    deq_attention_read(&c->attention, &rows, thread, n_threads);
}

static void stage_sub_norm(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_block_weights *w = vectors(c);
    const size_t HD = (size_t)c->w->arch.n_head * c->w->arch.d_head;
    for DEQ_ROWS_OF (thread, n_threads, c->m)
        norm(c, c->av + r * HD, HD, w->sub_norm_g, w->sub_norm_b, c->av + r * HD);
}

static void stage_out(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t HD = (size_t)c->w->arch.n_head * c->w->arch.d_head;
    deq_gemm_exact(c->av, HD, c->m, &c->w->block[c->block].packed.out, c->y, c->w->arch.base.vocab.d_model, thread,
                   n_threads);
}

/* s = x + (y + b_o);  n = the FFN's input */
static void stage_residual(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_transformer_arch *a = &c->w->arch;
    const struct deq_block_weights *w = vectors(c);
    const size_t D = a->base.vocab.d_model;
    for DEQ_ROWS_OF (thread, n_threads, c->m) {
        float *s = c->s + r * D;
        c->kern->add(s, c->y + r * D, w->out_b, D);
        c->kern->add(s, s, c->x + r * D, D);
        if (a->inject_residual)
            c->kern->add(s, s, c->rows->u[r] + (c->block + 1) * deq_inject_dim(a) - D, D);
        if (a->norm == DEQ_NORM_POST)
            norm(c, s, D, w->attn_norm_g, w->attn_norm_b, c->n + r * D);
        else
            norm(c, s, D, w->ffn_norm_g, w->ffn_norm_b, c->n + r * D);
    }
}

static void stage_up(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    deq_gemm_exact(c->n, c->w->arch.base.vocab.d_model, c->m, &c->w->block[c->block].packed.up, c->act,
                   c->w->arch.d_inner, thread, n_threads);
}

static void stage_relu(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t F = c->w->arch.d_inner;
    for DEQ_ROWS_OF (thread, n_threads, c->m)
        c->kern->add_relu(c->act + r * F, vectors(c)->up_b, F);
}

static void stage_down(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    deq_gemm_exact(c->act, c->w->arch.d_inner, c->m, &c->w->block[c->block].packed.down, c->y,
                   c->w->arch.base.vocab.d_model, thread, n_threads);
}

/* f = (n or s) + (y + b_2), post-normed where the variant says so */
static void stage_output(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_transformer_arch *a = &c->w->arch;
    const struct deq_block_weights *w = vectors(c);
    const size_t D = a->base.vocab.d_model;
    for DEQ_ROWS_OF (thread, n_threads, c->m) {
        float *f = c->rows->fz[r];
        c->kern->add(f, c->y + r * D, w->down_b, D);
        c->kern->add(f, f, deq_norm_keeps(a->norm) ? c->s + r * D : c->n + r * D, D);
        if (a->norm == DEQ_NORM_POST)
            norm(c, f, D, w->ffn_norm_g, w->ffn_norm_b, f);
    }
}

static void run(struct cell *c, deq_pool_fn stage, size_t work)
{
    deq_pool_stage(c->base.pool, stage, c, work);
}

static void cell_step(struct deq_cell *base, const struct deq_rows *rows)
{
    struct cell *c = (struct cell *)base;
    c->rows = rows;
    c->m = rows->n;
    const struct deq_transformer_arch *a = &c->w->arch;
    const size_t m = rows->n, D = a->base.vocab.d_model, HD = (size_t)a->n_head * a->d_head, F = a->d_inner;
    for (c->block = 0; c->block < a->n_block; c->block++) {
        run(c, stage_input, m * D);
        run(c, stage_qkv, m * D * 3 * HD);
        run(c, stage_cache, m * 3 * HD);
        run(c, stage_attention, deq_attention_work(&c->attention, rows));
        if (a->norm == DEQ_NORM_PRE_SUB)
            run(c, stage_sub_norm, m * HD);
        run(c, stage_out, m * HD * D);
        run(c, stage_residual, m * D);
        run(c, stage_up, m * D * F);
        run(c, stage_relu, m * F);
        run(c, stage_down, m * F * D);
        run(c, stage_output, m * D);
    }
}

/* --- Injection, predictor, head --- */

static void stage_embed(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t D = c->w->arch.base.vocab.d_model;
    const float root = sqrtf((float)D);
    for DEQ_ROWS_OF (thread, n_threads, c->m) {
        deq_vocabulary_embed(&c->w->vocabulary, c->tokens[r], c->emb[thread], c->x + r * D);
        c->kern->scale(c->x + r * D, root, D);
    }
}

static void stage_inject(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    deq_gemm_exact(c->x, c->w->arch.base.vocab.d_model, c->m, &c->w->block[c->block].packed.inject, c->qkv,
                   deq_inject_dim(&c->w->arch), thread, n_threads);
}

static void stage_inject_bias(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t U = deq_inject_dim(&c->w->arch);
    for DEQ_ROWS_OF (thread, n_threads, c->m)
        c->kern->add(c->out[r] + c->block * U, c->qkv + r * U, vectors(c)->inject_b, U);
}

static void cell_inject(struct deq_cell *base, const struct deq_rows *rows, const uint32_t *tokens, float *const *u)
{
    struct cell *c = (struct cell *)base;
    const size_t n = rows->n;
    c->m = n;
    c->tokens = tokens;
    c->out = u;
    const size_t D = c->w->arch.base.vocab.d_model, U = deq_inject_dim(&c->w->arch);
    run(c, stage_embed, n * D);
    for (c->block = 0; c->block < c->w->arch.n_block; c->block++) {
        run(c, stage_inject, n * D * U);
        run(c, stage_inject_bias, n * U);
    }
}

static void cell_predict(struct deq_cell *base, size_t n, const uint32_t *tokens, const float *const *z_prev,
                         float *const *z0)
{
    deq_predict_rows(&((struct cell *)base)->predict, n, tokens, z_prev, z0);
}

static void stage_final_norm(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t D = c->w->arch.base.vocab.d_model;
    for DEQ_ROWS_OF (thread, n_threads, c->m) {
        if (c->w->arch.final_norm)
            norm(c, c->in[r], D, c->w->final_norm_g, c->w->final_norm_b, c->n + r * D);
        else
            memcpy(c->n + r * D, c->in[r], D * sizeof(float));
    }
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

static void cell_page_copy(struct deq_cell *base, uint32_t to, uint32_t from)
{
    deq_attention_page_copy(&((const struct cell *)base)->attention, to, from);
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
                                        .page_copy = cell_page_copy,
                                        .free = cell_free};
static const struct deq_cell_ops ops_without_predictor = {.name = "transformer",
                                                          .inject = cell_inject,
                                                          .step = cell_step,
                                                          .readout = cell_readout,
                                                          .readout_tail = cell_readout_tail,
                                                          .page_copy = cell_page_copy,
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
    DEQ_PART(l, c->emb, threads);
    for (unsigned i = 0; i < threads; i++) {
        float *counted, **own = l->base ? &c->emb[i] : &counted;
        DEQ_PART(l, *own, deq_cluster_embed(&a->base.vocab, 0));
    }
    deq_readout_lay_out(&c->readout, &a->base.vocab, R, l);
    deq_predict_lay_out(&c->predict, a->base.predictor_hidden, D, &a->base.vocab, R, threads, l);
}

struct deq_cell deq_transformer_shape(const struct deq_arch *arch, size_t max_rows, uint32_t n_pages, unsigned threads)
{
    const struct deq_transformer_arch *a = deq_transformer_arch(arch);
    const size_t D = a->base.vocab.d_model, HD = (size_t)a->n_head * a->d_head;
    struct cell c = {.base = {.ops = a->base.predictor_hidden ? &ops : &ops_without_predictor,
                              .state_dim = D,
                              .inject_dim = deq_inject_dim(a) * a->n_block,
                              .vocab_size = a->base.vocab.size,
                              .max_rows = max_rows,
                              .n_tails = a->base.vocab.n_cutoffs,
                              .step_madds = a->n_block * (4 * HD * D + 2 * D * a->d_inner),
                              .lookback = DEQ_MAX(a->attn_window - 1, 1u),
                              .page_tok = DEQ_KV_PAGE_TOK,
                              .n_pages = n_pages},
                     .attention = deq_attention_shape(a, n_pages)};
    struct deq_layout l = {0};
    lay_out(&c, a, threads, &l);
    c.base.page_bytes = c.attention.kv.page_floats * sizeof(float);
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
    c->attention = deq_attention_shape(a, n_pages);
    struct deq_layout l = {.base = c->block_of_memory = deq_alloc(c->base.bytes - sizeof *c)};
    if (!l.base) {
        cell_free(&c->base);
        return deq_fail(err, DEQ_ENOMEM, "no memory for %zu rows and %u cache pages", max_rows, n_pages);
    }
    lay_out(c, a, threads, &l);
    deq_readout_init(&c->readout, &w->vocabulary, pool);
    deq_predict_init(&c->predict, &w->predictor, &w->vocabulary, pool);
    for (unsigned k = 0; k < a->n_block; k++)
        deq_transformer_relative(w, k, c->attention.reach, c->x, c->attention.rel[k]);
    *ret = &c->base;
    return DEQ_OK;
}
