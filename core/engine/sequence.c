/* The life of a sequence: how it begins, forks, goes on and ends. What it may look back at, and shares with others:
 * blocks.c. */
#include <math.h>
#include <string.h>

#include "core/base/bug.h"
#include "core/base/mem.h"
#include "core/engine/engine_impl.h"
#include "core/engine/saved.h"

static void reserve_rows(struct deq_engine *e, struct sequence *s, uint32_t n)
{
    e->rows_reserved += n - s->rows_reserved;
    s->rows_reserved = n;
    DEQ_BUG_ON(e->rows_reserved > e->opts.max_rows);
}

/* --- Begin --- */

/* Gives back what a sequence has taken. */
static void give_back(struct deq_engine *e, struct sequence *s)
{
    deq_ring_close(&e->pages, &s->ring);
    deq_allowed_close(s);
    deq_free(s->tokens);
    deq_free(s->logprob);
    deq_free(s->power.z);
    deq_free(s->residuals);
    s->tokens = NULL;
    s->id = 0;
}

/* Choice 0 reads the prompt, the others begin behind it. */
static uint32_t pages_of_choice(const struct deq_engine *e, const struct deq_request *q, uint32_t choice)
{
    const uint32_t w = q->solve.window;
    const size_t positions = deq_request_length(q) + q->max_tokens;
    return choice ? deq_pages_needed(e->cell, positions, w)
                  : deq_engine_pages_of(e->cell, &e->opts, positions, DEQ_MAX(w, q->solve.prefill_window));
}

static enum deq_rc begin(struct deq_engine *e, struct sequence *s, const struct deq_request *q,
                         const struct deq_solver_opts *o, uint32_t choice, struct deq_err *err)
{
    const size_t n = deq_request_length(q), n_state = n - q->n_prompt;
    uint32_t *tokens = DEQ_NEW_ARRAY(uint32_t, n + q->max_tokens);
    const bool keeps = q->solve.stop == DEQ_STOP_AT_KL;
    float *logprob = keeps ? DEQ_NEW_ARRAY(float, e->cell->vocab_size) : NULL;
    struct deq_ring ring;
    const enum deq_rc rc = tokens && (logprob || !keeps)
                               ? deq_ring_open(&e->pages, pages_of_choice(e, q, choice), &ring, err)
                               : deq_fail(err, DEQ_ENOMEM, "no memory for a sequence");
    if (rc) {
        deq_free(tokens);
        deq_free(logprob);
        return rc;
    }
    if (n_state)
        memcpy(tokens, q->state->tokens, n_state * sizeof *tokens);
    if (q->n_prompt)
        memcpy(tokens + n_state, q->prompt, q->n_prompt * sizeof *tokens);
    *s = (struct sequence){.id = e->next_id,
                           .choice = choice,
                           .waiting = choice > 0,
                           .req = *q,
                           .solver = *o,
                           .ring = ring,
                           .tokens = tokens,
                           .logprob = logprob,
                           .state = s->state,
                           .n_known = n,
                           .tol_max = o->tol,
                           /* the last token generated needs no state of its own */
                           .last_position = n - 1 + (q->max_tokens ? q->max_tokens - 1 : 0)};
    s->req.prompt = tokens;
    s->req.n_prompt = n;
    if (n_state) /* its positions are not those of a text that was read in one piece */
        s->req.cache = DEQ_CACHE_OFF;
    memset(s->state, 0, e->cell->state_dim * sizeof(float));
    enum deq_rc opened = deq_allowed_open(s, q, err);
    opened = opened ? opened : deq_trace_open(s, err);
    return opened ? opened : deq_jacobian_reserve(e, s, err); /* whoever called gives back what has begun */
}

/* How the rows of q are solved. */
static enum deq_rc solver_of(const struct deq_engine *e, const struct deq_request *q, struct deq_solver_opts *ret,
                             struct deq_err *err)
{
    const struct deq_solve_params *p = &q->solve;
    struct deq_solver_opts o = deq_engine_solver(&e->serving.solver, p->solver);
    o.tol = p->tol;
    o.max_iter = DEQ_MAX(p->max_iter, 1u); /* 0 evaluations: nothing of the solver is asked */
    o.min_iter = DEQ_MIN(p->min_iter, p->max_iter);
    const enum deq_rc rc = deq_solver_check(&o, err);
    if (rc)
        return rc;
    if (!(o.tol > 0) && (p->window != 1 || p->prefill_window > 1 || !deq_warm_is_fixed(p->warm_start)))
        return deq_fail(err, DEQ_EINVAL,
                        "window, prefill_window, warm_start: tol 0 asks for a fixed number of steps, which are taken "
                        "from zero or the proposal with window 1");
    o.max_iter = p->max_iter;
    *ret = o;
    return DEQ_OK;
}

