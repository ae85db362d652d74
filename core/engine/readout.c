/* From states to picks: which rows need logits in a step, their logits, the token that each would pick now. */
#include <string.h>

#include "core/engine/engine_impl.h"

/* Somebody sees the whole distribution at row r if it is final, or a pick needs it. Choices that begin here pick from
 * it too. */
static bool needs_full_distribution(const struct sequence *s, const struct row *r)
{
    const bool begins = s->req.n > 1 && r->position + 1 == s->req.n_prompt;
    return s->req.want_logits || s->req.want_prompt || begins || deq_sample_needs_full(&s->req.sampling);
}

/* The pick of row r may be told from the logits of an earlier state of it, beginning from what that one picked. */
static bool tells_near(const struct sequence *s, const struct row *r, bool final)
{
    return r->remembers && r->guess != NO_TOKEN && deq_sample_is_argmax(&s->req.sampling) &&
           !(final && needs_full_distribution(s, r));
}

/* Which rows need logits: those that may commit in this step and whose token or logits somebody needs, and those whose
 * guess is due. Of the sequences from `from` on, as many as there is room for; returns the one behind them. */
uint32_t deq_readout_choose(struct deq_engine *e, uint32_t from)
{
    uint32_t i = from;
    e->n_head = 0;
    for (; i < e->opts.max_sequences; i++) {
        struct sequence *s = &e->seqs[i];
        if (!deq_seq_in_step(s))
            continue;
        if (e->n_head + s->n_rows > e->head_max)
            break;
        bool leading = true;
        for (uint32_t k = 0; k < s->n_rows; k++) {
            struct row *r = &e->rows[s->row[k]];
            leading = leading && r->finite && (r->converged || (k == 0 && deq_row_must_commit(s, r)));
            const bool unknown_next = r->position + 1 >= s->req.n_prompt; /* its logits pick a token */
            const bool picks = unknown_next && s->req.max_tokens;
            const bool wanted = s->req.want_prompt && (!unknown_next || !s->req.max_tokens);
            /* nobody enters behind the only row of a window */
            const bool guess_due = r->guess_due && picks && s->req.solve.window > 1 &&
                                   r->position >= s->req.n_prompt && r->position < s->last_position;
            const bool need = r->finite && ((leading && (picks || wanted)) || guess_due);
            r->guess_due = false;
            if (need) {
                r->near = tells_near(s, r, leading);
                e->head[e->n_head] = r;
                e->head_seq[e->n_head] = s;
                e->n_head++;
            }
        }
    }
    return i;
}

static void stage_near(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_engine *e = ctx;
    for DEQ_ROWS_OF (thread, n_threads, e->n_head) {
        struct row *row = e->head[r];
        const uint32_t likely = row->guess;
        row->guess = NO_TOKEN;
        if (row->near)
            row->guess = e->cell->ops->best_near(e->cell, thread, row->fz, row->seen, deq_logits_of(e, row), likely);
    }
}

/* Picks what can be told from logits that were computed earlier; the others remain. */
static void pick_near(struct deq_engine *e)
{
    size_t left = 0;
    deq_pool_stage(e->pool, stage_near, e, e->n_head * e->cell->vocab_size);
    for (size_t i = 0; i < e->n_head; i++) {
        if (e->head[i]->guess != NO_TOKEN)
            continue;
        e->head[left] = e->head[i];
        e->head_seq[left++] = e->head_seq[i];
    }
    e->stats.near_rows += e->n_head - left;
    e->n_head = left;
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

/* Row i of a readout. */
static void put_row(struct deq_engine *e, size_t i, const struct row *r, const struct sequence *s)
{
    e->z[i] = r->fz;
    e->position[i] = r->position;
    e->ring[i] = &s->ring;
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
    pick_near(e);
    if (!e->n_head)
        return;
    const size_t work = e->n_head * e->cell->vocab_size;
    for (size_t i = 0; i < e->n_head; i++) {
        struct row *r = e->head[i];
        put_row(e, i, r, e->head_seq[i]);
        e->logits_of[i] = r->logits = e->remember ? deq_logits_of(e, r) : e->logits + i * e->cell->vocab_size;
        e->tails_of[i] = r->tails = e->tails + i * e->cell->n_tails;
        r->known = r->need = 0;
        if (e->remember)
            memcpy(r->seen, r->fz, e->cell->state_dim * sizeof(float));
        r->remembers = e->remember;
    }
    const struct deq_rows rows = {.n = e->n_head, .z = e->z, .position = e->position, .ring = e->ring};
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
