#include "core/engine/engine_impl.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"

enum {
    GUESS_EVALUATIONS = 2, /* a row's guess is renewed at its first evaluations and when it converges */
    HEAD_FLOATS = 1 << 24, /* logits that exist at a time, where that is fewer rows than there are: the paper's vocabulary takes 1 MB a row */
};

/* --- Opening --- */

enum deq_rc deq_engine_opts_fill(const struct deq_arch *a, const struct deq_engine_opts *in, struct deq_engine_opts *ret, struct deq_err *err)
{
    struct deq_engine_opts o = *in;
    if (!o.threads)
        o.threads = 1;
    if (!o.max_sequences)
        o.max_sequences = 32;
    if (!o.max_rows)
        o.max_rows = DEQ_MAX(o.max_sequences * 8, (uint32_t)DEQ_ROW_WINDOW_MAX);
    if (!o.max_positions)
        o.max_positions = 8 * a->attn_window;
    if (!o.prefill_block)
        o.prefill_block = 128;
    const uint64_t page = deq_kv_page_bytes(a), full = deq_kv_pages_needed(a, o.max_positions, DEQ_ROW_WINDOW_MAX);
    if (!o.cache_bytes)
        o.cache_bytes = page * full * o.max_sequences;
    if (o.prefill_block % DEQ_KV_PAGE_TOK)
        return deq_fail(err, DEQ_EINVAL, "prefill_block %u is not a multiple of %d", o.prefill_block, DEQ_KV_PAGE_TOK);
    if (o.max_sequences > 65536 || o.max_rows > 65536)
        return deq_fail(err, DEQ_EINVAL, "max_sequences %u and max_rows %u must be at most 65536", o.max_sequences, o.max_rows);
    if (o.max_rows < DEQ_ROW_WINDOW_MAX)
        return deq_fail(err, DEQ_EINVAL, "max_rows %u: must be at least %d, which one window may take", o.max_rows, DEQ_ROW_WINDOW_MAX);
    if (o.max_positions > (1u << 24))
        return deq_fail(err, DEQ_EINVAL, "max_positions %u exceeds %u", o.max_positions, 1u << 24);
    if (o.cache_bytes < page * full)
        return deq_fail(err, DEQ_EINVAL, "cache of %llu bytes: one sequence of %u positions takes %llu", (unsigned long long)o.cache_bytes,
                        o.max_positions, (unsigned long long)(page * full));
    *ret = o;
    return DEQ_OK;
}

static size_t solver_floats(const struct deq_arch *a, size_t dim)
{
    struct deq_solver_opts o = a->solver;
    o.method = DEQ_ANDERSON;
    const size_t anderson = deq_solver_floats(&o, dim);
    o.method = DEQ_BROYDEN;
    o.memory = BROYDEN_MEMORY;
    return DEQ_MAX(anderson, deq_solver_floats(&o, dim));
}

static size_t row_floats(const struct deq_arch *a, size_t state_dim, size_t inject_dim)
{
    return DEQ_ROUND_UP(3 * state_dim + inject_dim + solver_floats(a, state_dim), (size_t)16);
}

/* Rows whose logits exist at a time. */
static uint32_t head_max(size_t max_rows, size_t vocab_size)
{
    return (uint32_t)DEQ_MIN(max_rows, DEQ_MAX(HEAD_FLOATS / vocab_size, (size_t)DEQ_ROW_WINDOW_MAX));
}

uint64_t deq_engine_memory_bytes(const struct deq_arch *a, const struct deq_engine_opts *o, const struct deq_cell *shape)
{
    const uint64_t D = shape->state_dim, V = shape->vocab_size, page_bytes = deq_kv_page_bytes(a), pages = o->cache_bytes / page_bytes;
    enum { LISTS = 13 }; /* of the step, a pointer or number for each row */
    return (o->max_rows * (row_floats(a, D, shape->inject_dim) + shape->n_tails) + head_max(o->max_rows, V) * V) * sizeof(float) +
           o->max_rows * (sizeof(struct row) + LISTS * sizeof(void *)) + shape->scratch_bytes + pages * page_bytes +
           o->max_sequences * (D * sizeof(float) + sizeof(struct sequence)) +
           o->threads * V * (sizeof(struct deq_candidate) + sizeof(float) + sizeof(uint32_t)) +
           deq_prefix_memory_bytes((uint32_t)DEQ_MIN(pages, UINT32_MAX), o->prefill_block, a->attn_window, D);
}

