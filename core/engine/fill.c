/* What enters: the layers before the loop, ahead of the windows, and the rows themselves with their starts. */
#include <math.h>
#include <string.h>

#include "core/engine/engine_impl.h"

/* --- Layers before the loop --- */

/* What one call of them takes: positions that stand in the engine's arrays, in order within each sequence. */
static void put_position(struct deq_engine *e, size_t n, struct sequence *s, uint32_t token)
{
    deq_seq_make_writable(e, s, s->n_explicit);
    e->position[n] = s->n_explicit++;
    e->ring[n] = &s->ring;
    e->new_tokens[n] = token;
}

static void run_explicit(struct deq_engine *e, size_t n)
{
    const struct deq_rows rows = {.n = n, .position = e->position, .ring = e->ring};
    if (n)
        e->cell->ops->explicit(e->cell, &rows, e->new_tokens);
    e->stats.explicit_rows += n;
}

/* Position behind the block of the prompt that is being read. */
static size_t block_end(const struct deq_engine *e, const struct sequence *s)
{
    const size_t block = e->opts.prefill_block;
    return DEQ_MIN((s->n_committed / block + 1) * block, s->req.n_prompt);
}

static bool is_prefill(const struct sequence *s)
{
    return s->n_committed < s->req.n_prompt;
}

void deq_fill_ahead(struct deq_engine *e)
{
    size_t n = 0;
    for (uint32_t i = 0; i < e->opts.max_sequences && e->cell->ops->explicit; i++) {
        struct sequence *s = &e->seqs[i];
        if (!deq_seq_in_step(s) || !is_prefill(s))
            continue;
        for (const size_t end = block_end(e, s); s->n_explicit < end && n < e->opts.max_rows; n++)
            put_position(e, n, s, s->tokens[s->n_explicit]);
    }
    run_explicit(e, n);
}

/* --- Rows --- */

/* The token of the next row on the right, or NO_TOKEN when none may enter now. entered: rounds before
 * this one in the step. */
static uint32_t next_token(const struct deq_engine *e, const struct sequence *s, uint32_t entered)
{
    const struct deq_solve_params *q = &s->req.solve;
    const size_t p = s->n_committed + s->n_rows;
    const bool prefill = is_prefill(s);
    if (s->n_rows == (prefill ? deq_prefill_window(q->window, q->prefill_window) : q->window) || p > s->last_position)
        return NO_TOKEN;
    if (prefill) {
        const size_t end = block_end(e, s);
        if (entered >= deq_prefill_pace(q->window, q->prefill_window))
            return NO_TOKEN;
        /* whole blocks of a prompt do not depend on what follows: drain at their ends; at its end too, so that every
         * choice begins at the same place. A block whose layers before the loop are not through yet waits whole */
        return p < end && (!e->cell->ops->explicit || s->n_explicit >= end) ? s->tokens[p] : (uint32_t)NO_TOKEN;
    }
    if (p < s->n_known)
        return s->tokens[p];
    return s->n_rows ? e->rows[s->row[s->n_rows - 1]].guess : NO_TOKEN;
}

static struct row *enter(struct deq_engine *e, struct sequence *s, uint32_t token)
{
    const uint32_t slot = e->free_rows[--e->n_free_rows];
    const enum deq_warm warm = s->req.solve.warm_start;
    struct row *r = &e->rows[slot];
    r->position = s->n_committed + s->n_rows;
    r->token = token;
    r->guess = NO_TOKEN;
    r->evaluations = r->lead = 0;
    r->residual = r->best_residual = INFINITY;
    r->finite = true;
    r->converged = r->restarted = r->guess_due = r->remembers = false;
    r->start_cached = s->from_cache && !deq_warm_is_fixed(warm);
    r->given = s->given;
    s->from_cache = s->given = false;
    deq_trace_enter(e, s, r);
    if (r->position >= s->req.n_prompt)
        (void)deq_allowed_take(s, r->position, token);
    e->stats.starts[warm]++;
    e->stats.starts_cached += r->start_cached;
    r->last = deq_row_next_is_last(s, r);
    deq_solver_restart(&r->solver);
    deq_seq_make_writable(e, s, r->position);
    s->row[s->n_rows++] = slot;
    return r;
}

/* Where the n rows begin that have just entered: injected, new_rows, new_seq; prev: the states before them. */
static void start(struct deq_engine *e, size_t n)
{
    const size_t bytes = e->cell->state_dim * sizeof(float);
    size_t n_predict = 0, n_propose = 0;
    for (size_t i = 0; i < n; i++) {
        struct row *r = e->new_rows[i];
        if (r->given) {
            memcpy(r->z, e->prev[i], bytes);
            continue;
        }
        switch (e->new_seq[i]->req.solve.warm_start) {
        case DEQ_WARM_PREVIOUS: memcpy(r->z, e->prev[i], bytes); break;
        case DEQ_WARM_PREDICTOR:
            e->prev[n_predict] = e->prev[i];
            e->new_tokens[n_predict] = e->new_tokens[i];
            e->u_out[n_predict++] = r->z;
            break;
        case DEQ_WARM_PROPOSAL:
            e->position[n_propose] = e->position[i];
            e->ring[n_propose] = e->ring[i];
            e->fz[n_propose++] = r->z;
            break;
        default: memset(r->z, 0, bytes);
        }
    }
    const struct deq_rows rows = {.n = n_propose, .position = e->position, .ring = e->ring};
    if (n_predict)
        e->cell->ops->predict(e->cell, n_predict, e->new_tokens, e->prev, e->u_out);
    if (n_propose)
        e->cell->ops->start(e->cell, &rows, e->fz);
}

/* Generated tokens and guesses that enter in this round are the first to need the layers before the loop. */
static void read_entrants(struct deq_engine *e, uint32_t entered)
{
    size_t n = 0;
    for (uint32_t i = 0; i < e->opts.max_sequences && e->cell->ops->explicit; i++) {
        struct sequence *s = &e->seqs[i];
        const uint32_t token = deq_seq_in_step(s) ? next_token(e, s, entered) : (uint32_t)NO_TOKEN;
        if (token != NO_TOKEN && s->n_explicit == s->n_committed + s->n_rows)
            put_position(e, n++, s, token);
    }
    run_explicit(e, n);
}

/* A round at a time, because a start is predicted from the state before it, which may itself just have been predicted.
 */
size_t deq_fill_round(struct deq_engine *e, uint32_t entered)
{
    size_t n = 0;
    read_entrants(e, entered);
    for (uint32_t i = 0; i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        const uint32_t token = deq_seq_in_step(s) ? next_token(e, s, entered) : (uint32_t)NO_TOKEN;
        if (token == NO_TOKEN)
            continue;
        struct row *r = enter(e, s, token);
        e->u_out[n] = r->u;
        e->position[n] = r->position;
        e->ring[n] = &s->ring;
        e->new_tokens[n] = token;
        e->new_rows[n] = r;
        e->new_seq[n] = s;
        e->prev[n++] = s->n_rows > 1 ? e->rows[s->row[s->n_rows - 2]].z : s->state;
    }
    const struct deq_rows rows = {.n = n, .position = e->position, .ring = e->ring};
    if (n)
        e->cell->ops->inject(e->cell, &rows, e->new_tokens, e->u_out);
    start(e, n);
    return n;
}
