/* Server-sent events (WHATWG HTML, 9.2): bytes in, events out, however the bytes were cut. No sockets, no JSON; the
 * caller owns the parser. Lines end with LF, CR or CRLF; a byte order mark at the beginning is nothing; comments and
 * fields other than data are dropped; several data lines make one event with LF between. Text is bytes: characters may
 * be cut between two pushes, and a NUL is one of them. */
#ifndef DEQ_MODELS_CLI_BENCH_SSE_H
#define DEQ_MODELS_CLI_BENCH_SSE_H

#include "core/base/base.h"
#include "core/base/buf.h"

enum { SSE_EVENT_MAX = 4 << 20 }; /* bytes of a line, and of an event */

struct sse {
    struct deq_buf line, data;
    bool has_data, after_cr, after_first; /* an event is begun; an LF that comes now ends
                                           * nothing; the first line is over */
};
typedef void (*sse_fn)(void *ctx, const char *data, size_t n); /* data is NUL-terminated past n */

void sse_init(struct sse *s);
void sse_free(struct sse *s);
/* False when a line or an event is too long, or memory is out; nothing may be pushed after that. */
bool sse_push(struct sse *s, const char *bytes, size_t n, sse_fn fn, void *ctx);
/* The stream is over, and well: an event that no blank line closed counts. (The standard would drop it, for a stream
 * that may have broken off.) */
bool sse_end(struct sse *s, sse_fn fn, void *ctx);

#endif
