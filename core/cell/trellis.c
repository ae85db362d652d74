#include "core/cell/trellis.h"

#include <math.h>
#include <string.h>

#include "core/base/layout.h"
#include "core/base/mem.h"
#include "core/cell/near.h"
#include "core/math/kern.h"

/* A page is one position's: h and c, and this. */
struct note {
    uint32_t token;
    uint16_t folded; /* the first taps of the state's convolution: they stand in the row's u, or read before the text */
    bool final;      /* h and c are */
};

/* A sum a_t is made in one order, ((u + W_z[0] h) + W_z[1] h) + .. + W_z[k-1] z, wherever it is kept: what earlier
 * positions bring goes into the row's own u once they are final, oldest first, and until then is made again in every
 * evaluation from their iterates. So a row with no open row before it takes one product an evaluation, W_z[k-1] z. */
struct cell {
    struct deq_cell base;
    const struct deq_trellis_weights *w;
    const struct deq_kern *kern;
    void *block_of_memory; /* all that follows lies in it */
    float *pages;          /* [n_pages, 2H] h, then c */
    struct note *notes;    /* [n_pages] */
    float *bias;           /* [4H] b_x + b_z */
    float *nothing;        /* [H] zeros: the c before the text */
    /* [max_rows, ...] each */
    float *x;              /* [R, max(D, H)] what a product reads */
    float *y;              /* [R, 4H] its result */
    float *a;              /* [R, 4H] sums with something in them that may still move; then the gates */
    const float **sum;     /* [R] -> [4H] how far a row's sum has come: u or a */
    size_t *reads;         /* [R] rows that a tap's product is made for */
    char *operand;         /* [R] rows of x prepared for a product, of a model in integers */
    float *emb;            /* [threads, deq_vocabulary_work()] */
    struct deq_readout readout;
    struct deq_near near;
    struct deq_predict predict;
    /* the call under way */
    const struct deq_rows *rows;
    float *const *u;
    const struct deq_packed *product;
    size_t back; /* what the tap reads lies so many positions before the row's own */
    size_t n_reads;
};

static size_t page_at(const struct cell *c, size_t row, size_t position)
{
    return deq_page_of(c->rows->ring[row], position);
}

static float *state_at(const struct cell *c, size_t row, size_t position)
{
    return c->pages + page_at(c, row, position) * 2 * c->w->arch.state_size;
}

static struct note *note_at(const struct cell *c, size_t row, size_t position)
{
    return &c->notes[page_at(c, row, position)];
}

static void run(struct cell *c, deq_pool_fn stage, void *ctx, size_t work)
{
    deq_pool_stage(c->base.pool, stage, ctx, work);
}

static size_t back_of(const struct deq_trellis_arch *a, unsigned tap)
{
    return (size_t)(a->kernel_size - 1 - tap) * a->dilation;
}

/* Row r of x is there. */
static void prepare(const struct cell *c, size_t r)
{
    const struct deq_packed *w = c->product;
    deq_prepare(w->format, c->x + r * w->k, w->k, c->operand, r);
}

/* One tap of a convolution, for the rows that it is made for: `gather` fills x, `then` takes a row's part of y. */
struct tap {
    struct cell *c;
    void (*gather)(struct cell *c, unsigned thread, unsigned n_threads);
    deq_then *then;
};

static void tap_stages(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct tap *t = ctx;
    struct cell *c = t->c;
    const struct deq_packed *w = c->product;
    t->gather(c, thread, n_threads);
    deq_pool_barrier(c->base.pool, thread, n_threads);
    const struct deq_operand x = deq_operand(w->format, c->x, w->k, c->operand, w->k);
    deq_multiply(&x, c->n_reads, w, c->y, w->n, thread, n_threads, t->then, c);
}

static void run_tap(struct cell *c, size_t back, const struct deq_packed *product,
                    void (*gather)(struct cell *c, unsigned thread, unsigned n_threads), deq_then *then)
{
    if (!c->n_reads)
        return;
    c->back = back;
    c->product = product;
    run(c, tap_stages, &(struct tap){c, gather, then}, c->n_reads * product->k * product->n);
}

/* --- Injection: the tokens' convolution --- */

static void stage_bias(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct cell *c = ctx;
    for DEQ_ROWS_OF (thread, n_threads, c->rows->n)
        memcpy(c->u[r], c->bias, c->base.inject_dim * sizeof(float));
}

