/* The looped kind's cell on rows. A page holds, for each of its positions, keys and values of every layer and what the
 * layers before the loop inject, which `explicit` leaves there: e itself, dt (B e) or W_e e. A row keeps of its token
 * what layer.h says. */
#include <string.h>

#include "core/base/mem.h"
#include "core/cell/layer.h"
#include "core/cell/near.h"
#include "core/math/kern.h"

struct cell {
    struct deq_cell base;
    const struct deq_looped_weights *w;
    const struct deq_kern *kern;
    struct deq_layers layers;
    void *block_of_memory;   /* all that follows lies in it */
    float *injected;         /* [n_pages, DEQ_KV_PAGE_TOK, S] */
    float *decay, *dt;       /* [S] of DIAGONAL */
    float *read_gain;        /* [D] s_l * final norm: logits are scaled where they are made */
    float *emb;              /* [threads, deq_vocabulary_work()] */
    struct deq_readout readout;
    struct deq_near near;
    struct deq_predict predict;
    /* the call under way */
    const struct deq_rows *rows;
    float *const *out;
};

static const struct deq_looped_arch *arch(const struct cell *c)
{
    return &c->w->arch;
}

static size_t width(const struct cell *c)
{
    return arch(c)->base.vocab.d_model;
}

static float *injected_at(const struct cell *c, size_t row)
{
    const size_t t = c->rows->position[row], page = deq_page_of(c->rows->ring[row], t / DEQ_KV_PAGE_TOK);
    return c->injected + (page * DEQ_KV_PAGE_TOK + t % DEQ_KV_PAGE_TOK) * c->base.state_dim;
}

static void begin(struct cell *c, const struct deq_rows *rows, const uint32_t *tokens, float *const *out)
{
    c->rows = c->layers.rows = rows;
    c->layers.tokens = tokens;
    c->out = out;
}

static void multiply(struct cell *c, const float *x, const struct deq_packed *w, float *y, unsigned thread,
                     unsigned n_threads, deq_then *then)
{
    deq_layers_multiply(&c->layers, x, w, y, thread, n_threads, then, c);
}

/* A stage with all layers of a part and a product of the size of w. */
static void run(struct cell *c, deq_pool_fn stage, enum deq_part part, const struct deq_packed *w)
{
    deq_pool_stage(c->base.pool, stage, c, deq_part_work(&c->layers, part) + c->rows->n * w->n * w->k);
}

/* --- Before the loop --- */

/* DIAGONAL: dt (B e);  LINEAR: W_e e */
static void then_injected(void *ctx, size_t row, size_t col, size_t n, float *y)
{
    const struct cell *c = ctx;
    float *to = injected_at(c, row) + col;
    if (arch(c)->injection == DEQ_INJECT_DIAGONAL)
        c->kern->mul(to, y, c->dt + col, n);
    else
        memcpy(to, y, n * sizeof(float));
}

static void stage_explicit(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_looped_arch *a = arch(c);
    const size_t D = width(c);
    float *const x = c->layers.x, *const work = c->emb + thread * deq_vocabulary_work(&a->base.vocab);
    for DEQ_ROWS_OF (thread, n_threads, c->rows->n) {
        deq_vocabulary_embed(&c->w->vocabulary, c->layers.tokens[r], work, x + r * D);
        c->kern->scale(x + r * D, a->embed_scale, D);
    }
    deq_part_evaluate(&c->layers, DEQ_PRELUDE, thread, n_threads);
    for DEQ_ROWS_OF (thread, n_threads, c->rows->n) {
        if (a->prelude_norm)
            c->kern->rmsnorm(x + r * D, D, a->norm_eps, c->w->prelude_norm, x + r * D, NULL);
        if (!c->w->packed.inject.data)
            memcpy(injected_at(c, r), x + r * D, D * sizeof(float));
    }
    if (c->w->packed.inject.data)
        multiply(c, x, &c->w->packed.inject, c->layers.s, thread, n_threads, then_injected);
}

static void cell_explicit(struct deq_cell *base, const struct deq_rows *rows, const uint32_t *tokens)
{
    struct cell *c = (struct cell *)base;
    begin(c, rows, tokens, NULL);
    run(c, stage_explicit, DEQ_PRELUDE, &c->w->packed.inject);
}

static void cell_start(struct deq_cell *base, const struct deq_rows *rows, float *const *z0)
{
    struct cell *c = (struct cell *)base;
    begin(c, rows, NULL, NULL);
    for (size_t r = 0; r < rows->n; r++)
        memcpy(z0[r], injected_at(c, r), base->state_dim * sizeof(float));
}

static void stage_inject(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    for DEQ_ROWS_OF (thread, n_threads, c->rows->n)
        deq_keep_token(c->w, c->layers.tokens[r], c->out[r]);
}

