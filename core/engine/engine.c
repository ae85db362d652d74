/* The step: what enters, what is evaluated, what is final, what goes on (engine.h has the idea). */
#include "core/base/bug.h"
#include "core/engine/engine_impl.h"

#include <math.h>
#include <string.h>

#include "core/math/kern.h"

enum { GUESS_EVALUATIONS = 2 }; /* a row's guess is renewed at its first evaluations and when it converges */

/* Behind the front, row k of s has had as many evaluations as a position may have: it is not evaluated again until it
 * leads. Else a front that does not converge would have the whole window evaluated for as long as each of its rows may
 * take. What it converged to is another state's by then. */
static bool rests(const struct sequence *s, uint32_t k, struct row *r)
{
    if (!k || r->evaluations < s->solver.max_iter)
        return false;
    r->converged = false;
    r->logits = NULL;
    return true;
}

/* Rows that are evaluated, or those that answer from their starts. */
static void gather_of(struct deq_engine *e, bool evaluate)
{
    for (uint32_t i = 0; i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        for (uint32_t k = 0; deq_seq_in_step(s) && k < s->n_rows; k++) {
            struct row *r = &e->rows[s->row[k]];
            if (deq_row_is_given(s, r) == evaluate || (evaluate && rests(s, k, r)))
                continue;
            const size_t b = e->n_batch++;
            e->batch[b] = r;
            e->batch_seq[b] = s;
            e->z[b] = r->z;
            e->fz[b] = r->fz;
            e->u_in[b] = r->u;
            e->position[b] = r->position;
            e->ring[b] = &s->ring;
            r->logits = NULL;
        }
    }
}

static void gather(struct deq_engine *e)
{
    e->n_batch = 0;
    gather_of(e, true);
    e->n_evaluated = e->n_batch;
    gather_of(e, false);
}

/* --- After the evaluation --- */

/* The start is the state, and all that was asked for. */
static void take_start(const struct deq_engine *e, struct row *r)
{
    const size_t D = e->cell->state_dim;
    memcpy(r->fz, r->z, D * sizeof(float));
    r->residual = NAN;
    r->finite = r->converged = r->guess_due = isfinite(deq_kern()->dot(r->z, r->z, D));
}

static void stage_residual(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_engine *e = ctx;
    for (size_t b = e->n_batch * thread / n_threads; b < e->n_batch * (thread + 1) / n_threads; b++) {
        struct row *r = e->batch[b];
        const struct deq_solver_opts *o = &e->batch_seq[b]->solver;
        const bool was = r->converged;
        if (b >= e->n_evaluated) {
            take_start(e, r);
            continue;
        }
        if (deq_jacobian_begun(e->batch_seq[b], r)) {
            deq_jacobian_advance(e, e->batch_seq[b], r);
            continue;
        }
        r->residual = deq_solver_residual(o, e->cell->state_dim, r->z, r->fz);
        r->finite = isfinite(r->residual);
        r->evaluations++;
        deq_trace_residual(r);
        r->converged = r->finite && deq_rule_rests(e, e->batch_seq[b], r) && r->evaluations >= o->min_iter;
        /* the guess is due: early, and at the evaluation that converges */
        if (r->evaluations > GUESS_EVALUATIONS && !(r->converged && !was))
            continue;
        r->guess = r->finite ? r->guess : (uint32_t)NO_TOKEN;
        r->guess_due = r->finite;
    }
}

/* `token` follows the last committed position. ev has what is known of that position. Returns
 * false when the sequence ended. */
static bool take_token(struct deq_engine *e, struct sequence *s, uint32_t token, struct deq_event ev)
{
    s->tokens[s->n_known++] = token;
    ev.kind = DEQ_EVENT_TOKEN;
    ev.choice = s->choice;
    ev.token = token;
    const enum deq_verdict verdict = s->req.event(s->req.ctx, &ev);
    const bool open = deq_allowed_take(s, ev.position + 1, token), full = ev.position == s->last_position;
    const bool eos = !open || (!s->req.ignore_eos && (int64_t)token == e->vocab.eos_id);
    const bool spent = s->req.solve.max_evaluations && s->text_evaluations >= s->req.solve.max_evaluations;
    if (!eos && verdict != DEQ_STOP && !full && !spent && !s->expired)
        return true;
    const enum deq_finish why = eos                   ? DEQ_FINISH_EOS
                                : verdict == DEQ_STOP ? DEQ_FINISH_STOP
                                : full                ? DEQ_FINISH_LENGTH
                                : spent               ? DEQ_FINISH_BUDGET
                                                      : DEQ_FINISH_DEADLINE;
    deq_seq_finish(e, s, why, NULL);
    return false;
}

