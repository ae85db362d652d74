/* Opening an engine: its options filled and bounded, what it takes said and taken by the same walk. */
#include <string.h>

#include "core/base/mem.h"
#include "core/engine/engine_impl.h"

/* logits that exist at a time, where that is fewer rows than there are: the paper's vocabulary takes 1 MB a row */
enum { HEAD_FLOATS = 1 << 24 };

enum deq_rc deq_engine_opts_fill(const struct deq_cell *shape, const struct deq_engine_opts *in,
                                 struct deq_engine_opts *ret, struct deq_err *err)
{
    struct deq_engine_opts o = *in;
    if (!o.threads)
        o.threads = 1;
    if (!o.max_sequences)
        o.max_sequences = 32;
    if (!o.max_rows)
        o.max_rows = DEQ_MAX(o.max_sequences * 8, (uint32_t)DEQ_ROW_WINDOW_MAX);
    if (!o.max_positions)
        o.max_positions = DEQ_MAX(8 * (shape->lookback + 1), 2048u); /* of a cell that looks back one position, too */
    if (shape->max_positions)
        o.max_positions = DEQ_MIN(o.max_positions, shape->max_positions);
    if (!o.prefill_block)
        o.prefill_block = 128;
    const uint64_t page = shape->page_bytes,
                   full = deq_engine_pages_of(shape, &o, o.max_positions, DEQ_ROW_WINDOW_MAX);
    if (!o.cache_bytes)
        o.cache_bytes = page * full * o.max_sequences;
    if (o.prefill_block % shape->page_tok)
        return deq_fail(err, DEQ_EINVAL, "prefill_block %u is not a multiple of %u", o.prefill_block, shape->page_tok);
    if (o.max_sequences > 65536 || o.max_rows > 65536)
        return deq_fail(err, DEQ_EINVAL, "max_sequences %u and max_rows %u must be at most 65536", o.max_sequences,
                        o.max_rows);
    if (o.max_rows < DEQ_ROW_WINDOW_MAX)
        return deq_fail(err, DEQ_EINVAL, "max_rows %u: must be at least %d, which one window may take", o.max_rows,
                        DEQ_ROW_WINDOW_MAX);
    if (o.max_positions > (1u << 24))
        return deq_fail(err, DEQ_EINVAL, "max_positions %u exceeds %u", o.max_positions, 1u << 24);
    if (o.cache_bytes < page * full)
        return deq_fail(err, DEQ_EINVAL, "cache of %llu bytes: one sequence of %u positions takes %llu",
                        (unsigned long long)o.cache_bytes, o.max_positions, (unsigned long long)(page * full));
    if (o.cache_bytes / page > UINT32_MAX)
        return deq_fail(err, DEQ_EINVAL, "cache of %llu bytes: at most %llu can be used",
                        (unsigned long long)o.cache_bytes, (unsigned long long)(page * UINT32_MAX));
    *ret = o;
    return DEQ_OK;
}

uint32_t deq_engine_pages(const struct deq_cell *shape, const struct deq_engine_opts *o)
{
    return (uint32_t)(o->cache_bytes / shape->page_bytes);
}

uint32_t deq_engine_pages_of(const struct deq_cell *shape, const struct deq_engine_opts *o, size_t positions,
                             uint32_t window)
{
    return deq_pages_needed(shape, positions, shape->ops->explicit ? DEQ_MAX(window, o->prefill_block) : window);
}

struct deq_solver_opts deq_engine_solver(const struct deq_solver_opts *model, enum deq_solver_method method)
{
    struct deq_solver_opts o = *model;
    o.method = method;
    if (method == DEQ_BROYDEN)
        o.memory = BROYDEN_MEMORY;
    return o;
}

/* A row has room for whichever method a request names. */
static size_t solver_floats(const struct deq_solver_opts *model, size_t dim)
{
    size_t most = 0;
    for (int method = 0; method < DEQ_SOLVER_COUNT; method++) {
        const struct deq_solver_opts o = deq_engine_solver(model, (enum deq_solver_method)method);
        most = DEQ_MAX(most, deq_solver_floats(&o, dim));
    }
    return most;
}

static size_t row_floats(const struct deq_engine *e, const struct deq_cell *c)
{
    const size_t read = (c->ops->coda ? 2 : 1) * c->read_dim; /* seen, and y where it is not fz */
    return DEQ_ROUND_UP(4 * c->state_dim + read + c->inject_dim + solver_floats(&e->serving.solver, c->state_dim),
                        (size_t)16);
}