/* What of its text has been solved before. */
static enum deq_rc begin_behind(struct deq_engine *e, struct sequence *s, struct deq_admission *ret,
                                struct deq_err *err)
{
    if (s->req.state) {
        ret->cached_tokens = s->req.state->n_tokens;
        deq_seq_resume(e, s, s->req.state);
        return DEQ_OK;
    }
    const enum deq_rc rc = deq_seq_take_blocks(e, s, ret);
    return rc ? deq_fail(err, rc, "no memory for a sequence") : DEQ_OK;
}

enum deq_rc deq_submit(struct deq_engine *e, const struct deq_request *q, struct deq_admission *ret,
                       struct deq_err *err)
{
    struct deq_solver_opts o = e->serving.solver;
    struct deq_admission a = {.id = e->next_id};
    const uint32_t n = DEQ_MAX(q->n, 1u);
    uint32_t begun = 0;
    enum deq_rc rc = deq_request_check(e, q, err);
    if (!rc)
        rc = solver_of(e, q, &o, err);
    const uint64_t rows = deq_window_rows(n, q->solve.window, q->solve.prefill_window);
    if (!rc && rows > e->opts.max_rows)
        rc = deq_fail(err, DEQ_EINVAL, "window: %u choices with windows of %u rows exceed max_rows %u", n,
                      q->solve.window, e->opts.max_rows);
    if (rc)
        return rc;
    const uint64_t pages = pages_of_choice(e, q, 0) + (uint64_t)(n - 1) * pages_of_choice(e, q, 1);
    if (pages > e->pages.n_pages)
        return deq_fail(err, DEQ_EINVAL, "n: %u choices need %llu cache pages, there are %u", n,
                        (unsigned long long)pages, e->pages.n_pages);
    if (n > e->opts.max_sequences - e->n_active)
        return deq_fail(err, DEQ_EFULL, "%u sequences are needed, %zu of %u are taken", n, e->n_active,
                        e->opts.max_sequences);
    if (pages > e->pages.n_pages - e->pages.n_reserved)
        return deq_fail(err, DEQ_EFULL, "%llu cache pages are needed, %u of %u are not reserved",
                        (unsigned long long)pages, e->pages.n_pages - e->pages.n_reserved, e->pages.n_pages);
    if (rows > e->opts.max_rows - e->rows_reserved)
        return deq_fail(err, DEQ_EFULL, "%llu rows are needed, %u of %u are free", (unsigned long long)rows,
                        e->opts.max_rows - e->rows_reserved, e->opts.max_rows);
    for (uint32_t i = 0; i < e->opts.max_sequences && begun < n && !rc; i++) {
        struct sequence *s = &e->seqs[i];
        if (s->id)
            continue;
        rc = begin(e, s, q, &o, begun, err);
        if (!rc && !begun++)
            rc = begin_behind(e, s, &a, err);
    }
    if (rc) {
        for (uint32_t i = 0; i < e->opts.max_sequences; i++)
            if (e->seqs[i].id == e->next_id)
                give_back(e, &e->seqs[i]);
        return rc;
    }
    for (uint32_t i = 0; i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        if (s->id != e->next_id)
            continue;
        s->req.cache_salt = NULL; /* borrowed until now; the keys hold it, */
        s->req.state = NULL;      /* and the pages that */
        /* the choices that wait lend choice 0 their rows */
        reserve_rows(e, s, s->choice ? q->solve.window : (uint32_t)rows - (n - 1) * q->solve.window);
    }
    e->next_id++;
    e->n_active += n;
    if (ret)
        *ret = a;
    return DEQ_OK;
}

