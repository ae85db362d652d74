#include "core/engine/engine.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/engine/sampler.h"
#include "core/solve/solver.h"

enum {
    GUESS_EVALUATIONS = 2, /* a row's guess is renewed at its first evaluations and when it converges (DESIGN section 3) */
    NO_TOKEN = UINT32_MAX,
    BROYDEN_MEMORY = 8,
};

struct row {
    float *z, *fz, *u, *best; /* [D] [D] [U] [D] */
    struct deq_solver solver;
    size_t position;
    uint32_t token;
    uint32_t guess;       /* the token that its state picked when last asked, or NO_TOKEN */
    uint32_t evaluations; /* since it entered */
    uint32_t lead;        /* evaluations since every row before it was final */
    float residual, best_residual;
    bool finite, converged;
    bool last;            /* the next evaluation is the last: commit whatever comes */
    bool restarted;       /* went back to zero after NaN once */
    const float *logits;  /* of this step, or NULL */
};

struct sequence {
    uint64_t id; /* 0: free */
    struct deq_request req;
    struct deq_solver_opts solver;
    struct deq_kv_seq kv;
    uint32_t *tokens; /* [n_prompt + max_tokens] */
    float *state;     /* [D] f(z) of the last committed position, for the warm start */
    size_t n_known, n_committed, last_position;
    uint32_t row[DEQ_ROW_WINDOW_MAX]; /* slots, front first */
    uint32_t n_rows;
};