/* the number of threads comes from outside: a failed opening leaves the pool with the caller */
static void free_scratch(struct deq_engine *e, unsigned threads)
{
    for (unsigned i = 0; e->scratch && i < threads; i++) {
        deq_free(e->scratch[i].candidates);
        deq_free(e->scratch[i].adjusted);
        deq_free(e->scratch[i].counts);
    }
    deq_free(e->scratch);
    e->scratch = NULL;
}

enum deq_rc deq_engine_open(struct deq_cell *cell, const struct deq_arch *arch, struct deq_pool *pool, const struct deq_engine_opts *opts,
                            struct deq_engine **ret, struct deq_err *err)
{
    struct deq_engine *e = DEQ_NEW(struct deq_engine);
    if (!e)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the engine");
    enum deq_rc rc = deq_engine_opts_fill(arch, opts, &e->opts, err);
    if (!rc)
        rc = deq_kv_pool_new(arch, e->opts.cache_bytes, &e->kv, err);
    if (!rc)
        rc = deq_prefix_new(e->kv, e->opts.prefill_block, arch->attn_window, cell->state_dim, &e->prefix, err);
    if (!rc && !deq_hash_key(&e->secret))
        rc = deq_fail(err, DEQ_EIO, "the system gives no random numbers");
    if (rc) {
        deq_engine_free(e);
        return rc;
    }
    const size_t R = e->opts.max_rows, D = cell->state_dim, U = cell->inject_dim, V = cell->vocab_size, per_row = row_floats(arch, D, U);
    e->arch = *arch;
    e->next_id = 1;
    e->rows = DEQ_NEW_ARRAY(struct row, R);
    e->row_mem = deq_alloc_array(R, per_row * sizeof(float));
    e->free_rows = DEQ_NEW_ARRAY(uint32_t, R);
    e->seqs = DEQ_NEW_ARRAY(struct sequence, e->opts.max_sequences);
    e->seq_state = deq_alloc_array(e->opts.max_sequences, D * sizeof(float));
    e->batch = DEQ_NEW_ARRAY(struct row *, R);
    e->batch_seq = DEQ_NEW_ARRAY(struct sequence *, R);
    e->z = DEQ_NEW_ARRAY(const float *, R);
    e->fz = DEQ_NEW_ARRAY(float *, R);
    e->u_in = DEQ_NEW_ARRAY(const float *, R);
    e->u_out = DEQ_NEW_ARRAY(float *, R);
    e->position = DEQ_NEW_ARRAY(size_t, R);
    e->kv_seq = DEQ_NEW_ARRAY(const struct deq_kv_seq *, R);
    e->new_tokens = DEQ_NEW_ARRAY(uint32_t, R);
    e->new_rows = DEQ_NEW_ARRAY(struct row *, R);
    e->prev = DEQ_NEW_ARRAY(const float *, R);
    e->head = DEQ_NEW_ARRAY(struct row *, R);
    e->head_seq = DEQ_NEW_ARRAY(struct sequence *, R);
    e->head_max = head_max(R, V);
    e->logits = deq_alloc_array(e->head_max, V * sizeof(float));
    e->tails = deq_alloc_array(R, DEQ_MAX(cell->n_tails, 1u) * sizeof(float)); /* not nothing, which would be no memory */
    e->logits_of = DEQ_NEW_ARRAY(float *, R);
    e->tails_of = DEQ_NEW_ARRAY(float *, R);
    e->scratch = DEQ_NEW_ARRAY(struct deq_sample_scratch, deq_pool_threads(pool));
    bool scratch = e->scratch != NULL;
    for (unsigned i = 0; scratch && i < deq_pool_threads(pool); i++) {
        struct deq_sample_scratch *s = &e->scratch[i];
        s->candidates = DEQ_NEW_ARRAY(struct deq_candidate, V);
        s->adjusted = DEQ_NEW_ARRAY(float, V);
        s->counts = DEQ_NEW_ARRAY(uint32_t, V);
        scratch = s->candidates && s->adjusted && s->counts;
    }
    if (!e->rows || !e->row_mem || !e->free_rows || !e->seqs || !e->seq_state || !e->batch || !e->batch_seq || !e->z || !e->fz || !e->u_in ||
        !e->u_out || !e->position || !e->kv_seq || !e->new_tokens || !e->new_rows || !e->prev || !e->head || !e->head_seq || !e->logits ||
        !e->tails || !e->logits_of || !e->tails_of || !scratch) {
        free_scratch(e, deq_pool_threads(pool));
        deq_engine_free(e);
        return deq_fail(err, DEQ_ENOMEM, "no memory for %zu rows", R);
    }
    for (size_t i = 0; i < R; i++) {
        struct row *r = &e->rows[i];
        r->z = e->row_mem + i * per_row;
        r->fz = r->z + D;
        r->best = r->fz + D;
        r->u = r->best + D;
        r->solver.mem = r->u + U;
        e->free_rows[i] = (uint32_t)(R - 1 - i);
    }
    e->n_free_rows = (uint32_t)R;
    for (size_t i = 0; i < e->opts.max_sequences; i++)
        e->seqs[i].state = e->seq_state + i * D;
    e->opts.threads = deq_pool_threads(pool);
    e->cell = cell; /* taken only now: a failure leaves them with the caller */
    e->pool = pool;
    e->stats = (struct deq_engine_stats){.max_rows = e->opts.max_rows,
                                         .max_positions = e->opts.max_positions,
                                         .max_sequences = e->opts.max_sequences,
                                         .pages = e->kv->n_pages,
                                         .memory_bytes = deq_engine_memory_bytes(arch, &e->opts, cell)};
    *ret = e;
    return DEQ_OK;
}