static void gather_embeddings(struct cell *c, unsigned thread, unsigned n_threads)
{
    const struct deq_vocab *v = &c->w->arch.base.vocab;
    const size_t D = v->d_model;
    for DEQ_ROWS_OF (thread, n_threads, c->n_reads) {
        const size_t row = c->reads[r];
        const uint32_t token = note_at(c, row, c->rows->position[row] - c->back)->token;
        deq_vocabulary_embed(&c->w->vocabulary, token, c->emb + thread * deq_vocabulary_work(v), c->x + r * D);
        if (c->w->arch.embed_scale)
            c->kern->scale(c->x + r * D, sqrtf((float)D), D);
        prepare(c, r);
    }
}

static void then_inject(void *ctx, size_t r, size_t col, size_t n, float *y)
{
    const struct cell *c = ctx;
    float *u = c->u[c->reads[r]] + col;
    c->kern->add(u, u, y, n);
}

static void cell_inject(struct deq_cell *base, const struct deq_rows *rows, const uint32_t *tokens, float *const *u)
{
    struct cell *c = (struct cell *)base;
    const struct deq_trellis_arch *a = &c->w->arch;
    c->rows = rows;
    c->u = u;
    for (size_t r = 0; r < rows->n; r++) { /* all of them first: one row's taps may read another's token */
        struct note *n = note_at(c, r, rows->position[r]);
        *n = (struct note){.token = tokens[r]};
        while (back_of(a, n->folded) > rows->position[r])
            n->folded++;
    }
    run(c, stage_bias, c, rows->n * base->inject_dim);
    for (unsigned tap = 0; tap < a->kernel_size; tap++) {
        const size_t back = a->kernel_size - 1 - tap; /* neighbours, whatever the dilation */
        c->n_reads = 0;
        for (size_t r = 0; r < rows->n; r++)
            if (rows->position[r] >= back)
                c->reads[c->n_reads++] = r;
        run_tap(c, back, &c->w->packed.inject[tap], gather_embeddings, then_inject);
    }
}

/* --- The evaluation --- */

/* The iterates, where later rows read them. */
static void stage_states(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct cell *c = ctx;
    for DEQ_ROWS_OF (thread, n_threads, c->rows->n) {
        memcpy(state_at(c, r, c->rows->position[r]), c->rows->z[r], c->base.state_dim * sizeof(float));
        c->sum[r] = c->u[r];
    }
}

/* Where the sum of a row goes when what this tap reads is added: its own u, once that is final. */
static bool reads_final(const struct cell *c, size_t row)
{
    return note_at(c, row, c->rows->position[row] - c->back)->final;
}

static void gather_states(struct cell *c, unsigned thread, unsigned n_threads)
{
    const size_t H = c->w->arch.state_size;
    for DEQ_ROWS_OF (thread, n_threads, c->n_reads) {
        const size_t row = c->reads[r];
        memcpy(c->x + r * H, state_at(c, row, c->rows->position[row] - c->back), H * sizeof(float));
        prepare(c, r);
    }
}

static void then_sum(void *ctx, size_t r, size_t col, size_t n, float *y)
{
    const struct cell *c = ctx;
    const size_t row = c->reads[r];
    float *to = reads_final(c, row) ? c->u[row] : c->a + row * c->base.inject_dim;
    c->kern->add(to + col, c->sum[row] + col, y, n);
}

/* The tap is added: where the sums stand now. */
static void tap_added(struct cell *c)
{
    for (size_t i = 0; i < c->n_reads; i++) {
        const size_t row = c->reads[i];
        const bool final = reads_final(c, row);
        c->sum[row] = final ? c->u[row] : c->a + row * c->base.inject_dim;
        note_at(c, row, c->rows->position[row])->folded += final;
    }
}

/* Every thread has a part of the state, of all rows in order: c of a position needs that of the one before. Of levels
 * that is the one of the level below, which lies in the page, and the new one is part of f(z). */
static void stage_gates(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct cell *c = ctx;
    const struct deq_kern *k = c->kern;
    const size_t H = c->w->arch.state_size, vectors = (H + 15) / 16;
    const size_t lo = vectors * thread / n_threads * 16, hi = DEQ_MIN(vectors * (thread + 1) / n_threads * 16, H);
    const size_t n = hi - lo;
    for (size_t r = 0; n && r < c->rows->n; r++) {
        const size_t position = c->rows->position[r];
        float *i = c->a + r * 4 * H + lo, *o = i + H, *g = o + H, *f = g + H, *h = c->rows->fz[r] + lo;
        float *now = c->w->arch.levels ? h + H : state_at(c, r, position) + H + lo;
        const float *before = position ? state_at(c, r, position - 1) + H + lo : c->nothing + lo;
        k->sigmoid(i, i, n);
        k->sigmoid(o, o, n);
        k->tanh_of(g, g, n);
        k->sigmoid(f, f, n);
        k->mul(f, f, before, n);
        k->mul(i, i, g, n);
        k->add(now, f, i, n);
        k->tanh_of(g, now, n);
        k->mul(h, o, g, n);
    }
}