/* Everything that an engine holds beside the cell and the pool; opts and serving are set. */
static void lay_out(struct deq_engine *e, const struct deq_cell *c, struct deq_layout *l)
{
    const size_t R = e->opts.max_rows, S = e->opts.max_sequences, V = c->vocab_size;
    const uint32_t n_pages = deq_engine_pages(c, &e->opts);
    e->head_max = (uint32_t)DEQ_MIN(R, DEQ_MAX(HEAD_FLOATS / V, (size_t)DEQ_ROW_WINDOW_MAX));
    DEQ_PART(l, e->rows, R);
    DEQ_PART(l, e->row_mem, R * row_floats(e, c));
    DEQ_PART(l, e->free_rows, R);
    DEQ_PART(l, e->seqs, S);
    DEQ_PART(l, e->seq_state, S * c->state_dim);
    DEQ_PART(l, e->batch, R);
    DEQ_PART(l, e->batch_seq, R);
    DEQ_PART(l, e->z, R);
    DEQ_PART(l, e->fz, R);
    DEQ_PART(l, e->u_in, R);
    DEQ_PART(l, e->u_out, R);
    DEQ_PART(l, e->y, R);
    DEQ_PART(l, e->position, R);
    DEQ_PART(l, e->ring, R);
    DEQ_PART(l, e->new_tokens, R);
    DEQ_PART(l, e->new_rows, R);
    DEQ_PART(l, e->new_seq, R);
    DEQ_PART(l, e->prev, R);
    DEQ_PART(l, e->head, R);
    DEQ_PART(l, e->head_seq, R);
    DEQ_PART(l, e->judged, S);
    DEQ_PART(l, e->judged_seq, S);
    DEQ_PART(l, e->logits, e->head_max * V);
    DEQ_PART(l, e->tails, R * c->n_tails);
    DEQ_PART(l, e->allowed, e->head_max * deq_form_words(V));
    DEQ_PART(l, e->logits_of, R);
    DEQ_PART(l, e->tails_of, R);
    DEQ_PART(l, e->scratch, e->opts.threads);
    for (unsigned i = 0; i < e->opts.threads; i++) {
        struct deq_sample_scratch counted, *s = l->base ? &e->scratch[i] : &counted;
        DEQ_PART(l, s->candidates, V);
        DEQ_PART(l, s->adjusted, V);
        DEQ_PART(l, s->weights, V);
        DEQ_PART(l, s->counts, V);
    }
    deq_pages_lay_out(&e->pages, n_pages, l);
    deq_prefix_lay_out(&e->prefix, n_pages, e->opts.prefill_block, c, l);
}

uint64_t deq_engine_memory_bytes(const struct deq_serving *serving, const struct deq_engine_opts *o,
                                 const struct deq_cell *shape)
{
    struct deq_engine e = {.serving = *serving, .opts = *o};
    struct deq_layout l = {0};
    lay_out(&e, shape, &l);
    return sizeof e + l.bytes + shape->bytes + deq_pool_bytes(o->threads);
}

enum deq_rc deq_engine_open(struct deq_cell *cell, const struct deq_vocab *vocab, const struct deq_serving *serving,
                            struct deq_pool *pool, const struct deq_engine_opts *opts, struct deq_engine **ret,
                            struct deq_err *err)
{
    struct deq_engine *e = DEQ_NEW(struct deq_engine);
    struct deq_layout l = {0};
    if (!e)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the engine");
    enum deq_rc rc = deq_engine_opts_fill(cell, opts, &e->opts, err);
    e->vocab = *vocab;
    e->serving = *serving;
    e->opts.threads = deq_pool_threads(pool);
    if (!rc && deq_engine_pages(cell, &e->opts) != cell->n_pages)
        rc = deq_fail(err, DEQ_EINVAL, "cache of %llu bytes: the cell was opened with %u pages",
                      (unsigned long long)e->opts.cache_bytes, cell->n_pages);
    if (!rc && !deq_hash_key(&e->secret))
        rc = deq_fail(err, DEQ_EIO, "the system gives no random numbers");
    if (!rc) {
        lay_out(e, cell, &l);
        e->memory = deq_alloc(l.bytes);
        if (!e->memory)
            rc = deq_fail(err, DEQ_ENOMEM, "no memory for %u rows: %zu bytes", e->opts.max_rows, l.bytes);
    }
    if (rc) {
        deq_engine_free(e);
        return rc;
    }
    l = (struct deq_layout){.base = e->memory};
    lay_out(e, cell, &l);
    deq_pages_init(&e->pages, cell->n_pages, cell->page_tok);
    deq_prefix_init(&e->prefix, &e->pages, cell);
    const size_t D = cell->state_dim, per_row = row_floats(e, cell);
    for (uint32_t i = 0; i < e->opts.max_rows; i++) {
        struct row *r = &e->rows[i];
        r->z = e->row_mem + i * per_row;
        r->fz = r->z + D;
        r->best = r->fz + D;
        r->before = r->best + D;
        r->seen = r->before + D;
        r->u = r->seen + cell->read_dim;
        r->solver.mem = r->u + cell->inject_dim;
        r->y = r->fz;
        if (cell->ops->coda) {
            r->y = r->solver.mem;
            r->solver.mem += cell->read_dim;
        }
        e->free_rows[i] = e->opts.max_rows - 1 - i;
    }
    e->n_free_rows = e->opts.max_rows;
    for (size_t i = 0; i < e->opts.max_sequences; i++)
        e->seqs[i].state = e->seq_state + i * D;
    e->remember = e->head_max == e->opts.max_rows && cell->ops->best_near && !cell->n_tails;
    e->next_id = 1;
    e->cell = cell; /* taken only now: a failure leaves them with the caller */
    e->pool = pool;
    e->stats = (struct deq_engine_stats){.max_rows = e->opts.max_rows,
                                         .max_sequences = e->opts.max_sequences,
                                         .pages = cell->n_pages,
                                         .memory_bytes = deq_engine_memory_bytes(serving, &e->opts, cell)};
    *ret = e;
    return DEQ_OK;
}

void deq_engine_free(struct deq_engine *e)
{
    if (!e)
        return;
    for (uint32_t i = 0; e->cell && i < e->opts.max_sequences; i++)
        if (e->seqs[i].id) {
            deq_ring_close(&e->pages, &e->seqs[i].ring);
            deq_allowed_close(&e->seqs[i]);
            deq_free(e->seqs[i].tokens);
            deq_free(e->seqs[i].logprob);
            deq_free(e->seqs[i].residuals);
        }
    if (e->cell)
        e->cell->ops->free(e->cell); /* before its pool */
    deq_pool_free(e->pool);
    deq_free(e->memory);
    deq_free(e);
}