void deq_engine_free(struct deq_engine *e)
{
    if (!e)
        return;
    for (uint32_t i = 0; e->seqs && i < e->opts.max_sequences; i++)
        if (e->seqs[i].id) {
            deq_kv_close(e->kv, &e->seqs[i].kv);
            deq_free(e->seqs[i].tokens);
        }
    if (e->pool)
        free_scratch(e, deq_pool_threads(e->pool));
    if (e->cell)
        e->cell->ops->free(e->cell); /* before its pool */
    void *const blocks[] = {e->rows, e->row_mem, e->free_rows, e->seqs, e->seq_state, e->batch, e->batch_seq, e->z, e->fz, e->u_in, e->u_out,
                            e->position, e->kv_seq, e->new_tokens, e->new_rows, e->prev, e->head, e->head_seq, e->logits, e->tails, e->logits_of, e->tails_of};
    for (size_t i = 0; i < DEQ_COUNT(blocks); i++)
        deq_free(blocks[i]);
    deq_prefix_free(e->prefix);
    deq_kv_pool_free(e->kv);
    deq_pool_free(e->pool);
    deq_free(e);
}

/* --- Fill --- */

/* Takes part in steps. */
static bool in_step(const struct sequence *s)
{
    return s->id && !s->waiting && !s->paused;
}

/* Its front commits at this evaluation whatever the residual. */
static bool must_commit(const struct sequence *s, const struct row *r)
{
    return r->last || s->expired;
}

/* The token of the next row on the right, or NO_TOKEN when none may enter now. */
static uint32_t next_token(const struct deq_engine *e, const struct sequence *s)
{
    const size_t p = s->n_committed + s->n_rows;
    if (s->n_rows == s->req.solve.window || p > s->last_position)
        return NO_TOKEN;
    if (p < s->req.n_prompt) { /* whole blocks of a prompt do not depend on what follows: drain at their ends */
        const size_t block = e->opts.prefill_block;
        return p / block == s->n_committed / block ? s->tokens[p] : NO_TOKEN;
    }
    if (s->n_committed < s->req.n_prompt) /* its end too, so that every choice begins at the same place */
        return NO_TOKEN;
    if (p < s->n_known)
        return s->tokens[p];
    return s->n_rows ? e->rows[s->row[s->n_rows - 1]].guess : NO_TOKEN;
}

