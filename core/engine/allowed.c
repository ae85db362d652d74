/* Answers that fit a form: where in it each position of a window is, and the tokens that its pick is from. Readings are
 * those behind the token at a position; the ones of the last position of the prompt are the form's beginning. */
#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/engine/engine_impl.h"

/* The committed position before the window, and those of the window, have a place each. */
static struct deq_readings *readings_at(const struct sequence *s, size_t position)
{
    return &s->readings[position % (s->req.solve.window + 1)];
}

enum deq_rc deq_allowed_open(struct sequence *s, const struct deq_request *q, struct deq_err *err)
{
    s->form = NULL;
    s->readings = NULL;
    if (!q->form || !q->max_tokens)
        return DEQ_OK;
    if (q->ignore_eos)
        return deq_fail(err, DEQ_EINVAL, "ignore_eos: a form ends the text where it is whole");
    s->readings = DEQ_NEW_ARRAY(struct deq_readings, q->solve.window + 1);
    if (!s->readings)
        return deq_fail(err, DEQ_ENOMEM, "no memory for a sequence");
    s->form = deq_form_share(q->form);
    deq_form_begin(s->form, readings_at(s, s->req.n_prompt - 1));
    return DEQ_OK;
}

void deq_allowed_close(struct sequence *s)
{
    deq_form_free(s->form);
    deq_free(s->readings);
    s->form = NULL;
    s->readings = NULL;
}

bool deq_allowed_take(struct sequence *s, size_t position, uint32_t token)
{
    if (!s->form)
        return true;
    deq_form_advance(s->form, readings_at(s, position - 1), token, readings_at(s, position));
    return !deq_form_ended(s->form, readings_at(s, position));
}

bool deq_allowed_any(const struct sequence *s, size_t position)
{
    return !s->form || position + 1 < s->req.n_prompt || !deq_form_ended(s->form, readings_at(s, position));
}

/* --- Masks --- */

/* Tokens that end the choice, and are no text, are an end like the model's own. */
static void allow_stops(const struct sequence *s, const struct deq_readings *r, uint32_t *allowed)
{
    const struct deq_sampling *p = &s->req.sampling;
    if (!p->n_stop_ids || !deq_form_whole(s->form, r))
        return;
    for (size_t i = 0; i < p->n_stop_ids; i++)
        if (!deq_form_spells(s->form, p->stop_ids[i]))
            allowed[p->stop_ids[i] / 32] |= 1u << p->stop_ids[i] % 32;
}

static void stage_masks(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_engine *e = ctx;
    const size_t words = deq_form_words(e->cell->vocab_size);
    for DEQ_ROWS_OF (thread, n_threads, e->n_head) {
        struct row *row = e->head[r];
        const struct sequence *s = e->head_seq[r];
        row->allowed = NULL;
        if (!s->form || row->position + 1 < s->req.n_prompt)
            continue;
        row->allowed = e->allowed + r * words;
        deq_form_mask(s->form, readings_at(s, row->position), row->allowed);
        allow_stops(s, readings_at(s, row->position), row->allowed);
    }
}

void deq_allowed_mask(struct deq_engine *e)
{
    size_t n = 0;
    for (size_t i = 0; i < e->n_head; i++)
        n += e->head_seq[i]->form != NULL;
    if (n)
        deq_pool_stage(e->pool, stage_masks, e, n * e->cell->vocab_size);
    for (size_t i = 0; !n && i < e->n_head; i++)
        e->head[i]->allowed = NULL;
}

/* x = logits where the mask has a bit, else what is never picked. */
static void keep_allowed(const uint32_t *allowed, const float *logits, uint32_t V, float *x)
{
    for (uint32_t at = 0; at < V; at += 32) {
        const uint32_t word = allowed[at / 32], n = DEQ_MIN(V - at, 32u);
        for (uint32_t i = 0; i < n; i++)
            x[at + i] = word >> i & 1 ? logits[at + i] : -INFINITY;
    }
}

uint32_t deq_allowed_pick(const struct sequence *s, const struct row *r, const float *logits, const float *adjusted,
                          uint32_t V, struct deq_sample_scratch *scratch)
{
    float *x = scratch->adjusted;
    keep_allowed(r->allowed, adjusted, V, x);
    if (!(x[deq_argmax(x, V)] > -INFINITY)) /* all of them were forbidden otherwise: the form is kept */
        keep_allowed(r->allowed, logits, V, x);
    const uint32_t pick = deq_sample(&s->req.sampling, x, V, s->choice, r->position, scratch);
    if (deq_form_allows(r->allowed, pick))
        return pick;
    for (uint32_t id = 0; id < V; id++) /* no logit of an allowed token is a number */
        if (deq_form_allows(r->allowed, id))
            return id;
    return NO_TOKEN;
}