static void cell_inject(struct deq_cell *base, const struct deq_rows *rows, const uint32_t *tokens, float *const *u)
{
    struct cell *c = (struct cell *)base;
    begin(c, rows, tokens, u);
    deq_pool_stage(base->pool, stage_inject, c, rows->n * base->inject_dim);
}

static void cell_predict(struct deq_cell *base, size_t n, const uint32_t *tokens, const float *const *z_prev,
                         float *const *z0)
{
    deq_predict_rows(&((struct cell *)base)->predict, n, tokens, z_prev, z0);
}

/* --- The evaluation --- */

static void then_add_injected(void *ctx, size_t row, size_t col, size_t n, float *y)
{
    const struct cell *c = ctx;
    c->kern->add(y, y, injected_at(c, row) + col, n);
}

/* x = injection(z, e) */
static void enter_core(struct cell *c, unsigned thread, unsigned n_threads)
{
    const size_t S = c->base.state_dim;
    const enum deq_injection how = arch(c)->injection;
    for DEQ_ROWS_OF (thread, n_threads, c->rows->n) {
        float *const x = c->layers.x + r * S;
        if (how == DEQ_INJECT_LINEAR)
            memcpy(c->layers.n + r * S, c->rows->z[r], S * sizeof(float));
        else if (how == DEQ_INJECT_DIAGONAL)
            c->kern->mul(x, c->rows->z[r], c->decay, S);
        if (how != DEQ_INJECT_LINEAR)
            c->kern->add(x, how == DEQ_INJECT_DIAGONAL ? x : c->rows->z[r], injected_at(c, r), S);
    }
    if (how != DEQ_INJECT_LINEAR)
        return;
    multiply(c, c->layers.n, &c->w->packed.state, c->layers.x, thread, n_threads, then_add_injected);
    deq_pool_barrier(c->base.pool, thread, n_threads);
}

static void stage_step(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const size_t S = c->base.state_dim;
    enter_core(c, thread, n_threads);
    deq_part_evaluate(&c->layers, DEQ_CORE, thread, n_threads);
    for DEQ_ROWS_OF (thread, n_threads, c->rows->n) {
        const float *const x = c->layers.x + r * S;
        if (arch(c)->injection == DEQ_INJECT_PROPOSAL)
            c->kern->sub(c->rows->fz[r], x, c->rows->z[r], S);
        else
            memcpy(c->rows->fz[r], x, S * sizeof(float));
    }
}

static void cell_step(struct deq_cell *base, const struct deq_rows *rows)
{
    struct cell *c = (struct cell *)base;
    begin(c, rows, NULL, NULL);
    run(c, stage_step, DEQ_CORE, &c->w->packed.state);
}

/* --- Behind the loop --- */

static void stage_coda(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const struct deq_looped_arch *a = arch(c);
    const size_t D = width(c), S = c->base.state_dim;
    float *const x = c->layers.x;
    for DEQ_ROWS_OF (thread, n_threads, c->rows->n)
        memcpy((a->core_output ? c->layers.n : x) + r * S, c->rows->z[r], S * sizeof(float));
    if (a->core_output) {
        multiply(c, c->layers.n, &c->w->packed.core_out, x, thread, n_threads, NULL);
        deq_pool_barrier(c->base.pool, thread, n_threads);
    }
    for DEQ_ROWS_OF (thread, n_threads, c->rows->n)
        if (a->core_norm)
            c->kern->rmsnorm(x + r * D, D, a->norm_eps, c->w->final_norm, x + r * D, NULL);
    deq_part_evaluate(&c->layers, DEQ_CODA, thread, n_threads);
    for DEQ_ROWS_OF (thread, n_threads, c->rows->n)
        c->kern->rmsnorm(x + r * D, D, a->norm_eps, c->read_gain, c->out[r], NULL);
}

static void cell_coda(struct deq_cell *base, const struct deq_rows *rows, float *const *y)
{
    struct cell *c = (struct cell *)base;
    begin(c, rows, NULL, y);
    run(c, stage_coda, DEQ_CODA, &c->w->packed.core_out);
}

/* x [D] = what the head multiplies, of the coda's y, or of a state where there is no coda */
static void read_state(const struct cell *c, const float *y, float *x)
{
    if (c->base.ops->coda)
        memcpy(x, y, width(c) * sizeof(float));
    else
        c->kern->rmsnorm(y, width(c), arch(c)->norm_eps, c->read_gain, x, NULL);
}

static void stage_read(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    for DEQ_ROWS_OF (thread, n_threads, c->rows->n)
        read_state(c, c->rows->z[r], c->layers.x + r * width(c));
}

static void read_states(struct cell *c, const struct deq_rows *rows, float *const *logits)
{
    begin(c, rows, NULL, logits);
    deq_pool_stage(c->base.pool, stage_read, c, rows->n * width(c));
}