static void enter(struct deq_engine *e, struct sequence *s, uint32_t token)
{
    const uint32_t slot = e->free_rows[--e->n_free_rows];
    struct row *r = &e->rows[slot];
    r->position = s->n_committed + s->n_rows;
    r->token = token;
    r->guess = NO_TOKEN;
    r->evaluations = r->lead = 0;
    r->residual = r->best_residual = INFINITY;
    r->converged = r->restarted = false;
    r->start_cached = s->from_cache && s->req.solve.warm_start != DEQ_WARM_ZERO;
    s->from_cache = false;
    e->stats.starts[s->req.solve.warm_start]++;
    e->stats.starts_cached += r->start_cached;
    r->last = s->solver.max_iter == 1;
    deq_solver_restart(&r->solver);
    deq_seq_claim(e, s, r->position);
    s->row[s->n_rows++] = slot;
}

/* One more row into every window that takes one; returns how many entered. A round at a time, because a start is predicted from the state
 * before it, which may itself just have been predicted. */
static size_t fill_round(struct deq_engine *e)
{
    const size_t D = e->cell->state_dim;
    size_t n = 0, n_predict = 0;
    for (uint32_t i = 0; i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        const uint32_t token = in_step(s) ? next_token(e, s) : (uint32_t)NO_TOKEN;
        if (token == NO_TOKEN)
            continue;
        enter(e, s, token);
        struct row *r = &e->rows[s->row[s->n_rows - 1]];
        const float *before = s->n_rows > 1 ? e->rows[s->row[s->n_rows - 2]].z : s->state;
        if (s->req.solve.warm_start == DEQ_WARM_ZERO)
            memset(r->z, 0, D * sizeof(float));
        else if (s->req.solve.warm_start == DEQ_WARM_PREVIOUS)
            memcpy(r->z, before, D * sizeof(float));
        e->u_out[n] = r->u;
        e->new_tokens[n] = token;
        e->new_rows[n] = r;
        e->prev[n] = s->req.solve.warm_start == DEQ_WARM_PREDICTOR ? before : NULL;
        n++;
    }
    if (!n)
        return 0;
    e->cell->ops->inject(e->cell, n, e->new_tokens, e->u_out);
    for (size_t i = 0; i < n; i++)
        if (e->prev[i]) {
            e->prev[n_predict] = e->prev[i];
            e->new_tokens[n_predict] = e->new_tokens[i];
            e->u_out[n_predict] = e->new_rows[i]->z;
            n_predict++;
        }
    if (n_predict)
        e->cell->ops->predict(e->cell, n_predict, e->new_tokens, e->prev, e->u_out);
    return n;
}

static void gather(struct deq_engine *e)
{
    e->n_batch = 0;
    for (uint32_t i = 0; i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        if (!in_step(s))
            continue;
        for (uint32_t k = 0; k < s->n_rows; k++) {
            struct row *r = &e->rows[s->row[k]];
            const size_t b = e->n_batch++;
            e->batch[b] = r;
            e->batch_seq[b] = s;
            e->z[b] = r->z;
            e->fz[b] = r->fz;
            e->u_in[b] = r->u;
            e->position[b] = r->position;
            e->kv_seq[b] = &s->kv;
            r->logits = NULL;
        }
    }
}

/* --- After the evaluation --- */

static void stage_residual(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_engine *e = ctx;
    for (size_t b = e->n_batch * thread / n_threads; b < e->n_batch * (thread + 1) / n_threads; b++) {
        struct row *r = e->batch[b];
        const struct deq_solver_opts *o = &e->batch_seq[b]->solver;
        const bool was = r->converged;
        r->residual = deq_solver_residual(o, e->cell->state_dim, r->z, r->fz);
        r->finite = isfinite(r->residual);
        r->evaluations++;
        r->converged = r->finite && r->residual < o->tol && r->evaluations >= o->min_iter;
        /* the guess is due: early, and at the evaluation that converges */
        if (r->evaluations > GUESS_EVALUATIONS && !(r->converged && !was))
            continue;
        r->guess = r->finite ? r->guess : (uint32_t)NO_TOKEN;
        r->logits = r->finite ? e->logits : NULL; /* a mark; choose_head gives it its place */
    }
}