static void cell_step(struct deq_cell *base, const struct deq_rows *rows)
{
    struct cell *c = (struct cell *)base;
    const size_t H = c->w->arch.state_size;
    enum { GATES = 100 }; /* operations an element */
    c->rows = rows;
    c->u = rows->u;
    run(c, stage_states, c, rows->n * base->state_dim);
    for (unsigned tap = 0; tap < c->w->arch.kernel_size; tap++) {
        c->n_reads = 0;
        for (size_t r = 0; r < rows->n; r++)
            if (note_at(c, r, rows->position[r])->folded <= tap)
                c->reads[c->n_reads++] = r;
        run_tap(c, back_of(&c->w->arch, tap), &c->w->packed.state[tap], gather_states, then_sum);
        tap_added(c);
    }
    run(c, stage_gates, c, rows->n * H * GATES);
}

static void cell_commit(struct deq_cell *base, const struct deq_rows *rows)
{
    struct cell *c = (struct cell *)base;
    c->rows = rows;
    for (size_t r = 0; r < rows->n; r++) { /* the c that belongs to f(z) stands there already, or is part of it */
        memcpy(state_at(c, r, rows->position[r]), rows->fz[r], base->state_dim * sizeof(float));
        note_at(c, r, rows->position[r])->final = true;
    }
}

/* --- Both ends --- */

static void cell_predict(struct deq_cell *base, size_t n, const uint32_t *tokens, const float *const *z_prev,
                         float *const *z0)
{
    deq_predict_rows(&((struct cell *)base)->predict, n, tokens, z_prev, z0);
}

/* x = the last of h */
static void read_state(const struct cell *c, const float *z, float *x)
{
    const size_t Y = deq_vocab_out(&c->w->arch.base.vocab), from = c->w->arch.state_size - Y;
    memcpy(x, z + from, Y * sizeof(float));
}

static void read_states(struct cell *c, const struct deq_rows *rows)
{
    for (size_t r = 0; r < rows->n; r++)
        read_state(c, rows->z[r], c->x + r * deq_vocab_out(&c->w->arch.base.vocab));
}

static void cell_readout(struct deq_cell *base, const struct deq_rows *rows, float *const *logits, float *const *tails)
{
    struct cell *c = (struct cell *)base;
    read_states(c, rows);
    deq_vocabulary_head(&c->readout, rows->n, c->x, logits, tails);
}

static void cell_readout_tail(struct deq_cell *base, unsigned cluster, const struct deq_rows *rows,
                              float *const *logits, const float *const *tails)
{
    struct cell *c = (struct cell *)base;
    read_states(c, rows);
    deq_vocabulary_tail(&c->readout, cluster, rows->n, c->x, logits, tails);
}

static bool cell_screen(struct deq_cell *base, const struct deq_rows *rows, float *const *logits)
{
    struct cell *c = (struct cell *)base;
    read_states(c, rows);
    return deq_near_screen(&c->near, rows->n, c->x, logits);
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
    const struct cell *c = (const struct cell *)base;
    const size_t floats = 2 * (size_t)c->w->arch.state_size;
    memcpy(c->pages + to * floats, c->pages + from * floats, floats * sizeof(float));
    c->notes[to] = c->notes[from];
}

/* h and c, then the token, and room for the rest of a note: how much is folded says nothing about what is final. */
static void cell_page_get(const struct deq_cell *base, uint32_t page, uint32_t n, void *out)
{
    const struct cell *c = (const struct cell *)base;
    const size_t floats = 2 * (size_t)c->w->arch.state_size;
    (void)n; /* its one position */
    memset(out, 0, base->page_bytes);
    memcpy(out, c->pages + page * floats, floats * sizeof(float));
    memcpy((float *)out + floats, &c->notes[page].token, sizeof c->notes->token);
}

static uint32_t page_token(const struct deq_cell *c, const void *page)
{
    uint32_t token;
    memcpy(&token, (const char *)page + c->page_bytes - sizeof(struct note), sizeof token);
    return token;
}

/* Its token will be looked up. */
static bool cell_page_fits(const struct deq_cell *c, const void *in)
{
    return page_token(c, in) < c->vocab_size;
}

static void cell_page_put(struct deq_cell *base, uint32_t page, const void *in)
{
    const struct cell *c = (const struct cell *)base;
    const size_t floats = 2 * (size_t)c->w->arch.state_size;
    memcpy(c->pages + page * floats, in, floats * sizeof(float));
    c->notes[page] = (struct note){.token = page_token(base, in), .final = true};
}

