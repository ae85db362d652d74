/* From states to picks: which rows need logits in a step, their logits, the token that each would pick now. */
#include <string.h>

#include "core/engine/engine_impl.h"

/* Somebody sees the whole distribution at row r if it is final. Choices that begin here pick from it too. */
static bool shows_distribution(const struct sequence *s, const struct row *r)
{
    const bool begins = s->req.n > 1 && r->position + 1 == s->req.n_prompt;
    return s->req.want_logits || s->req.want_prompt || begins;
}

/* The rule that r stops by looks at more than the word that is picked. */
static bool rule_reads_all(const struct sequence *s)
{
    const enum deq_stop_rule rule = s->req.solve.stop;
    return rule == DEQ_STOP_AT_KL || (rule == DEQ_STOP_AT_ARGMAX && !deq_sample_is_argmax(&s->req.sampling));
}

static bool needs_full_distribution(const struct sequence *s, const struct row *r)
{
    return shows_distribution(s, r) || rule_reads_all(s) || s->form || deq_sample_needs_full(&s->req.sampling);
}

static void put_coda(struct deq_engine *e, const struct sequence *s, const struct row *r)
{
    const size_t n = e->n_coda++;
    e->z[n] = r->fz;
    e->u_in[n] = r->u;
    e->y[n] = r->y;
    e->position[n] = r->position;
    e->ring[n] = &s->ring;
}

static void run_coda(struct deq_engine *e)
{
    const struct deq_rows rows = {.n = e->n_coda, .z = e->z, .u = e->u_in, .position = e->position, .ring = e->ring};
    if (e->n_coda)
        e->cell->ops->coda(e->cell, &rows, e->y);
    e->stats.coda_rows += e->n_coda;
}

/* Which rows need logits: those that may commit in this step and whose token or logits somebody needs, and those whose
 * guess is due. Of the sequences from `from` on, as many as there is room for; returns the one behind them. */
uint32_t deq_readout_choose(struct deq_engine *e, uint32_t from)
{
    uint32_t i = from;
    e->n_head = e->n_coda = e->n_judged = 0;
    for (; i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        if (!deq_seq_in_step(s))
            continue;
        if (e->n_head + s->n_rows > e->head_max)
            break;
        const bool judged = deq_stop_reads(s->req.solve.stop) && s->n_rows && !s->power.begun &&
                            !deq_row_is_given(s, &e->rows[s->row[0]]);
        bool leading = true, finite = true;
        uint32_t through = 0; /* rows that the layers behind the loop are needed of */
        for (uint32_t k = 0; k < s->n_rows; k++) {
            struct row *r = &e->rows[s->row[k]];
            finite = finite && r->finite; /* rows behind one that is not are dropped */
            leading = leading && finite && (judged || (!deq_jacobian_open(s, r) && (r->converged ||
                                                       (k == 0 && deq_row_must_commit(s, r)))));
            const bool unknown_next = r->position + 1 >= s->req.n_prompt; /* its logits pick a token */
            const bool picks = unknown_next && s->req.max_tokens && deq_allowed_any(s, r->position);
            const bool wanted = s->req.want_prompt && (!unknown_next || !s->req.max_tokens);
            /* nobody enters behind the only row of a window */
            const bool guess_due = r->guess_due && picks && s->req.solve.window > 1 &&
                                   r->position >= s->req.n_prompt && r->position < s->last_position;
            const bool need = finite && ((leading && (picks || wanted || judged)) || guess_due);
            r->guess_due = false;
            if (need || leading)
                through = k + 1;
            if (need && judged) {
                e->judged[e->n_judged] = r;
                e->judged_seq[e->n_judged++] = s;
            }
            if (need) {
                r->exact = leading && (shows_distribution(s, r) || rule_reads_all(s) ||
                                       !deq_sample_is_argmax(&s->req.sampling));
                e->head[e->n_head] = r;
                e->head_seq[e->n_head] = s;
                e->n_head++;
            }
        }
        for (uint32_t k = 0; k < through && e->cell->ops->coda; k++)
            put_coda(e, s, &e->rows[s->row[k]]);
    }
    return i;
}

/* --- Picks without the whole product --- */

/* Where the logits of head row i stand, or will. */
static float *logits_at(const struct deq_engine *e, size_t i)
{
    const size_t at = e->remember ? (size_t)(e->head[i] - e->rows) : i;
    return e->logits + at * e->cell->vocab_size;
}

/* The most probable words of the first n_quick rows, of which logits are known; e->remember. */
static void stage_near(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_engine *e = ctx;
    for DEQ_ROWS_OF (thread, n_threads, e->n_quick) {
        struct row *row = e->head[r];
        const struct deq_known known = {row->seen, logits_at(e, r), row->rounded, row->guess, row->allowed};
        row->guess = e->cell->ops->best_near(e->cell, thread, row->y, &known);
    }
}

/* What the first n_quick rows would pick, of which rounded logits are there. */
static void stage_screened(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_engine *e = ctx;
    for DEQ_ROWS_OF (thread, n_threads, e->n_quick) {
        struct row *row = e->head[r];
        const struct deq_known known = {row->y, logits_at(e, r), true, NO_TOKEN, row->allowed};
        if (deq_sample_is_argmax(&e->head_seq[r]->req.sampling))
            row->guess = e->cell->ops->best_near(e->cell, thread, row->y, &known);
        else
            row->guess = deq_seq_sample(e, e->head_seq[r], row, known.logits, thread, NULL);
    }
}