/* Which rows need logits: those that may commit in this step and whose token or logits somebody needs, and those whose guess is due. Of the sequences
 * from `from` on, as many as there is room for; returns the one behind them. */
static uint32_t choose_head(struct deq_engine *e, uint32_t from)
{
    uint32_t i = from;
    e->n_head = 0;
    for (; i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        if (!in_step(s))
            continue;
        if (e->n_head + s->n_rows > e->head_max)
            break;
        bool leading = true;
        for (uint32_t k = 0; k < s->n_rows; k++) {
            struct row *r = &e->rows[s->row[k]];
            leading = leading && r->finite && (r->converged || (k == 0 && must_commit(s, r)));
            const bool unknown_next = r->position + 1 >= s->req.n_prompt; /* its logits pick a token */
            const bool picks = unknown_next && s->req.max_tokens;
            const bool wanted = s->req.want_prompt && (!unknown_next || !s->req.max_tokens);
            const bool guess_due = r->logits && picks && r->position >= s->req.n_prompt && r->position < s->last_position;
            const bool need = r->finite && ((leading && (picks || wanted)) || guess_due);
            r->logits = NULL;
            if (need) {
                r->logits = e->logits + e->n_head * e->cell->vocab_size;
                r->tails = e->tails + e->n_head * e->cell->n_tails;
                r->known = r->need = 0;
                e->head[e->n_head] = r;
                e->head_seq[e->n_head] = s;
                e->n_head++;
            }
        }
    }
    return i;
}

static void stage_sample(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_engine *e = ctx;
    for (size_t i = e->n_head * thread / n_threads; i < e->n_head * (thread + 1) / n_threads; i++) {
        struct row *r = e->head[i];
        if (r->guess != NO_TOKEN)
            continue;
        r->need = 0;
        r->guess = deq_seq_sample(e, e->head_seq[i], r, thread, &r->need);
    }
}

enum { WORTH_A_THREAD = 1 << 15 }; /* floats touched; below, one thread is faster. Bits do not depend on it */

static void run(struct deq_engine *e, deq_pool_fn stage, size_t work)
{
    if (work < WORTH_A_THREAD)
        stage(e, 0, 1);
    else
        deq_pool_run(e->pool, stage, e);
}

/* Somebody sees the whole distribution at row r, or a pick needs it. Choices that begin here pick from it too. */
static bool whole(const struct sequence *s, const struct row *r)
{
    const bool begins = s->req.n > 1 && r->position + 1 == s->req.n_prompt;
    return s->req.want_logits || s->req.want_prompt || begins || deq_sample_whole(&s->req.sampling);
}

/* One further cluster, for the head rows that need it. */
static bool read_tail(struct deq_engine *e, unsigned cluster, bool wholes)
{
    size_t n = 0;
    for (size_t i = 0; i < e->n_head; i++) {
        struct row *r = e->head[i];
        if (wholes ? !whole(e->head_seq[i], r) : r->need != cluster)
            continue;
        e->z[n] = r->fz;
        e->logits_of[n] = r->logits;
        e->tails_of[n++] = r->tails;
        r->known |= 1u << cluster;
    }
    if (n)
        e->cell->ops->readout_tail(e->cell, cluster, n, e->z, e->logits_of, (const float *const *)e->tails_of);
    return n;
}

/* Logits and picks of the head rows. Of a vocabulary in clusters, only those are computed that a pick depends on, and all for a
 * request that wants to see distributions. */
static void read_out(struct deq_engine *e)
{
    const size_t work = e->n_head * e->cell->vocab_size;
    for (size_t i = 0; i < e->n_head; i++) {
        e->z[i] = e->head[i]->fz;
        e->logits_of[i] = e->head[i]->logits;
        e->tails_of[i] = e->head[i]->tails;
        e->head[i]->guess = NO_TOKEN;
    }
    e->cell->ops->readout(e->cell, e->n_head, e->z, e->logits_of, e->tails_of);
    for (unsigned c = 1; c <= e->cell->n_tails; c++)
        (void)read_tail(e, c, true);
    run(e, stage_sample, work);
    for (bool more = e->cell->n_tails; more;) {
        more = false;
        for (unsigned c = 1; c <= e->cell->n_tails; c++)
            more = read_tail(e, c, false) || more;
        if (more)
            run(e, stage_sample, work);
    }
    e->stats.head_rows += e->n_head;
}