/* logits = cap tanh(logits / cap) */
static void stage_cap(void *ctx, unsigned thread, unsigned n_threads)
{
    struct cell *c = ctx;
    const float cap = arch(c)->logit_softcap;
    const size_t V = c->base.vocab_size;
    for DEQ_ROWS_OF (thread, n_threads, c->rows->n) {
        c->kern->scale(c->out[r], 1 / cap, V);
        c->kern->tanh_of(c->out[r], c->out[r], V);
        c->kern->scale(c->out[r], cap, V);
    }
}

static void cell_readout(struct deq_cell *base, const struct deq_rows *rows, float *const *logits, float *const *tails)
{
    struct cell *c = (struct cell *)base;
    read_states(c, rows, logits);
    deq_vocabulary_head(&c->readout, rows->n, c->layers.x, logits, tails);
    if (arch(c)->logit_softcap > 0)
        deq_pool_stage(base->pool, stage_cap, c, rows->n * base->vocab_size);
}

static void cell_readout_tail(struct deq_cell *base, unsigned cluster, const struct deq_rows *rows,
                              float *const *logits, const float *const *tails)
{
    struct cell *c = (struct cell *)base;
    read_states(c, rows, logits);
    deq_vocabulary_tail(&c->readout, cluster, rows->n, c->layers.x, logits, tails);
}

static bool cell_screen(struct deq_cell *base, const struct deq_rows *rows, float *const *logits)
{
    struct cell *c = (struct cell *)base;
    if (!c->near.thread)
        return false;
    read_states(c, rows, logits);
    return deq_near_screen(&c->near, rows->n, c->layers.x, logits);
}

static uint32_t cell_best_near(struct deq_cell *base, unsigned thread, const float *y, const struct deq_known *known)
{
    const struct cell *c = (const struct cell *)base;
    if (!c->near.thread)
        return UINT32_MAX;
    read_state(c, y, c->near.thread[thread].x);
    read_state(c, known->state, c->near.thread[thread].before);
    return deq_near_best(&c->near, thread, known);
}

static void cell_page_copy(struct deq_cell *base, uint32_t to, uint32_t from)
{
    const struct cell *c = (const struct cell *)base;
    const size_t floats = DEQ_KV_PAGE_TOK * base->state_dim;
    deq_attention_page_copy(&c->layers.attention, to, from);
    memcpy(c->injected + to * floats, c->injected + from * floats, floats * sizeof(float));
}

/* Keys and values, then what is injected. */
static void cell_page_get(const struct deq_cell *base, uint32_t page, uint32_t n, void *out)
{
    const struct cell *c = (const struct cell *)base;
    const size_t S = base->state_dim, P = DEQ_KV_PAGE_TOK;
    float *injected = (float *)(void *)((char *)out + deq_attention_page_bytes(&c->layers.attention));
    deq_attention_page_get(&c->layers.attention, page, n, out);
    memcpy(injected, c->injected + page * P * S, n * S * sizeof(float));
    memset(injected + n * S, 0, (P - n) * S * sizeof(float));
}

static void cell_page_put(struct deq_cell *base, uint32_t page, const void *in)
{
    const struct cell *c = (const struct cell *)base;
    const size_t floats = DEQ_KV_PAGE_TOK * base->state_dim;
    deq_attention_page_put(&c->layers.attention, page, in);
    memcpy(c->injected + page * floats, (const char *)in + deq_attention_page_bytes(&c->layers.attention),
           floats * sizeof(float));
}

/* --- Opening --- */

static void cell_free(struct deq_cell *base)
{
    struct cell *c = (struct cell *)base;
    deq_free(c->block_of_memory);
    deq_free(c);
}

#define OPS(predict_, start_, coda_)                                                                               \
    {.name = "looped", .explicit = cell_explicit, .start = (start_), .inject = cell_inject, .predict = (predict_), \
     .step = cell_step, .coda = (coda_), .readout = cell_readout, .readout_tail = cell_readout_tail,               \
     .screen = cell_screen, .best_near = cell_best_near, .page_copy = cell_page_copy, .page_get = cell_page_get,   \
     .page_put = cell_page_put, .free = cell_free}
#define OPS_OF(predict_)                                                     \
    {{OPS(predict_, NULL, NULL), OPS(predict_, NULL, cell_coda)},            \
     {OPS(predict_, cell_start, NULL), OPS(predict_, cell_start, cell_coda)}}
static const struct deq_cell_ops ops[2][2][2] = {OPS_OF(NULL), OPS_OF(cell_predict)}; /* a predictor, start, coda */

static const struct deq_cell_ops *ops_of(const struct deq_looped_arch *a)
{
    const bool coda = a->n_layer[DEQ_CODA] || a->core_output || a->core_norm;
    return &ops[a->base.predictor_hidden > 0][a->injection == DEQ_INJECT_PROPOSAL][coda];
}

