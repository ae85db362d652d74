#include "server/api/trace.h"

#include <math.h>

#include "server/api/reply.h"

struct traced_row {
    uint32_t position, token, entered, left;
    uint16_t n_residuals; /* in trace_news.residuals, behind those of the rows before */
    uint8_t fate, start;  /* enum deq_fate, enum deq_warm */
    bool start_cached, guessed;
};
_Static_assert(DEQ_TRACE_RESIDUALS <= UINT16_MAX, "their number fits");

void trace_news_init(struct trace_news *n, const struct deq_buf *buffer)
{
    n->rows = n->residuals = *buffer;
}

void trace_news_reset(struct trace_news *n)
{
    deq_buf_reset(&n->rows);
    deq_buf_reset(&n->residuals);
}

void trace_news_free(struct trace_news *n)
{
    deq_buf_free(&n->rows);
    deq_buf_free(&n->residuals);
}

void trace_lists_init(struct trace_lists *l, const struct deq_buf *buffer)
{
    l->tokens = l->dropped = *buffer;
}

void trace_lists_free(struct trace_lists *l)
{
    deq_buf_free(&l->tokens);
    deq_buf_free(&l->dropped);
}

void trace_add(struct trace_news *n, const struct deq_event *e)
{
    const struct deq_trace *t = e->trace;
    const bool committed = t->fate == DEQ_ROW_COMMITTED;
    const struct traced_row row = {.position = (uint32_t)e->position,
                                   .token = e->token,
                                   .entered = t->entered,
                                   .left = t->left,
                                   .n_residuals = committed ? (uint16_t)t->n : 0,
                                   .fate = (uint8_t)t->fate,
                                   .start = (uint8_t)e->start,
                                   .start_cached = e->start_cached,
                                   .guessed = t->guessed};
    deq_buf_add(&n->rows, &row, sizeof row);
    deq_buf_add(&n->residuals, t->residual, row.n_residuals * sizeof *t->residual);
}

static void render_token(struct deq_buf *out, const struct traced_row *r, const float *residual)
{
    deq_buf_fmt(out, "{\"position\":%u,\"start\":\"%s\",\"entered\":%u,\"committed\":%u,\"guessed\":%s,\"residual\":[",
                r->position, r->start_cached ? "prefix" : deq_warm_name((enum deq_warm)r->start), r->entered, r->left,
                r->guessed ? "true" : "false");
    for (unsigned i = 0; i < r->n_residuals; i++) {
        deq_buf_str(out, i ? "," : "");
        reply_residual(out, isfinite(residual[i]) ? residual[i] : NAN);
    }
    deq_buf_str(out, "]},");
}

static void render_dropped(struct deq_buf *out, const struct traced_row *r)
{
    static const char *const why[] = {
        [DEQ_ROW_MISGUESSED] = "guess", [DEQ_ROW_NOT_FINITE] = "not_finite", [DEQ_ROW_LEFT_OPEN] = "end"};
    _Static_assert(DEQ_COUNT(why) == DEQ_FATES, "a word for each");
    deq_buf_fmt(out, "{\"position\":%u,\"token\":%u,\"entered\":%u,\"left\":%u,\"why\":\"%s\"},", r->position,
                r->token, r->entered, r->left, why[r->fate]);
}

void trace_render(struct trace_lists *l, const struct trace_news *n)
{
    const struct traced_row *r = (const struct traced_row *)n->rows.data;
    const float *residual = (const float *)n->residuals.data;
    if (!deq_buf_carry(&l->tokens, &n->rows) || !deq_buf_carry(&l->tokens, &n->residuals))
        return;
    for (size_t i = 0; i < n->rows.len / sizeof *r; i++) {
        if (r[i].fate == DEQ_ROW_COMMITTED)
            render_token(&l->tokens, &r[i], residual);
        else
            render_dropped(&l->dropped, &r[i]);
        residual += r[i].n_residuals;
    }
}
