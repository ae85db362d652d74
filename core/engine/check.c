/* What may be asked of an engine: requests that can never run are refused before they take anything. */
#include "core/engine/engine_impl.h"
#include "core/engine/saved.h"

size_t deq_request_length(const struct deq_request *q)
{
    return (q->state ? q->state->n_tokens : 0) + q->n_prompt;
}

/* A state is of this engine's cell as far as sizes say, and what is asked of it can be had. */
static enum deq_rc check_states(const struct deq_engine *e, const struct deq_request *q, struct deq_err *err)
{
    const struct deq_state *const states[] = {q->state, q->keep};
    for (size_t i = 0; i < DEQ_COUNT(states); i++)
        if (states[i] && (states[i]->page_bytes != e->cell->page_bytes || states[i]->page_tok != e->cell->page_tok ||
                          states[i]->state_dim != e->cell->state_dim))
            return deq_fail(err, DEQ_EINVAL, "%s: is of another model", i ? "keep" : "state");
    if (q->state && !q->state->filled)
        return deq_fail(err, DEQ_EINVAL, "state: nothing is in it");
    if (q->state && (q->want_prompt || q->states == DEQ_STATES_ALL))
        return deq_fail(err, DEQ_EINVAL, "want_prompt, states: nothing is told of a state's own positions");
    if (q->state && !q->n_prompt && !q->max_tokens)
        return deq_fail(err, DEQ_EINVAL, "max_tokens: 0 asks for nothing behind a state alone");
    if (q->keep && q->keep->n_tokens != deq_request_length(q))
        return deq_fail(err, DEQ_EINVAL, "keep: is of %zu tokens, the prompt has %zu", q->keep->n_tokens,
                        deq_request_length(q));
    return DEQ_OK;
}

enum deq_rc deq_request_check(const struct deq_engine *e, const struct deq_request *q, struct deq_err *err)
{
    const size_t n = deq_request_length(q);
    if (!n)
        return deq_fail(err, DEQ_EINVAL, "prompt: at least one token is needed");
    const enum deq_rc rc = check_states(e, q, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < q->n_prompt; i++)
        if (q->prompt[i] >= e->cell->vocab_size)
            return deq_fail(err, DEQ_EINVAL, "prompt: token %u at %zu is outside the vocabulary of %zu", q->prompt[i],
                            i, e->cell->vocab_size);
    if (n > e->opts.max_positions || q->max_tokens > e->opts.max_positions - n)
        return deq_fail(err, DEQ_EINVAL, "prompt of %zu tokens plus max_tokens %u exceeds the limit of %u positions",
                        n, q->max_tokens, e->opts.max_positions);
    const struct deq_solve_params *p = &q->solve;
    if (p->window < 1 || p->window > DEQ_ROW_WINDOW_MAX)
        return deq_fail(err, DEQ_EINVAL, "window: %u is outside 1..%d", p->window, DEQ_ROW_WINDOW_MAX);
    if (p->prefill_window > DEQ_ROW_WINDOW_MAX)
        return deq_fail(err, DEQ_EINVAL, "prefill_window: %u is outside 0..%d", p->prefill_window, DEQ_ROW_WINDOW_MAX);
    if (p->warm_start == DEQ_WARM_PREDICTOR && !e->cell->ops->predict)
        return deq_fail(err, DEQ_EINVAL, "warm_start: this model has no predictor");
    if (p->warm_start == DEQ_WARM_PROPOSAL && !e->cell->ops->start)
        return deq_fail(err, DEQ_EINVAL, "warm_start: this model makes no proposal");
    if (deq_stop_reads(p->stop) && (p->window != 1 || p->prefill_window > 1))
        return deq_fail(err, DEQ_EINVAL,
                        "window, prefill_window: stop %s reads out every evaluation, of one row at a time: must be 1",
                        deq_stop_rule_name(p->stop));
    if (p->max_evaluations && p->window != 1)
        return deq_fail(err, DEQ_EINVAL, "max_evaluations: a budget pays for no guesses: window must be 1");
    if (p->stop != DEQ_STOP_AT_RESIDUAL && !(p->tol > 0))
        return deq_fail(err, DEQ_EINVAL, "stop: %s, but tol 0 asks for a fixed number of steps",
                        deq_stop_rule_name(p->stop));
    if (!p->max_iter && !deq_warm_is_fixed(p->warm_start))
        return deq_fail(err, DEQ_EINVAL, "max_iter: 0 answers from where states begin, which is nowhere of their own "
                        "with start %s", deq_warm_name(p->warm_start));
    const struct deq_sampling *s = &q->sampling;
    if (!(s->temperature >= 0) || !(s->top_p >= 0 && s->top_p <= 1) || !(s->min_p >= 0 && s->min_p <= 1))
        return deq_fail(err, DEQ_EINVAL, "sampling: temperature must be >= 0, top_p and min_p in 0..1");
    if (q->products && (q->states == DEQ_STATES_NONE || !p->max_iter))
        return deq_fail(err, DEQ_EINVAL, "products: of a Jacobian at states, which are asked for and evaluated");
    if (q->states != DEQ_STATES_NONE && q->max_tokens)
        return deq_fail(err, DEQ_EINVAL, "states: of a prompt that is continued by no tokens, max_tokens is %u",
                        q->max_tokens);
    if (q->n > 1 && (!q->max_tokens || q->n > e->opts.max_sequences))
        return deq_fail(err, DEQ_EINVAL, "n: %u choices need max_tokens and at most max_sequences %u", q->n,
                        e->opts.max_sequences);
    for (size_t i = 0; i < s->n_bias; i++)
        if (s->bias[i].token >= e->cell->vocab_size)
            return deq_fail(err, DEQ_EINVAL, "bias: token %u is outside the vocabulary of %zu", s->bias[i].token,
                            e->cell->vocab_size);
    for (size_t i = 0; i < s->n_stop_ids; i++)
        if (s->stop_ids[i] >= e->cell->vocab_size)
            return deq_fail(err, DEQ_EINVAL, "stop_ids: token %u is outside the vocabulary of %zu", s->stop_ids[i],
                            e->cell->vocab_size);
    return DEQ_OK;
}