struct deq_engine {
    struct deq_cell *cell;
    struct deq_arch arch;
    struct deq_pool *pool;
    struct deq_engine_opts opts;
    struct deq_kv_pool *kv;
    struct row *rows;         /* [max_rows] */
    float *row_mem;
    uint32_t *free_rows;
    uint32_t n_free_rows;
    struct sequence *seqs;    /* [max_sequences] */
    float *seq_state;         /* [max_sequences, D] */
    uint32_t rows_reserved;   /* sum of the active windows: every sequence is part of every step */
    uint64_t next_id;
    size_t n_active;
    /* the step under way; all [max_rows] */
    struct row **batch;
    struct sequence **batch_seq;
    size_t n_batch;
    const float **z, **u_in;
    float **fz, **u_out;
    size_t *position;
    const struct deq_kv_seq **kv_seq;
    uint32_t *new_tokens;
    struct row **new_rows;
    const float **prev;
    struct row **head;        /* rows that need logits */
    struct sequence **head_seq;
    size_t n_head;
    float *logits;            /* [max_rows, V] */
    struct deq_candidate *candidates; /* [threads, V] */
    struct deq_engine_stats stats;
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
    if (o.max_sequences > 65536 || o.max_rows > 65536)
        return deq_fail(err, DEQ_EINVAL, "max_sequences %u and max_rows %u must be at most 65536", o.max_sequences, o.max_rows);
    if (o.max_rows < DEQ_ROW_WINDOW_MAX)
        return deq_fail(err, DEQ_EINVAL, "max_rows %u: one window may take %d", o.max_rows, DEQ_ROW_WINDOW_MAX);
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

enum deq_rc deq_engine_open(struct deq_cell *cell, const struct deq_arch *arch, struct deq_pool *pool, const struct deq_engine_opts *opts,
                            struct deq_engine **ret, struct deq_err *err)
{
    struct deq_engine *e = DEQ_NEW(struct deq_engine);
    if (!e)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the engine");
    enum deq_rc rc = deq_engine_opts_fill(arch, opts, &e->opts, err);
    if (!rc)
        rc = deq_kv_pool_new(arch, e->opts.cache_bytes, &e->kv, err);
    if (rc) {
        deq_engine_free(e);
        return rc;
    }
    const size_t R = e->opts.max_rows, D = cell->state_dim, U = cell->inject_dim, V = cell->vocab_size, S = solver_floats(arch, D);
    const size_t per_row = DEQ_ROUND_UP(3 * D + U + S, (size_t)16);
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
    e->logits = deq_alloc_array(R, V * sizeof(float));
    e->candidates = deq_alloc_array(deq_pool_threads(pool), V * sizeof(struct deq_candidate));
    if (!e->rows || !e->row_mem || !e->free_rows || !e->seqs || !e->seq_state || !e->batch || !e->batch_seq || !e->z || !e->fz || !e->u_in ||
        !e->u_out || !e->position || !e->kv_seq || !e->new_tokens || !e->new_rows || !e->prev || !e->head || !e->head_seq || !e->logits ||
        !e->candidates) {
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
    e->cell = cell; /* taken only now: a failure leaves them with the caller */
    e->pool = pool;
    e->stats = (struct deq_engine_stats){.max_rows = e->opts.max_rows,
                                         .max_positions = e->opts.max_positions,
                                         .max_sequences = e->opts.max_sequences,
                                         .pages = e->kv->n_pages,
                                         .memory_bytes = R * (per_row + V) * sizeof(float) + cell->scratch_bytes +
                                                         (uint64_t)e->kv->n_pages * e->kv->page_floats * sizeof(float) +
                                                         e->opts.max_sequences * (D * sizeof(float) + sizeof(struct sequence)) +
                                                         deq_pool_threads(pool) * V * sizeof(struct deq_candidate)};
    *ret = e;
    return DEQ_OK;
}

void deq_engine_free(struct deq_engine *e)
{
    if (!e)
        return;
    for (uint32_t i = 0; e->seqs && i < e->opts.max_sequences; i++)
        if (e->seqs[i].id) {
            deq_kv_seq_give(e->kv, &e->seqs[i].kv);
            deq_free(e->seqs[i].tokens);
        }
    if (e->cell)
        e->cell->ops->free(e->cell); /* before its pool */
    void *const blocks[] = {e->rows, e->row_mem, e->free_rows, e->seqs, e->seq_state, e->batch, e->batch_seq, e->z, e->fz, e->u_in, e->u_out,
                            e->position, e->kv_seq, e->new_tokens, e->new_rows, e->prev, e->head, e->head_seq, e->logits, e->candidates};
    for (size_t i = 0; i < DEQ_COUNT(blocks); i++)
        deq_free(blocks[i]);
    deq_kv_pool_free(e->kv);
    deq_pool_free(e->pool);
    deq_free(e);
}

/* --- Sequences --- */

static enum deq_rc check_request(const struct deq_engine *e, const struct deq_request *q, struct deq_err *err)
{
    if (!q->n_prompt)
        return deq_fail(err, DEQ_EINVAL, "prompt: at least one token is needed");
    for (size_t i = 0; i < q->n_prompt; i++)
        if (q->prompt[i] >= e->cell->vocab_size)
            return deq_fail(err, DEQ_EINVAL, "prompt: token %u at %zu is outside the vocabulary of %zu", q->prompt[i], i, e->cell->vocab_size);
    if (q->n_prompt > e->opts.max_positions || q->max_tokens > e->opts.max_positions - q->n_prompt)
        return deq_fail(err, DEQ_EINVAL, "prompt of %zu tokens plus max_tokens %u exceeds the limit of %u positions", q->n_prompt,
                        q->max_tokens, e->opts.max_positions);
    const struct deq_solve_params *p = &q->solve;
    if (p->window < 1 || p->window > DEQ_ROW_WINDOW_MAX)
        return deq_fail(err, DEQ_EINVAL, "window: %u is outside 1..%d", p->window, DEQ_ROW_WINDOW_MAX);
    if (p->warm_start == DEQ_WARM_PREDICTOR && !e->cell->ops->predict)
        return deq_fail(err, DEQ_EINVAL, "warm_start: this model has no predictor");
    const struct deq_sampling *s = &q->sampling;
    if (!(s->temperature >= 0) || !(s->top_p >= 0 && s->top_p <= 1) || !(s->min_p >= 0 && s->min_p <= 1))
        return deq_fail(err, DEQ_EINVAL, "sampling: temperature must be >= 0, top_p and min_p in 0..1");
    return DEQ_OK;
}

enum deq_rc deq_submit(struct deq_engine *e, const struct deq_request *q, uint64_t *ret_id, struct deq_err *err)
{
    struct deq_solver_opts o = e->arch.solver;
    enum deq_rc rc = check_request(e, q, err);
    o.method = q->solve.solver;
    o.tol = q->solve.tol;
    o.max_iter = q->solve.max_iter;
    o.min_iter = q->solve.min_iter;
    if (o.method == DEQ_BROYDEN)
        o.memory = BROYDEN_MEMORY;
    if (!rc)
        rc = deq_solver_check(&o, err);
    if (rc)
        return rc;
    struct sequence *s = NULL;
    for (uint32_t i = 0; i < e->opts.max_sequences && !s; i++)
        if (!e->seqs[i].id)
            s = &e->seqs[i];
    if (!s)
        return deq_fail(err, DEQ_EFULL, "all %u sequences are taken", e->opts.max_sequences);
    if (q->solve.window > e->opts.max_rows - e->rows_reserved)
        return deq_fail(err, DEQ_EFULL, "a window of %u rows is needed, %u of %u are free", q->solve.window,
                        e->opts.max_rows - e->rows_reserved, e->opts.max_rows);
    uint32_t *tokens = DEQ_NEW_ARRAY(uint32_t, q->n_prompt + q->max_tokens);
    struct deq_kv_seq kv;
    if (!tokens)
        return deq_fail(err, DEQ_ENOMEM, "no memory for a sequence");
    rc = deq_kv_seq_take(e->kv, deq_kv_pages_needed(&e->arch, q->n_prompt + q->max_tokens, q->solve.window), &kv, err);
    if (rc) {
        deq_free(tokens);
        return rc;
    }
    memcpy(tokens, q->prompt, q->n_prompt * sizeof *tokens);
    *s = (struct sequence){.id = e->next_id++,
                           .req = *q,
                           .solver = o,
                           .kv = kv,
                           .tokens = tokens,
                           .state = s->state,
                           .n_known = q->n_prompt,
                           /* the last token generated needs no state of its own */
                           .last_position = q->n_prompt - 1 + (q->max_tokens ? q->max_tokens - 1 : 0)};
    s->req.prompt = tokens;
    memset(s->state, 0, e->cell->state_dim * sizeof(float));
    e->n_active++;
    e->rows_reserved += q->solve.window;
    if (ret_id)
        *ret_id = s->id;
    return DEQ_OK;
}

static void drop_rows(struct deq_engine *e, struct sequence *s, uint32_t from)
{
    for (uint32_t i = from; i < s->n_rows; i++)
        e->free_rows[e->n_free_rows++] = s->row[i];
    s->n_rows = DEQ_MIN(s->n_rows, from);
}

static void finish(struct deq_engine *e, struct sequence *s, enum deq_finish how, const char *message)
{
    struct deq_event end = {.kind = DEQ_EVENT_END, .id = s->id, .position = s->n_committed, .finish = how, .message = message};
    drop_rows(e, s, 0);
    deq_kv_seq_give(e->kv, &s->kv);
    deq_free(s->tokens);
    s->tokens = NULL;
    s->id = 0;
    e->n_active--;
    e->rows_reserved -= s->req.solve.window;
    s->req.event(s->req.ctx, &end);
}

enum deq_rc deq_cancel(struct deq_engine *e, uint64_t id)
{
    for (uint32_t i = 0; i < e->opts.max_sequences; i++)
        if (id && e->seqs[i].id == id) {
            finish(e, &e->seqs[i], DEQ_FINISH_CANCELED, NULL);
            return DEQ_OK;
        }
    return DEQ_ENOTFOUND;
}

size_t deq_active(const struct deq_engine *e)
{
    return e->n_active;
}

/* --- Fill --- */

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
    r->last = s->solver.max_iter == 1;
    deq_solver_restart(&r->solver);
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
        const uint32_t token = s->id ? next_token(e, s) : (uint32_t)NO_TOKEN;
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
        if (!s->id)
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

/* Which rows need logits: those that may commit in this step and whose token or logits somebody needs, and those whose guess is due. */
static void choose_head(struct deq_engine *e)
{
    e->n_head = 0;
    for (uint32_t i = 0; i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        if (!s->id)
            continue;
        bool leading = true;
        for (uint32_t k = 0; k < s->n_rows; k++) {
            struct row *r = &e->rows[s->row[k]];
            leading = leading && r->finite && (r->converged || (k == 0 && r->last));
            const bool unknown_next = r->position + 1 >= s->req.n_prompt; /* its logits pick a token */
            const bool picks = unknown_next && s->req.max_tokens;
            const bool wanted = s->req.want_prompt && (!unknown_next || !s->req.max_tokens);
            const bool guess_due = r->logits && picks && r->position < s->last_position;
            const bool need = r->finite && ((leading && (picks || wanted)) || guess_due);
            r->logits = NULL;
            if (need) {
                r->logits = e->logits + e->n_head * e->cell->vocab_size;
                e->head[e->n_head] = r;
                e->head_seq[e->n_head] = s;
                e->n_head++;
            }
        }
    }
}

static void stage_sample(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_engine *e = ctx;
    const size_t V = e->cell->vocab_size;
    for (size_t i = e->n_head * thread / n_threads; i < e->n_head * (thread + 1) / n_threads; i++) {
        struct row *r = e->head[i];
        r->guess = deq_sample(&e->head_seq[i]->req.sampling, r->logits, (uint32_t)V, r->position, e->candidates + thread * V);
    }
}

/* Commits the leading rows of s. Returns false when the sequence ended. */
static bool commit(struct deq_engine *e, struct sequence *s)
{
    uint32_t k = 0;
    while (k < s->n_rows) {
        struct row *r = &e->rows[s->row[k]];
        /* a row behind the front that hits its budget becomes `last` only once it leads */
        if (!r->finite || !(r->converged || (k == 0 && r->last)))
            break;
        const size_t p = r->position;
        struct deq_event ev = {.id = s->id,
                               .position = p,
                               .evaluations = r->evaluations,
                               .residual = r->residual,
                               .converged = r->converged};
        memcpy(s->state, r->fz, e->cell->state_dim * sizeof(float));
        s->n_committed = p + 1;
        k++;
        e->stats.positions++;
        e->stats.nonconverged += !r->converged;
        const bool picks = p + 1 == s->n_known && s->req.max_tokens;
        if (!picks) {
            ev.kind = DEQ_EVENT_PROMPT;
            ev.logits = r->logits;
            if (s->req.want_prompt)
                s->req.event(s->req.ctx, &ev);
            if (p == s->last_position) {
                finish(e, s, DEQ_FINISH_LENGTH, NULL);
                return false;
            }
            continue;
        }
        const uint32_t token = r->guess;
        s->tokens[s->n_known++] = token;
        ev.kind = DEQ_EVENT_TOKEN;
        ev.token = token;
        ev.logits = s->req.want_logits ? r->logits : NULL;
        const enum deq_verdict verdict = s->req.event(s->req.ctx, &ev);
        const bool eos = !s->req.ignore_eos && (int64_t)token == e->arch.eos_id;
        if (eos || verdict == DEQ_STOP || p == s->last_position) {
            finish(e, s, eos ? DEQ_FINISH_EOS : verdict == DEQ_STOP ? DEQ_FINISH_STOP : DEQ_FINISH_LENGTH, NULL);
            return false;
        }
        if (k < s->n_rows && e->rows[s->row[k]].token != token) {
            e->stats.restarts += s->n_rows - k;
            drop_rows(e, s, k);
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
                drop_rows(e, s, k);
                break;
            }
            if (r->restarted || r->last) {
                e->stats.numeric_errors++;
                finish(e, s, DEQ_FINISH_NUMERIC, "the state became infinite or not a number");
                return false;
            }
            memset(r->z, 0, e->cell->state_dim * sizeof(float));
            memset(r->fz, 0, e->cell->state_dim * sizeof(float));
            deq_solver_restart(&r->solver);
            r->restarted = true;
            drop_rows(e, s, 1);
            break;
        }
        if (k + 1 < s->n_rows && r->position + 1 >= s->n_known && r->guess != e->rows[s->row[k + 1]].token) {
            e->stats.restarts += s->n_rows - k - 1;
            drop_rows(e, s, k + 1);
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
                memcpy(r->z, r->best, D * sizeof(float));
                r->last = true;
                continue;
            }
        }
        deq_solver_step(&s->solver, &r->solver, D, r->z, r->fz, r->residual);
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
    choose_head(e);
    if (e->n_head) {
        for (size_t i = 0; i < e->n_head; i++)
            e->z[i] = e->head[i]->fz;
        e->cell->ops->readout(e->cell, e->n_head, e->z, e->logits);
        e->stats.head_rows += e->n_head;
        run(e, stage_sample, e->n_head * e->cell->vocab_size);
    }
    for (uint32_t i = 0; i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        if (s->id && commit(e, s))
            (void)prune(e, s);
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
    s.pages_used = e->kv->n_pages - e->kv->n_free;
    return s;
}