void deq_seq_fork(struct deq_engine *e, const struct sequence *from)
{
    const size_t P = e->cell->page_tok, back = e->cell->lookback, end = from->n_committed,
                 lo = end > back ? end - back : 0;
    for (uint32_t i = 0; i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        if (s->id != from->id || !s->waiting)
            continue;
        for (size_t page = lo / P; page * P < end; page++)
            deq_ring_share(&e->pages, &s->ring, page, deq_page_of(&from->ring, page));
        memcpy(s->state, from->state, e->cell->state_dim * sizeof(float));
        s->n_committed = s->n_explicit = end;
        s->approximate = from->approximate;
        s->reached = s->prompt_reached = from->reached;
        s->key_exact = from->key_exact;
        s->key_approximate = from->key_approximate;
        s->step = from->step;
        s->tol_max = from->tol_max;
    }
}

/* --- Middle --- */

void deq_seq_committed(struct deq_engine *e, struct sequence *s, const struct deq_event *ev, const float *state)
{
    const size_t end = ev->position + 1;
    DEQ_BUG_ON(ev->position != s->n_committed || end > s->n_known);
    memcpy(s->state, state, e->cell->state_dim * sizeof(float));
    s->n_committed = end;
    s->reached.residual_max = fmaxf(s->reached.residual_max, ev->residual);
    s->reached.missed = s->reached.missed || !ev->converged;
    const bool of_text = end > s->req.n_prompt;
    s->tol_max = fmaxf(s->tol_max, of_text ? s->solver.tol : 0);
    if (end <= s->req.n_prompt)
        s->prompt_reached = s->reached;
    if (end == s->req.n_prompt)
        reserve_rows(e, s, s->req.solve.window);
    if (end == s->req.n_prompt && s->req.keep && !s->expired)
        deq_seq_keep(e, s, s->req.keep);
    /* a deadline, or another tolerance, commits what no other request would */
    if (end % e->opts.prefill_block == 0 && s->req.cache != DEQ_CACHE_OFF && !s->expired && !(of_text && s->other_tol))
        deq_seq_keep_block(e, s, state);
}

uint32_t deq_seq_sample(struct deq_engine *e, const struct sequence *s, const struct row *r, const float *logits,
                        unsigned thread, uint32_t *ret_need)
{
    struct deq_sample_scratch *scratch = &e->scratch[thread];
    const uint32_t V = (uint32_t)e->cell->vocab_size;
    const size_t position = r->position;
    const float *const as_read = logits;
    if (e->cell->n_tails && !r->allowed && !deq_sample_needs_full(&s->req.sampling)) {
        const struct deq_tails t = {.vocab = &e->vocab, .logprob = r->tails, .known = r->known};
        return deq_sample_clusters(&s->req.sampling, &t, logits, s->choice, position, scratch, ret_need);
    }
    if (deq_sample_adjusts(&s->req.sampling)) {
        uint32_t guessed[DEQ_ROW_WINDOW_MAX];
        const size_t begin = s->req.n_prompt, known = DEQ_MIN(s->n_known, position + 1);
        size_t n_guessed = 0;
        /* rows of the window, whose tokens are guesses: they stand in it from n_committed on */
        for (size_t p = known; p <= position; p++)
            guessed[n_guessed++] = e->rows[s->row[p - s->n_committed]].token;
        const struct deq_sample_history h = {.prompt = s->tokens,
                                             .n_prompt = begin,
                                             .text = s->tokens + begin,
                                             .n_text = known > begin ? known - begin : 0,
                                             .guessed = guessed,
                                             .n_guessed = n_guessed,
                                             .eos_id = e->vocab.eos_id};
        deq_sample_adjust(&s->req.sampling, &h, logits, V, scratch);
        logits = scratch->adjusted;
    }
    return r->allowed ? deq_allowed_pick(s, r, as_read, logits, V, scratch)
                      : deq_sample(&s->req.sampling, logits, V, s->choice, position, scratch);
}

void deq_seq_drop_rows(struct deq_engine *e, struct sequence *s, uint32_t from, enum deq_fate why)
{
    if (from >= s->n_rows)
        return;
    /* other tokens may take the places of those behind the prompt */
    s->n_explicit = DEQ_MIN(s->n_explicit, DEQ_MAX(e->rows[s->row[from]].position, s->req.n_prompt));
    for (uint32_t i = from; i < s->n_rows; i++) {
        deq_trace_dropped(s, &e->rows[s->row[i]], why);
        if (DEQ_BUG_ON(e->n_free_rows >= e->opts.max_rows))
            break;
        e->free_rows[e->n_free_rows++] = s->row[i];
    }
    s->n_rows = from;
}

