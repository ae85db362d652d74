/* The rows behind an answer, for include "deq.trace": what the engine tells of them (core/engine/trace.h), left as
 * numbers on its thread, and made JSON on the connection's. */
#ifndef DEQ_SERVER_TRACE_H
#define DEQ_SERVER_TRACE_H

#include "core/base/buf.h"
#include "core/deq.h"

enum { TRACE_DROPPED_MAX = 4096 /* rows of a choice that were not final: more are only counted */ };

struct trace_news {
    struct deq_buf rows;      /* struct traced_row[] */
    struct deq_buf residuals; /* float[] of those that committed */
};

/* JSON lists with a comma behind each entry. */
struct trace_lists {
    struct deq_buf tokens, dropped;
};

/* buffer: an empty one, whose maximum and allowance each has. */
void trace_news_init(struct trace_news *n, const struct deq_buf *buffer);
void trace_news_reset(struct trace_news *n);
void trace_news_free(struct trace_news *n);
void trace_lists_init(struct trace_lists *l, const struct deq_buf *buffer);
void trace_lists_free(struct trace_lists *l);
/* A TOKEN or DROPPED event with a trace. */
void trace_add(struct trace_news *n, const struct deq_event *e);
/* Appends what the news hold. */
void trace_render(struct trace_lists *l, const struct trace_news *n);

#endif