/* `token` follows the last committed position. ev has what is known of that position. Returns false when the sequence ended. */
static bool take_token(struct deq_engine *e, struct sequence *s, uint32_t token, struct deq_event ev)
{
    s->tokens[s->n_known++] = token;
    ev.kind = DEQ_EVENT_TOKEN;
    ev.choice = s->choice;
    ev.token = token;
    const enum deq_verdict verdict = s->req.event(s->req.ctx, &ev);
    const bool eos = !s->req.ignore_eos && (int64_t)token == e->arch.eos_id, full = ev.position == s->last_position;
    if (!eos && verdict != DEQ_STOP && !full && !s->expired)
        return true;
    deq_seq_finish(e, s, eos ? DEQ_FINISH_EOS : verdict == DEQ_STOP ? DEQ_FINISH_STOP : full ? DEQ_FINISH_LENGTH : DEQ_FINISH_DEADLINE, NULL);
    return false;
}

/* The prompt of s is solved: its further choices begin, each with a token of its own from the same logits. */
static void begin_choices(struct deq_engine *e, const struct sequence *leader, const struct row *r, const struct deq_event *ev)
{
    deq_seq_fork(e, leader);
    for (uint32_t i = 0; i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        if (s->id == leader->id && s->waiting) {
            s->waiting = false;
            (void)take_token(e, s, deq_seq_sample(e, s, r, 0, NULL), *ev);
        }
    }
}

/* Commits the leading rows of s. Returns false when the sequence ended. */
static bool commit(struct deq_engine *e, struct sequence *s)
{
    uint32_t k = 0;
    while (k < s->n_rows) {
        struct row *r = &e->rows[s->row[k]];
        /* a row behind the front that hits its budget becomes `last` only once it leads */
        if (!r->finite || !(r->converged || (k == 0 && must_commit(s, r))))
            break;
        const size_t p = r->position;
        const bool done = r->converged || !(s->solver.tol > 0); /* a fixed number of steps was taken, that was all that was asked */
        struct deq_event ev = {.id = s->id,
                               .position = p,
                               .evaluations = r->evaluations,
                               .residual = r->residual,
                               .converged = done,
                               .start = s->req.solve.warm_start,
                               .start_cached = r->start_cached};
        k++;
        deq_seq_committed(e, s, p, r->fz);
        if (p < s->req.n_prompt) {
            s->prompt_positions++;
            s->prompt_evaluations += r->evaluations;
            s->prompt_residual_max = fmaxf(s->prompt_residual_max, r->residual);
        }
        e->stats.positions++;
        e->stats.nonconverged += !done;
        const bool picks = p + 1 == s->n_known && s->req.max_tokens;
        if (!picks) {
            ev.kind = DEQ_EVENT_PROMPT;
            ev.logits = r->logits;
            if (s->req.want_prompt)
                s->req.event(s->req.ctx, &ev);
            if (p == s->last_position) {
                deq_seq_finish(e, s, DEQ_FINISH_LENGTH, NULL);
                return false;
            }
            continue;
        }
        const uint32_t token = r->guess;
        ev.logits = s->req.want_logits ? r->logits : NULL;
        if (p + 1 == s->req.n_prompt && s->req.n > 1)
            begin_choices(e, s, r, &ev);
        if (!take_token(e, s, token, ev))
            return false;
        if (k < s->n_rows && e->rows[s->row[k]].token != token) {
            e->stats.restarts += s->n_rows - k;
            deq_seq_drop_rows(e, s, k);
        }
    }
    for (uint32_t i = 0; i < k; i++)
        e->free_rows[e->n_free_rows++] = s->row[i];
    s->n_rows -= k;
    memmove(s->row, s->row + k, s->n_rows * sizeof *s->row);
    if (k && s->n_rows) { /* a new front: its prefix is final now, its budget starts */
        struct row *r = &e->rows[s->row[0]];
        r->lead = 0;
        r->best_residual = INFINITY;
        r->last = s->solver.max_iter == 1;
    }
    return true;
}