/* The n_quick rows come first that `quick` holds for. */
static void bring_forward(struct deq_engine *e, bool (*quick)(const struct deq_engine *e, const struct sequence *s,
                                                              const struct row *r))
{
    e->n_quick = 0;
    for (size_t i = 0; i < e->n_head; i++) {
        struct row *r = e->head[i];
        struct sequence *s = e->head_seq[i];
        if (!quick(e, s, r))
            continue;
        e->head[i] = e->head[e->n_quick];
        e->head_seq[i] = e->head_seq[e->n_quick];
        e->head[e->n_quick] = r;
        e->head_seq[e->n_quick++] = s;
    }
}

/* Those of them that have a pick now are done with. */
static void drop_picked(struct deq_engine *e)
{
    size_t left = 0;
    for (size_t i = 0; i < e->n_head; i++) {
        if (i < e->n_quick && e->head[i]->guess != NO_TOKEN)
            continue;
        e->head[left] = e->head[i];
        e->head_seq[left++] = e->head_seq[i];
    }
    e->n_head = left;
}

static bool is_known(const struct deq_engine *e, const struct sequence *s, const struct row *r)
{
    (void)e;
    return !r->exact && r->remembers && r->guess != NO_TOKEN && deq_sample_is_argmax(&s->req.sampling);
}

/* The most probable word is proven; a draw would be one from rounded logits, which differs from that of exact ones now
 * and then. For a guess it will do, but class float32 keeps its bits. */
static bool is_inexact(const struct deq_engine *e, const struct sequence *s, const struct row *r)
{
    return !r->exact && (deq_sample_is_argmax(&s->req.sampling) || e->serving.numeric != DEQ_CLASS_FLOAT32);
}

/* Row i of a readout. */
static void put_row(struct deq_engine *e, size_t i, const struct row *r, const struct sequence *s)
{
    e->z[i] = r->y;
    e->position[i] = r->position;
    e->ring[i] = &s->ring;
}

/* The first n head rows get logits: they stand where a later pick may be told from them. */
static struct deq_rows put_rows(struct deq_engine *e, size_t n, bool rounded)
{
    for (size_t i = 0; i < n; i++) {
        struct row *r = e->head[i];
        put_row(e, i, r, e->head_seq[i]);
        e->logits_of[i] = logits_at(e, i);
        r->remembers = e->remember;
        r->rounded = rounded;
        if (e->remember)
            memcpy(r->seen, r->y, e->cell->read_dim * sizeof(float));
    }
    return (struct deq_rows){.n = n, .z = e->z, .position = e->position, .ring = e->ring};
}

/* Greedy picks that earlier logits tell; then those that a head in bytes tells, and guesses from it. */
static void pick_quickly(struct deq_engine *e)
{
    const size_t V = e->cell->vocab_size;
    if (!e->cell->ops->best_near || e->cell->n_tails)
        return;
    bring_forward(e, is_known);
    deq_pool_stage(e->pool, stage_near, e, e->n_quick * V);
    e->stats.near_rows += e->n_quick;
    drop_picked(e);
    bring_forward(e, is_inexact);
    const struct deq_rows rows = put_rows(e, e->n_quick, true);
    if (!e->n_quick || !e->cell->ops->screen(e->cell, &rows, e->logits_of))
        return;
    deq_pool_stage(e->pool, stage_screened, e, e->n_quick * V);
    e->stats.screen_rows += e->n_quick;
    drop_picked(e);
}

/* --- Whole products --- */

static void stage_sample(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_engine *e = ctx;
    for (size_t i = e->n_head * thread / n_threads; i < e->n_head * (thread + 1) / n_threads; i++) {
        struct row *r = e->head[i];
        if (r->guess != NO_TOKEN)
            continue;
        r->need = 0;
        r->guess = deq_seq_sample(e, e->head_seq[i], r, r->logits, thread, &r->need);
    }
}

/* One further cluster, for the head rows that need it. */
static bool read_tail(struct deq_engine *e, unsigned cluster, bool wholes)
{
    size_t n = 0;
    for (size_t i = 0; i < e->n_head; i++) {
        struct row *r = e->head[i];
        if (wholes ? !needs_full_distribution(e->head_seq[i], r) : r->need != cluster)
            continue;
        put_row(e, n, r, e->head_seq[i]);
        e->logits_of[n] = r->logits;
        e->tails_of[n++] = r->tails;
        r->known |= 1u << cluster;
    }
    const struct deq_rows rows = {.n = n, .z = e->z, .position = e->position, .ring = e->ring};
    if (n)
        e->cell->ops->readout_tail(e->cell, cluster, &rows, e->logits_of, (const float *const *)e->tails_of);
    return n;
}

/* Logits and picks of the head rows. Of a vocabulary in clusters, only those are computed that a pick depends on, and
 * all for a request that wants to see distributions. */
void deq_readout_run(struct deq_engine *e)
{
    run_coda(e);
    deq_allowed_mask(e);
    if (e->n_head)
        pick_quickly(e);
    if (!e->n_head)
        return;
    const size_t work = e->n_head * e->cell->vocab_size;
    const struct deq_rows rows = put_rows(e, e->n_head, false);
    for (size_t i = 0; i < e->n_head; i++) {
        struct row *r = e->head[i];
        r->logits = e->logits_of[i];
        e->tails_of[i] = r->tails = e->tails + i * e->cell->n_tails;
        r->known = r->need = 0;
        r->guess = NO_TOKEN;
    }
    e->cell->ops->readout(e->cell, &rows, e->logits_of, e->tails_of);
    for (unsigned c = 1; c <= e->cell->n_tails; c++)
        (void)read_tail(e, c, true);
    deq_pool_stage(e->pool, stage_sample, e, work);
    for (bool more = e->cell->n_tails; more;) {
        more = false;
        for (unsigned c = 1; c <= e->cell->n_tails; c++)
            more = read_tail(e, c, false) || more;
        if (more)
            deq_pool_stage(e->pool, stage_sample, e, work);
    }
    e->stats.head_rows += e->n_head;
}
