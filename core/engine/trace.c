/* Rows that are watched: where their residuals are noted, and what is told when they leave (trace.h). */
#include "core/base/mem.h"
#include "core/engine/engine_impl.h"

enum deq_rc deq_trace_open(struct sequence *s, struct deq_err *err)
{
    if (!s->req.want_trace)
        return DEQ_OK;
    s->residuals = DEQ_NEW_ARRAY(float, (size_t)s->req.solve.window * DEQ_TRACE_RESIDUALS);
    return s->residuals ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory for a sequence");
}

/* The window holds consecutive positions, and behind the prompt's last no more than the request's window. */
void deq_trace_enter(const struct deq_engine *e, struct sequence *s, struct row *r)
{
    const size_t last = s->req.n_prompt - 1, block = e->opts.prefill_block;
    if (r->position == last / block * block)
        s->step = 0;
    r->entered = s->step + 1;
    r->residuals = NULL;
    if (s->residuals && r->position >= last)
        r->residuals = s->residuals + r->position % s->req.solve.window * DEQ_TRACE_RESIDUALS;
}

void deq_trace_step(struct deq_engine *e)
{
    for (size_t b = 0; b < e->n_batch; b++)
        e->batch_seq[b]->step += b == 0 || e->batch_seq[b - 1] != e->batch_seq[b];
}

bool deq_trace_of(const struct sequence *s, const struct row *r, enum deq_fate fate, struct deq_trace *ret)
{
    if (!r->residuals)
        return false;
    *ret = (struct deq_trace){.fate = fate,
                              .entered = r->entered,
                              .left = s->step,
                              .residual = r->residuals,
                              .n = DEQ_MIN(r->evaluations, (uint32_t)DEQ_TRACE_RESIDUALS)};
    return true;
}

void deq_trace_dropped(const struct sequence *s, const struct row *r, enum deq_fate fate)
{
    struct deq_trace t;
    if (r->position < s->n_committed || !deq_trace_of(s, r, fate, &t))
        return; /* it is final, and was told */
    const struct deq_event ev = {.kind = DEQ_EVENT_DROPPED,
                                 .id = s->id,
                                 .choice = s->choice,
                                 .position = r->position,
                                 .token = r->token,
                                 .evaluations = r->evaluations,
                                 .residual = r->residual,
                                 .start = s->req.solve.warm_start,
                                 .start_cached = r->start_cached,
                                 .trace = &t};
    s->req.event(s->req.ctx, &ev);
}