/* --- Opening --- */

static void cell_free(struct deq_cell *base)
{
    struct cell *c = (struct cell *)base;
    deq_free(c->block_of_memory);
    deq_free(c);
}

#define OPS                                                                                                      \
    .name = "trellis", .inject = cell_inject, .step = cell_step, .commit = cell_commit, .readout = cell_readout, \
    .readout_tail = cell_readout_tail, .screen = cell_screen, .best_near = cell_best_near,                         \
    .page_copy = cell_page_copy, .page_get = cell_page_get, .page_fits = cell_page_fits, .page_put = cell_page_put, \
    .free = cell_free
static const struct deq_cell_ops ops = {OPS, .predict = cell_predict}, ops_without_predictor = {OPS};

static void lay_out(struct cell *c, const struct deq_trellis_arch *a, unsigned threads, struct deq_layout *l)
{
    const struct deq_vocab *v = &a->base.vocab;
    const size_t R = c->base.max_rows, H = a->state_size, U = c->base.inject_dim;
    DEQ_PART(l, c->pages, (size_t)c->base.n_pages * 2 * H);
    DEQ_PART(l, c->notes, c->base.n_pages);
    DEQ_PART(l, c->bias, U);
    DEQ_PART(l, c->nothing, H);
    DEQ_PART(l, c->x, R * DEQ_MAX((size_t)v->d_model, H));
    DEQ_PART(l, c->y, R * U);
    DEQ_PART(l, c->a, R * U);
    DEQ_PART(l, c->sum, R);
    DEQ_PART(l, c->reads, R);
    DEQ_PART(l, c->operand,
             R * deq_class_operand_bytes(a->base.serving.numeric, DEQ_MAX((size_t)v->d_model, H)));
    DEQ_PART(l, c->emb, threads * deq_vocabulary_work(v));
    deq_readout_lay_out(&c->readout, v, a->base.serving.numeric, R, l);
    deq_near_lay_out(&c->near, v, a->base.serving.numeric, R, threads, l);
    deq_predict_lay_out(&c->predict, a->base.predictor_hidden, c->base.state_dim, v, a->base.serving.numeric, R,
                        threads, l);
}

struct deq_cell deq_trellis_shape(const struct deq_arch *arch, size_t max_rows, uint32_t n_pages, unsigned threads)
{
    const struct deq_trellis_arch *a = deq_trellis_arch(arch);
    const size_t H = a->state_size;
    struct cell c = {.base = {.ops = a->base.predictor_hidden ? &ops : &ops_without_predictor,
                              .state_dim = deq_trellis_state(a),
                              .read_dim = deq_trellis_state(a),
                              .inject_dim = 4 * H,
                              .vocab_size = a->base.vocab.size,
                              .max_rows = max_rows,
                              .n_tails = a->base.vocab.n_cutoffs,
                              .step_madds = 4 * H * H,
                              .readout_madds = deq_vocabulary_madds(&a->base.vocab),
                              .lookback = (uint32_t)back_of(a, 0),
                              .page_tok = 1,
                              .n_pages = n_pages,
                              .page_bytes = 2 * H * sizeof(float) + sizeof(struct note)}};
    struct deq_layout l = {0};
    lay_out(&c, a, threads, &l);
    c.base.bytes = sizeof c + l.bytes;
    return c.base;
}

enum deq_rc deq_trellis_open(const struct deq_weights *weights, size_t max_rows, uint32_t n_pages,
                             struct deq_pool *pool, struct deq_cell **ret, struct deq_err *err)
{
    const struct deq_trellis_weights *w = (const struct deq_trellis_weights *)weights;
    const unsigned threads = deq_pool_threads(pool);
    struct cell *c = DEQ_NEW(struct cell);
    if (!c)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the cell");
    c->base = deq_trellis_shape(&w->arch.base, max_rows, n_pages, threads);
    c->base.pool = pool;
    c->w = w;
    c->kern = deq_kern();
    struct deq_layout l = {.base = c->block_of_memory = deq_alloc(c->base.bytes - sizeof *c)};
    if (!l.base) {
        cell_free(&c->base);
        return deq_fail(err, DEQ_ENOMEM, "no memory for %zu rows and %u cache pages", max_rows, n_pages);
    }
    lay_out(c, &w->arch, threads, &l);
    c->kern->add(c->bias, w->inject_b, w->state_b, c->base.inject_dim);
    deq_readout_init(&c->readout, &w->vocabulary, pool);
    deq_near_init(&c->near, &w->vocabulary, pool);
    deq_predict_init(&c->predict, &w->predictor, &w->vocabulary, pool);
    *ret = &c->base;
    return DEQ_OK;
}
