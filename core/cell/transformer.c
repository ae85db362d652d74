#include "core/cell/transformer.h"

#include <math.h>
#include <string.h>

#include "core/base/layout.h"
#include "core/base/mem.h"
#include "core/cell/kv_layout.h"
#include "core/math/kern.h"

/* --- Scratch and the evaluation, cut into stages with a barrier after each --- */

struct cell {
    struct deq_cell base;
    const struct deq_transformer *t;
    const struct deq_kern *kern;
    struct deq_kv_layout kv;
    void *block_of_memory; /* all that follows lies in it */
    float *pages; /* [n_pages, page_floats] keys and values */
    /* [max_rows, ...] each */
    float *x;   /* [R, max(D, Hp)] block input / embeddings / predictor hidden */
    float *n;   /* [R, max(D, Hp)] normed input of the next product */
    float *qkv; /* [R, U] */
    float *av;  /* [R, H*Dh] attention vectors */
    float *s;   /* [R, D] */
    float *act; /* [R, F] */
    float *y;   /* [R, D] product that lands here before its bias and residual are added */
    float *rel[DEQ_BLOCKS_MAX]; /* [H, Dh, deq_rel_stride(reach)] */
    size_t reach;               /* distances that occur */
    struct thread_scratch {
        float *scores;        /* [positions of a row's pages] */
        float *emb;           /* [E_0] a token's embedding before its projection */
        float *qr;            /* [3, Dv]: q + r_w, q + r_r, head output */
        const float **k, **v; /* [pages of a row] */
    } *thread;                /* [threads] */
    struct deq_readout readout;
    /* the call under way */
    const struct deq_rows *rows;
    const uint32_t *tokens;
    const float *const *in;
    float *const *out;
    size_t m;
    unsigned block;
};

#define ROWS_OF(thread, n_threads, m) (size_t r = (m) * (thread) / (n_threads); r < (m) * ((thread) + 1) / (n_threads); r++)

static const struct deq_block_weights *vectors(const struct cell *c)
{
    return &c->t->vectors->block[c->block];
}

static void norm(const struct cell *c, const float *x, size_t n, const float *g, const float *b, float *y)
{
    c->kern->layernorm(x, n, c->t->arch.norm_eps, g, b, y, NULL);
}