enum deq_rc deq_pause(struct deq_engine *e, uint64_t id, bool paused)
{
    enum deq_rc rc = DEQ_ENOTFOUND;
    for (uint32_t i = 0; id && i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        if (s->id != id)
            continue;
        if (paused != s->paused)
            e->n_paused += paused ? 1 : (size_t)-1;
        s->paused = paused;
        rc = DEQ_OK;
    }
    return rc;
}

enum deq_rc deq_set_tol(struct deq_engine *e, uint64_t id, float tol)
{
    enum deq_rc rc = DEQ_ENOTFOUND;
    for (uint32_t i = 0; id && i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        if (s->id != id)
            continue;
        if (!(tol > 0) || !isfinite(tol) || !(s->req.solve.tol > 0) || s->req.solve.stop == DEQ_STOP_AT_ARGMAX)
            return DEQ_EINVAL;
        s->solver.tol = tol;
        s->other_tol = s->other_tol || tol != s->req.solve.tol;
        rc = DEQ_OK;
    }
    return rc;
}

/* --- End --- */

const char *deq_finish_name(enum deq_finish f)
{
    static const char *const names[] = {[DEQ_FINISH_LENGTH] = "length",
                                        [DEQ_FINISH_EOS] = "stop",
                                        [DEQ_FINISH_STOP] = "stop",
                                        [DEQ_FINISH_CANCELED] = "cancelled",
                                        [DEQ_FINISH_NUMERIC] = "numeric_error",
                                        [DEQ_FINISH_DEADLINE] = "deadline",
                                        [DEQ_FINISH_BUDGET] = "budget"};
    _Static_assert(DEQ_COUNT(names) == DEQ_FINISH_COUNT, "a name for each end");
    return names[f];
}

void deq_seq_finish(struct deq_engine *e, struct sequence *s, enum deq_finish how, const char *message)
{
    struct deq_event end = {.kind = DEQ_EVENT_END,
                            .id = s->id,
                            .choice = s->choice,
                            .position = s->n_committed,
                            .finish = how,
                            .message = message,
                            .prompt_evaluations = s->prompt_evaluations,
                            .prompt_positions = s->prompt_positions,
                            .text_evaluations = s->text_evaluations,
                            .prompt_residual_max = s->solver.max_iter ? s->prompt_reached.residual_max : NAN,
                            .prompt_converged = !s->prompt_reached.missed,
                            .tol_max = s->tol_max};
    const bool leads = s->choice == 0;
    if (DEQ_BUG_ON(!s->id || !e->n_active)) /* each choice ends once */
        return;
    deq_seq_drop_rows(e, s, 0, DEQ_ROW_LEFT_OPEN);
    give_back(e, s);
    e->n_active--;
    e->n_paused -= s->paused;
    reserve_rows(e, s, 0);
    s->req.event(s->req.ctx, &end);
    /* choices that wait for a prompt that nobody solves any more */
    for (uint32_t i = 0; leads && i < e->opts.max_sequences; i++)
        if (e->seqs[i].id == end.id && e->seqs[i].waiting)
            deq_seq_finish(e, &e->seqs[i], how, message);
}

enum deq_rc deq_cancel(struct deq_engine *e, uint64_t id)
{
    enum deq_rc rc = DEQ_ENOTFOUND;
    for (uint32_t i = 0; id && i < e->opts.max_sequences; i++)
        if (e->seqs[i].id == id) {
            deq_seq_finish(e, &e->seqs[i], DEQ_FINISH_CANCELED, NULL);
            rc = DEQ_OK;
        }
    return rc;
}

enum deq_rc deq_expire(struct deq_engine *e, uint64_t id)
{
    enum deq_rc rc = DEQ_ENOTFOUND;
    for (uint32_t i = 0; id && i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        if (s->id != id)
            continue;
        rc = DEQ_OK;
        s->expired = true;
        /* choices that wait end with their leader */
        if (!s->waiting && (s->paused || s->n_committed + 1 < s->req.n_prompt || !s->req.max_tokens))
            deq_seq_finish(e, s, DEQ_FINISH_DEADLINE, NULL);
    }
    return rc;
}

size_t deq_active(const struct deq_engine *e)
{
    return e->n_active;
}

bool deq_runnable(const struct deq_engine *e)
{
    return e->n_active > e->n_paused;
}