/* Drops rows whose guess changed or that became NaN; the front's NaN starts again from zero once, then ends the sequence. Returns false when it ended. */
static bool prune(struct deq_engine *e, struct sequence *s)
{
    for (uint32_t k = 0; k < s->n_rows; k++) {
        struct row *r = &e->rows[s->row[k]];
        if (!r->finite && r->evaluations) {
            if (k) {
                deq_seq_drop_rows(e, s, k);
                break;
            }
            if (r->restarted || r->last) {
                e->stats.numeric_errors++;
                deq_seq_finish(e, s, DEQ_FINISH_NUMERIC, "the state became infinite or not a number");
                return false;
            }
            memset(r->z, 0, e->cell->state_dim * sizeof(float));
            memset(r->fz, 0, e->cell->state_dim * sizeof(float));
            deq_solver_restart(&r->solver);
            r->restarted = true;
            deq_seq_drop_rows(e, s, 1);
            break;
        }
        if (k + 1 < s->n_rows && r->position + 1 >= s->n_known && r->guess != e->rows[s->row[k + 1]].token) {
            e->stats.restarts += s->n_rows - k - 1;
            deq_seq_drop_rows(e, s, k + 1);
        }
    }
    return true;
}

static void stage_solve(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_engine *e = ctx;
    const size_t D = e->cell->state_dim;
    for (size_t b = e->n_batch * thread / n_threads; b < e->n_batch * (thread + 1) / n_threads; b++) {
        struct row *r = e->batch[b];
        const struct sequence *s = e->batch_seq[b];
        if (r->position < s->n_committed || !r->finite)
            continue;
        if (r->position == s->n_committed) { /* it leads: f is fixed now, so an old iterate stays comparable */
            r->lead++;
            if (r->residual < r->best_residual) {
                r->best_residual = r->residual;
                memcpy(r->best, r->z, D * sizeof(float));
            }
            if (r->lead + 1 >= s->solver.max_iter) {
                r->last = true;
                if (s->solver.tol > 0) { /* else it is a fixed number of steps, and this is one of them */
                    memcpy(r->z, r->best, D * sizeof(float));
                    continue;
                }
            }
        }
        deq_solver_step(&s->solver, &r->solver, D, r->z, r->fz, r->residual);
    }
}

void deq_step(struct deq_engine *e)
{
    if (!e->n_active)
        return;
    while (fill_round(e))
        ;
    gather(e);
    if (!e->n_batch)
        return;
    const struct deq_rows rows = {.n = e->n_batch, .z = e->z, .fz = e->fz, .u = e->u_in, .position = e->position, .seq = e->kv_seq, .kv = e->kv};
    e->cell->ops->step(e->cell, &rows);
    e->stats.steps++;
    e->stats.rows += e->n_batch;
    run(e, stage_residual, 2 * e->n_batch * e->cell->state_dim);
    for (uint32_t from = 0, to; from < e->opts.max_sequences; from = to) {
        to = choose_head(e, from);
        if (e->n_head)
            read_out(e);
        for (uint32_t i = from; i < to; i++) {
            struct sequence *s = &e->seqs[i];
            /* a choice that began in this step has no row in it yet */
            if (in_step(s) && s->n_rows && commit(e, s))
                (void)prune(e, s);
        }
    }
    /* only rows that are still open are stepped */
    gather(e);
    run(e, stage_solve, 8 * e->n_batch * e->cell->state_dim);
}

struct deq_engine_stats deq_engine_stats(const struct deq_engine *e)
{
    struct deq_engine_stats s = e->stats;
    s.sequences = (uint32_t)e->n_active;
    s.rows_open = e->opts.max_rows - e->n_free_rows;
    const struct deq_prefix_stats p = deq_prefix_stats(e->prefix);
    s.pages_used = e->kv->n_held;
    s.pages_reserved = e->kv->n_reserved;
    s.prefix_entries = p.entries;
    s.prefix_bytes = p.bytes;
    s.prefix_evictions = p.evictions;
    return s;
}