/* the block's input: z for the first, the block before's output after that; normed for qkv */
static void stage_input(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_arch *a = &c->t->arch;
    const struct deq_block_weights *w = vectors(c);
    const size_t D = a->vocab.d_model;
    for ROWS_OF (thread, n_threads, c->m) {
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
    const size_t HD3 = 3 * (size_t)c->t->arch.n_head * c->t->arch.d_head;
    deq_gemm_exact(c->n, c->t->arch.vocab.d_model, c->m, &c->t->block[c->block].qkv, c->qkv, HD3, thread, n_threads);
}

static float *page_at(const struct cell *c, const struct deq_ring *ring, size_t logical)
{
    return c->pages + deq_page_of(ring, logical) * c->kv.page_floats;
}

/* qkv + u; keys and values go to the cache before anyone reads them */
static void stage_cache(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_arch *a = &c->t->arch;
    const size_t H = a->n_head, Dh = a->d_head, HD = H * Dh, P = DEQ_KV_PAGE_TOK;
    for ROWS_OF (thread, n_threads, c->m) {
        float *q = c->qkv + r * 3 * HD;
        const size_t pos = c->rows->position[r], lane = pos % P;
        float *page = page_at(c, c->rows->ring[r], pos / P);
        c->kern->add(q, q, c->rows->u[r] + c->block * deq_inject_dim(a), 3 * HD);
        for (unsigned h = 0; h < H; h++) {
            float *k = deq_kv_k(&c->kv, page, c->block, h), *v = deq_kv_v(&c->kv, page, c->block, h);
            for (size_t d = 0; d < Dh; d++)
                k[d * P + lane] = q[HD + h * Dh + d];
            memcpy(v + lane * c->kv.v_stride, q + 2 * HD + h * Dh, Dh * sizeof(float));
        }
    }
}

static void stage_attention(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_transformer *t = c->t;
    const struct deq_arch *a = &t->arch;
    const struct thread_scratch *own = &c->thread[thread];
    const size_t H = a->n_head, Dh = a->d_head, HD = H * Dh, W = a->attn_window, P = DEQ_KV_PAGE_TOK, Dv = c->kv.v_stride, items = c->m * H;
    float *qc = own->qr, *qr = qc + Dv, *out = qr + Dv;
    for (size_t i = items * thread / n_threads; i < items * (thread + 1) / n_threads; i++) {
        const size_t r = i / H, h = i % H, pos = c->rows->position[r], lo = pos + 1 > W ? pos + 1 - W : 0;
        const float *q = c->qkv + r * 3 * HD + h * Dh;
        c->kern->add(qc, q, t->block[c->block].r_w + h * Dh, Dh);
        c->kern->add(qr, q, t->block[c->block].r_r + h * Dh, Dh);
        for (size_t p = lo / P; p <= pos / P; p++) {
            float *page = page_at(c, c->rows->ring[r], p);
            own->k[p - lo / P] = deq_kv_k(&c->kv, page, c->block, h);
            own->v[p - lo / P] = deq_kv_v(&c->kv, page, c->block, h);
        }
        const struct deq_attn_args args = {.qc = qc,
                                           .qr = qr,
                                           .d_head = Dh,
                                           .v_stride = Dv,
                                           .t = pos,
                                           .lo = lo,
                                           .k = own->k,
                                           .v = own->v,
                                           .rel = c->rel[c->block] + h * Dh * deq_rel_stride(c->reach),
                                           .rel_stride = deq_rel_stride(c->reach),
                                           .rel_zero = deq_rel_zero(c->reach),
                                           .scale = 1.0f / sqrtf((float)Dh),
                                           .scores = own->scores,
                                           .out = out};
        c->kern->attn(&args);
        memcpy(c->av + r * HD + h * Dh, out, Dh * sizeof(float));
    }
}

static void stage_sub_norm(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_block_weights *w = vectors(c);
    const size_t HD = (size_t)c->t->arch.n_head * c->t->arch.d_head;
    for ROWS_OF (thread, n_threads, c->m)
        norm(c, c->av + r * HD, HD, w->sub_norm_g, w->sub_norm_b, c->av + r * HD);
}

static void stage_out(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t HD = (size_t)c->t->arch.n_head * c->t->arch.d_head;
    deq_gemm_exact(c->av, HD, c->m, &c->t->block[c->block].out, c->y, c->t->arch.vocab.d_model, thread, n_threads);
}

/* s = x + (y + b_o);  n = the FFN's input */
static void stage_residual(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_arch *a = &c->t->arch;
    const struct deq_block_weights *w = vectors(c);
    const size_t D = a->vocab.d_model;
    for ROWS_OF (thread, n_threads, c->m) {
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
    deq_gemm_exact(c->n, c->t->arch.vocab.d_model, c->m, &c->t->block[c->block].up, c->act, c->t->arch.d_inner, thread, n_threads);
}

static void stage_relu(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t F = c->t->arch.d_inner;
    for ROWS_OF (thread, n_threads, c->m)
        c->kern->add_relu(c->act + r * F, vectors(c)->up_b, F);
}

static void stage_down(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    deq_gemm_exact(c->act, c->t->arch.d_inner, c->m, &c->t->block[c->block].down, c->y, c->t->arch.vocab.d_model, thread, n_threads);
}

/* f = (n or s) + (y + b_2), post-normed where the variant says so */
static void stage_output(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_arch *a = &c->t->arch;
    const struct deq_block_weights *w = vectors(c);
    const size_t D = a->vocab.d_model;
    for ROWS_OF (thread, n_threads, c->m) {
        float *f = c->rows->fz[r];
        c->kern->add(f, c->y + r * D, w->down_b, D);
        c->kern->add(f, f, deq_norm_keeps(a->norm) ? c->s + r * D : c->n + r * D, D);
        if (a->norm == DEQ_NORM_POST)
            norm(c, f, D, w->ffn_norm_g, w->ffn_norm_b, f);
    }
}

enum { WORTH_A_THREAD = 1 << 15 }; /* multiply-adds (or as much copying): below, waking the others costs more than it saves */

/* A stage on all threads, or on this one when it is small. Bits do not depend on the choice. */
static void run(struct cell *c, deq_pool_fn stage, size_t work)
{
    if (work < WORTH_A_THREAD)
        stage(c, 0, 1);
    else
        deq_pool_run(c->base.pool, stage, c);
}

static void cell_step(struct deq_cell *base, const struct deq_rows *rows)
{
    struct cell *c = (struct cell *)base;
    c->rows = rows;
    c->m = rows->n;
    const struct deq_arch *a = &c->t->arch;
    const size_t m = rows->n, D = a->vocab.d_model, HD = (size_t)a->n_head * a->d_head, F = a->d_inner, span = DEQ_MIN((size_t)a->attn_window, 64u);
    for (c->block = 0; c->block < a->n_block; c->block++) {
        run(c, stage_input, m * D);
        run(c, stage_qkv, m * D * 3 * HD);
        run(c, stage_cache, m * 3 * HD);
        run(c, stage_attention, m * HD * span);
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
    const size_t D = c->t->arch.vocab.d_model;
    const float root = sqrtf((float)D);
    for ROWS_OF (thread, n_threads, c->m) {
        deq_vocabulary_embed(&c->t->vocabulary, c->tokens[r], c->thread[thread].emb, c->x + r * D);
        c->kern->scale(c->x + r * D, root, D);
    }
}

static void stage_inject(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    deq_gemm_exact(c->x, c->t->arch.vocab.d_model, c->m, &c->t->block[c->block].inject, c->qkv, deq_inject_dim(&c->t->arch), thread, n_threads);
}

static void stage_inject_bias(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t U = deq_inject_dim(&c->t->arch);
    for ROWS_OF (thread, n_threads, c->m)
        c->kern->add(c->out[r] + c->block * U, c->qkv + r * U, vectors(c)->inject_b, U);
}

static void cell_inject(struct deq_cell *base, const struct deq_rows *rows, const uint32_t *tokens, float *const *u)
{
    struct cell *c = (struct cell *)base;
    const size_t n = rows->n;
    c->m = n;
    c->tokens = tokens;
    c->out = u;
    const size_t D = c->t->arch.vocab.d_model, U = deq_inject_dim(&c->t->arch);
    run(c, stage_embed, n * D);
    for (c->block = 0; c->block < c->t->arch.n_block; c->block++) {
        run(c, stage_inject, n * D * U);
        run(c, stage_inject_bias, n * U);
    }
}

/* s = e_t, y = z_prev; the two products land in n and x, which are wide enough */
static void stage_pred_gather(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t D = c->t->arch.vocab.d_model;
    const float root = sqrtf((float)D);
    for ROWS_OF (thread, n_threads, c->m) {
        deq_vocabulary_embed(&c->t->vocabulary, c->tokens[r], c->thread[thread].emb, c->s + r * D);
        c->kern->scale(c->s + r * D, root, D);
        memcpy(c->y + r * D, c->in[r], D * sizeof(float));
    }
}

static void stage_pred_hidden(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t D = c->t->arch.vocab.d_model, Hp = c->t->arch.predictor_hidden;
    deq_gemm_exact(c->s, D, c->m, &c->t->pred_tok, c->n, Hp, thread, n_threads);
    deq_gemm_exact(c->y, D, c->m, &c->t->pred_state, c->x, Hp, thread, n_threads);
}

static void stage_pred_relu(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t Hp = c->t->arch.predictor_hidden;
    for ROWS_OF (thread, n_threads, c->m) {
        c->kern->add(c->n + r * Hp, c->n + r * Hp, c->x + r * Hp, Hp);
        c->kern->add_relu(c->n + r * Hp, c->t->vectors->pred_b, Hp);
    }
}

static void stage_pred_out(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    deq_gemm_exact(c->n, c->t->arch.predictor_hidden, c->m, &c->t->pred_out, c->y, c->t->arch.vocab.d_model, thread, n_threads);
}

static void stage_pred_bias(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t D = c->t->arch.vocab.d_model;
    for ROWS_OF (thread, n_threads, c->m)
        c->kern->add(c->out[r], c->y + r * D, c->t->vectors->pred_out_b, D);
}

static void cell_predict(struct deq_cell *base, size_t n, const uint32_t *tokens, const float *const *z_prev, float *const *z0)
{
    struct cell *c = (struct cell *)base;
    c->m = n;
    c->tokens = tokens;
    c->in = z_prev;
    c->out = z0;
    const size_t D = c->t->arch.vocab.d_model, Hp = c->t->arch.predictor_hidden;
    run(c, stage_pred_gather, n * D);
    run(c, stage_pred_hidden, 2 * n * D * Hp);
    run(c, stage_pred_relu, n * Hp);
    run(c, stage_pred_out, n * D * Hp);
    run(c, stage_pred_bias, n * D);
}

static void stage_final_norm(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t D = c->t->arch.vocab.d_model;
    for ROWS_OF (thread, n_threads, c->m) {
        if (c->t->arch.final_norm)
            norm(c, c->in[r], D, c->t->vectors->final_norm_g, c->t->vectors->final_norm_b, c->n + r * D);
        else
            memcpy(c->n + r * D, c->in[r], D * sizeof(float));
    }
}

/* n = the states as the head wants them */
static void final_norm(struct cell *c, const struct deq_rows *rows)
{
    c->m = rows->n;
    c->in = rows->z;
    run(c, stage_final_norm, rows->n * c->t->arch.vocab.d_model);
}

static void cell_readout(struct deq_cell *base, const struct deq_rows *rows, float *const *logits, float *const *tails)
{
    struct cell *c = (struct cell *)base;
    final_norm(c, rows);
    deq_vocabulary_head(&c->readout, rows->n, c->n, logits, tails);
}

static void cell_readout_tail(struct deq_cell *base, unsigned cluster, const struct deq_rows *rows, float *const *logits, const float *const *tails)
{
    struct cell *c = (struct cell *)base;
    final_norm(c, rows);
    deq_vocabulary_tail(&c->readout, cluster, rows->n, c->n, logits, tails);
}

static void cell_page_copy(struct deq_cell *base, uint32_t to, uint32_t from)
{
    const struct cell *c = (const struct cell *)base;
    memcpy(c->pages + to * c->kv.page_floats, c->pages + from * c->kv.page_floats, base->page_bytes);
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

static size_t reach_of(const struct deq_arch *a, uint32_t n_pages)
{
    return DEQ_MIN((size_t)a->attn_window, (size_t)n_pages * DEQ_KV_PAGE_TOK);
}

static void lay_out(struct cell *c, const struct deq_arch *a, unsigned threads, struct deq_layout *l)
{
    const size_t R = c->base.max_rows, D = a->vocab.d_model, HD = (size_t)a->n_head * a->d_head, wide = DEQ_MAX(D, (size_t)a->predictor_hidden);
    const size_t row_pages = c->reach / DEQ_KV_PAGE_TOK + 2;
    DEQ_PART(l, c->pages, c->base.n_pages * c->kv.page_floats);
    DEQ_PART(l, c->x, R * wide);
    DEQ_PART(l, c->n, R * wide);
    DEQ_PART(l, c->qkv, R * deq_inject_dim(a));
    DEQ_PART(l, c->av, R * HD);
    DEQ_PART(l, c->s, R * D);
    DEQ_PART(l, c->act, R * a->d_inner);
    DEQ_PART(l, c->y, R * D);
    for (unsigned k = 0; k < a->n_block; k++)
        DEQ_PART(l, c->rel[k], HD * deq_rel_stride(c->reach));
    DEQ_PART(l, c->thread, threads);
    for (unsigned i = 0; i < threads; i++) {
        struct thread_scratch counted, *own = l->base ? &c->thread[i] : &counted;
        DEQ_PART(l, own->scores, (row_pages + 1) * DEQ_KV_PAGE_TOK);
        DEQ_PART(l, own->emb, deq_cluster_embed(&a->vocab, 0));
        DEQ_PART(l, own->qr, 3 * c->kv.v_stride);
        DEQ_PART(l, own->k, row_pages);
        DEQ_PART(l, own->v, row_pages);
    }
    deq_readout_lay_out(&c->readout, a, R, l);
}

struct deq_cell deq_transformer_shape(const struct deq_arch *a, size_t max_rows, uint32_t n_pages, unsigned threads)
{
    struct cell c = {.base = {.ops = a->predictor_hidden ? &ops : &ops_without_predictor,
                              .state_dim = a->vocab.d_model,
                              .inject_dim = deq_inject_dim(a) * a->n_block,
                              .vocab_size = a->vocab.size,
                              .max_rows = max_rows,
                              .n_tails = a->vocab.n_cutoffs,
                              .lookback = DEQ_MAX(a->attn_window - 1, 1u),
                              .page_tok = DEQ_KV_PAGE_TOK,
                              .n_pages = n_pages},
                     .reach = reach_of(a, n_pages),
                     .kv = deq_kv_layout(a->n_head, a->d_head, a->n_block)};
    struct deq_layout l = {0};
    lay_out(&c, a, threads, &l);
    c.base.page_bytes = c.kv.page_floats * sizeof(float);
    c.base.bytes = sizeof c + l.bytes;
    return c.base;
}

enum deq_rc deq_transformer_open(const struct deq_transformer *t, size_t max_rows, uint32_t n_pages, struct deq_pool *pool, struct deq_cell **ret,
                                 struct deq_err *err)
{
    const struct deq_arch *a = &t->arch;
    const unsigned threads = deq_pool_threads(pool);
    struct cell *c = DEQ_NEW(struct cell);
    if (!c)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the cell");
    c->base = deq_transformer_shape(a, max_rows, n_pages, threads);
    c->base.pool = pool;
    c->t = t;
    c->kern = deq_kern();
    c->reach = reach_of(a, n_pages);
    c->kv = deq_kv_layout(a->n_head, a->d_head, a->n_block);
    struct deq_layout l = {.base = c->block_of_memory = deq_alloc(c->base.bytes - sizeof *c)};
    if (!l.base) {
        cell_free(&c->base);
        return deq_fail(err, DEQ_ENOMEM, "no memory for %zu rows and %u cache pages", max_rows, n_pages);
    }
    lay_out(c, a, threads, &l);
    deq_readout_init(&c->readout, &t->vocabulary, pool);
    for (unsigned k = 0; k < a->n_block; k++)
        deq_transformer_relative(t, k, c->reach, c->x, c->rel[k]);
    *ret = &c->base;
    return DEQ_OK;
}