/* The prompt of s is solved: its further choices begin, each with a token of its own from the same logits. */
static void begin_choices(struct deq_engine *e, const struct sequence *leader, const struct row *r,
                          const struct deq_event *ev)
{
    deq_seq_fork(e, leader);
    for (uint32_t i = 0; i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        if (s->id == leader->id && s->waiting) {
            s->waiting = false;
            (void)take_token(e, s, deq_seq_sample(e, s, r, r->logits, 0, NULL), *ev);
        }
    }
}

/* Row k of s, all before it committing, has the state that it will have. */
static bool has_ended(const struct deq_engine *e, const struct sequence *s, uint32_t k)
{
    const struct row *r = &e->rows[s->row[k]];
    /* a row behind the front that hits its budget becomes `last` only once it leads */
    return r->finite && (r->converged || (k == 0 && deq_row_must_commit(s, r)));
}

/* ... and nothing else is asked of it: it is final now. */
static bool is_final(const struct deq_engine *e, const struct sequence *s, uint32_t k)
{
    return has_ended(e, s, k) && !deq_jacobian_open(s, &e->rows[s->row[k]]);
}

/* Tells the cell what this step makes final, of sequences from..to-1: rows from the front on, until one whose token is
 * not what the row before picked. A receiver may end its sequence earlier; then nobody reads the rest. */
static void tell_final(struct deq_engine *e, uint32_t from, uint32_t to)
{
    size_t n = 0;
    if (!e->cell->ops->commit)
        return;
    for (uint32_t i = from; i < to; i++) {
        const struct sequence *s = &e->seqs[i];
        for (uint32_t k = 0; deq_seq_in_step(s) && k < s->n_rows && is_final(e, s, k); k++) {
            const struct row *r = &e->rows[s->row[k]], *before = k ? &e->rows[s->row[k - 1]] : NULL;
            if (before && r->position >= s->n_known && before->guess != r->token)
                break;
            e->z[n] = r->z;
            e->fz[n] = r->fz;
            e->u_in[n] = r->u;
            e->position[n] = r->position;
            e->ring[n++] = &s->ring;
        }
    }
    const struct deq_rows rows =
        {.n = n, .z = e->z, .fz = e->fz, .u = e->u_in, .position = e->position, .ring = e->ring};
    if (n)
        e->cell->ops->commit(e->cell, &rows);
}

static bool shows_state(const struct sequence *s, size_t position)
{
    return s->req.states == DEQ_STATES_ALL || (s->req.states == DEQ_STATES_LAST && position + 1 == s->req.n_prompt);
}