static void lay_out(struct cell *c, const struct deq_looped_arch *a, unsigned threads, struct deq_layout *l)
{
    const struct deq_vocab *v = &a->base.vocab;
    const enum deq_class numeric = a->base.serving.numeric;
    const size_t R = c->base.max_rows, S = c->base.state_dim;
    deq_layers_lay_out(&c->layers, a, R, threads, l);
    DEQ_PART(l, c->injected, (size_t)c->base.n_pages * DEQ_KV_PAGE_TOK * S);
    DEQ_PART(l, c->decay, S);
    DEQ_PART(l, c->dt, S);
    DEQ_PART(l, c->read_gain, v->d_model);
    DEQ_PART(l, c->emb, threads * deq_vocabulary_work(v));
    deq_readout_lay_out(&c->readout, v, numeric, R, l);
    if (!(a->logit_softcap > 0)) /* logits near others are not in proportion */
        deq_near_lay_out(&c->near, v, numeric, R, threads, l);
    deq_predict_lay_out(&c->predict, a->base.predictor_hidden, S, v, numeric, R, threads, l);
}

struct deq_cell deq_looped_shape(const struct deq_arch *base, size_t max_rows, uint32_t n_pages, unsigned threads)
{
    const struct deq_looped_arch *a = deq_looped_arch(base);
    const size_t D = base->vocab.d_model, S = deq_looped_state(a);
    const bool linear = a->injection == DEQ_INJECT_LINEAR, injects = linear || a->injection == DEQ_INJECT_DIAGONAL;
    struct cell c = {.base = {.ops = ops_of(a),
                              .state_dim = S,
                              .read_dim = D,
                              .inject_dim = deq_token_floats(a),
                              .vocab_size = base->vocab.size,
                              .max_positions = a->max_positions,
                              .max_rows = max_rows,
                              .n_tails = base->vocab.n_cutoffs,
                              .step_madds = deq_part_madds(a, DEQ_CORE) + linear * S * S,
                              .explicit_madds = deq_part_madds(a, DEQ_PRELUDE) + injects * S * D,
                              .coda_madds = deq_part_madds(a, DEQ_CODA) + a->core_output * S * D,
                              .readout_madds = deq_vocabulary_madds(&base->vocab),
                              .lookback = DEQ_MAX(a->max_positions - 1, 1u),
                              .page_tok = DEQ_KV_PAGE_TOK,
                              .n_pages = n_pages},
                     .layers = deq_layers_shape(a, n_pages)};
    struct deq_layout l = {0};
    lay_out(&c, a, threads, &l);
    c.base.page_bytes = deq_attention_page_bytes(&c.layers.attention) + DEQ_KV_PAGE_TOK * S * sizeof(float);
    c.base.bytes = sizeof c + l.bytes;
    return c.base;
}

/* What is computed of weights once. */
static void set_constants(struct cell *c)
{
    if (arch(c)->injection == DEQ_INJECT_DIAGONAL)
        deq_looped_decay(c->w->decay_log, c->w->step_bias, c->base.state_dim, c->decay, c->dt);
    memcpy(c->read_gain, c->w->final_norm, width(c) * sizeof(float));
    c->kern->scale(c->read_gain, arch(c)->logit_scale, width(c));
}

enum deq_rc deq_looped_open(const struct deq_weights *weights, size_t max_rows, uint32_t n_pages,
                            struct deq_pool *pool, struct deq_cell **ret, struct deq_err *err)
{
    const struct deq_looped_weights *w = (const struct deq_looped_weights *)weights;
    const unsigned threads = deq_pool_threads(pool);
    struct cell *c = DEQ_NEW(struct cell);
    if (!c)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the cell");
    c->base = deq_looped_shape(&w->arch.base, max_rows, n_pages, threads);
    c->base.pool = pool;
    c->w = w;
    c->kern = deq_kern();
    c->layers = deq_layers_shape(&w->arch, n_pages);
    struct deq_layout l = {.base = c->block_of_memory = deq_alloc(c->base.bytes - sizeof *c)};
    if (!l.base) {
        cell_free(&c->base);
        return deq_fail(err, DEQ_ENOMEM, "no memory for %zu rows and %u cache pages", max_rows, n_pages);
    }
    lay_out(c, &w->arch, threads, &l);
    deq_layers_init(&c->layers, w, pool);
    set_constants(c);
    deq_readout_init(&c->readout, &w->vocabulary, pool);
    deq_near_init(&c->near, &w->vocabulary, pool);
    deq_predict_init(&c->predict, &w->predictor, &w->vocabulary, pool);
    *ret = &c->base;
    return DEQ_OK;
}