/* Commits the leading rows of s. Returns false when the sequence ended. */
static bool commit(struct deq_engine *e, struct sequence *s)
{
    uint32_t k = 0;
    while (k < s->n_rows) {
        struct row *r = &e->rows[s->row[k]];
        if (!is_final(e, s, k)) {
            if (has_ended(e, s, k))
                deq_jacobian_begin(e, s, r);
            break;
        }
        const size_t p = r->position;
        /* a fixed number of steps was taken, that was all that was asked */
        const bool done = r->converged || (!(s->solver.tol > 0) && r->evaluations >= s->solver.max_iter);
        struct deq_event ev = {.id = s->id,
                               .position = p,
                               .state = r->fz,
                               .evaluations = r->evaluations,
                               .residual = r->residual,
                               .converged = done,
                               .start = s->req.solve.warm_start,
                               .start_cached = r->start_cached};
        k++;
        deq_seq_committed(e, s, &ev, r->fz);
        if (p < s->req.n_prompt && !r->given) {
            s->prompt_positions++;
            s->prompt_evaluations += r->evaluations;
        } else if (p >= s->req.n_prompt) {
            s->text_evaluations += r->evaluations;
        }
        e->stats.positions++;
        e->stats.nonconverged += !done;
        const bool picks = p + 1 == s->n_known && s->req.max_tokens;
        if (!picks) {
            ev.kind = DEQ_EVENT_PROMPT;
            ev.logits = s->req.want_prompt ? r->logits : NULL;
            ev.spectral_radius = deq_jacobian_radius(s);
            if (s->req.want_prompt || shows_state(s, p))
                s->req.event(s->req.ctx, &ev);
            if (p == s->last_position) {
                deq_seq_finish(e, s, DEQ_FINISH_LENGTH, NULL);
                return false;
            }
            continue;
        }
        const uint32_t token = r->guess;
        const bool guessed = k < s->n_rows && e->rows[s->row[k]].token == token;
        struct deq_trace trace;
        ev.logits = s->req.want_logits ? r->logits : NULL;
        ev.trace = deq_trace_of(s, r, DEQ_ROW_COMMITTED, &trace) ? &trace : NULL;
        trace.guessed = guessed;
        if (p + 1 == s->req.n_prompt && s->req.n > 1)
            begin_choices(e, s, r, &ev);
        if (!take_token(e, s, token, ev))
            return false;
        if (k < s->n_rows && !guessed) {
            e->stats.restarts += s->n_rows - k;
            deq_seq_drop_rows(e, s, k, DEQ_ROW_MISGUESSED);
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
        r->last = deq_row_next_is_last(s, r);
    }
    return true;
}

/* Drops rows whose guess changed or that became NaN; the front's NaN goes back once, to its best iterate or else to
 * zero, then it ends the sequence. Returns false when it ended. */
static bool prune(struct deq_engine *e, struct sequence *s)
{
    for (uint32_t k = 0; k < s->n_rows; k++) {
        struct row *r = &e->rows[s->row[k]];
        if (!r->finite) {
            if (k) {
                deq_seq_drop_rows(e, s, k, DEQ_ROW_NOT_FINITE);
                break;
            }
            if (r->restarted || deq_row_is_given(s, r)) {
                e->stats.numeric_errors++;
                deq_seq_finish(e, s, DEQ_FINISH_NUMERIC, "the state became infinite or not a number");
                return false;
            }
            if (isfinite(r->best_residual))
                memcpy(r->z, r->best, e->cell->state_dim * sizeof(float));
            else
                memset(r->z, 0, e->cell->state_dim * sizeof(float));
            deq_solver_restart(&r->solver);
            r->restarted = true;
            deq_seq_drop_rows(e, s, 1, DEQ_ROW_NOT_FINITE);
            break;
        }
        if (k + 1 < s->n_rows && r->position + 1 >= s->n_known && r->guess != e->rows[s->row[k + 1]].token) {
            e->stats.restarts += s->n_rows - k - 1;
            deq_seq_drop_rows(e, s, k + 1, DEQ_ROW_MISGUESSED);
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
        if (r->position < s->n_committed || !r->finite || deq_jacobian_begun(s, r))
            continue;
        if (r->position == s->n_committed) { /* it leads: f is fixed now, so an old iterate stays comparable */
            r->lead++;
            const bool best = r->residual < r->best_residual;
            if (best) {
                r->best_residual = r->residual;
                memcpy(r->best, r->z, D * sizeof(float));
            }
            r->last = deq_row_next_is_last(s, r);
            if (r->last && !best && s->solver.tol > 0) { /* a fixed number of steps takes them as they come */
                memcpy(r->z, r->best, D * sizeof(float));
                continue;
            }
        }
        deq_solver_step(&s->solver, &r->solver, D, r->z, r->fz, r->residual);
    }
}

void deq_step(struct deq_engine *e)
{
    if (!e->n_active)
        return;
    deq_fill_ahead(e);
    for (uint32_t entered = 0; deq_fill_round(e, entered); entered++)
        ;
    gather(e);
    if (!e->n_batch)
        return;
    deq_trace_step(e);
    const struct deq_rows rows =
        {.n = e->n_evaluated, .z = e->z, .fz = e->fz, .u = e->u_in, .position = e->position, .ring = e->ring};
    if (rows.n)
        e->cell->ops->step(e->cell, &rows);
    DEQ_BUG_ON(e->n_batch > e->opts.max_rows || e->n_evaluated > e->n_batch);
    e->stats.steps += rows.n > 0;
    e->stats.rows += rows.n;
    deq_pool_stage(e->pool, stage_residual, e, 2 * e->n_batch * e->cell->state_dim);
    for (uint32_t from = 0, to; from < e->opts.max_sequences; from = to) {
        to = deq_readout_choose(e, from);
        deq_readout_run(e);
        deq_rule_judge(e);
        tell_final(e, from, to);
        for (uint32_t i = from; i < to; i++) {
            struct sequence *s = &e->seqs[i];
            /* a choice that began in this step has no row in it yet */
            if (deq_seq_in_step(s) && s->n_rows && commit(e, s))
                (void)prune(e, s);
        }
    }
    /* only rows that are still open are stepped */
    gather(e);
    deq_pool_stage(e->pool, stage_solve, e, 8 * e->n_batch * e->cell->state_dim);
}

uint32_t deq_engine_max_positions(const struct deq_engine *e)
{
    return e->opts.max_positions;
}

struct deq_engine_stats deq_engine_stats(const struct deq_engine *e)
{
    struct deq_engine_stats s = e->stats;
    s.sequences = e->n_active;
    s.rows_open = e->opts.max_rows - e->n_free_rows;
    s.rows_reserved = e->rows_reserved;
    const struct deq_prefix_stats p = deq_prefix_stats(&e->prefix);
    s.pages_used = e->pages.n_held;
    s.pages_reserved = e->pages.n_reserved;
    s.prefix_entries = p.entries;
    s.prefix_bytes = p.bytes;
    s.prefix_evictions = p.evictions;
    return s;
}
