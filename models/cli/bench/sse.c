#include "models/cli/bench/sse.h"

#include <string.h>

void sse_init(struct sse *s)
{
    *s = (struct sse){0};
    deq_buf_init(&s->line, SSE_EVENT_MAX);
    deq_buf_init(&s->data, SSE_EVENT_MAX);
}

void sse_free(struct sse *s)
{
    deq_buf_free(&s->line);
    deq_buf_free(&s->data);
    s->has_data = false;
}

/* The line that stands in s->line is whole. */
static bool end_of_line(struct sse *s, sse_fn fn, void *ctx)
{
    const char *l = s->line.data ? s->line.data : "";
    size_t n = s->line.len;
    if (!s->after_first && n >= 3 && !memcmp(l, "\xef\xbb\xbf", 3)) {
        l += 3;
        n -= 3;
    }
    s->after_first = true;
    if (!n) {
        if (s->has_data)
            fn(ctx, s->data.data ? s->data.data : "", s->data.len);
        deq_buf_reset(&s->data);
        s->has_data = false;
    } else if (n >= 4 && !memcmp(l, "data", 4) && (n == 4 || l[4] == ':')) {
        const size_t from = n == 4 ? 4 : n > 5 && l[5] == ' ' ? 6 : 5;
        if (s->has_data)
            deq_buf_str(&s->data, "\n");
        deq_buf_add(&s->data, l + from, n - from);
        s->has_data = true;
    }
    deq_buf_reset(&s->line);
    return !s->data.failed;
}

bool sse_push(struct sse *s, const char *bytes, size_t n, sse_fn fn, void *ctx)
{
    for (const char *end = bytes + n; bytes < end;) {
        if (s->after_cr && *bytes == '\n')
            bytes++;
        s->after_cr = false;
        const char *at = bytes;
        while (at < end && *at != '\n' && *at != '\r')
            at++;
        const bool comment = s->line.len && s->line.data[0] == ':'; /* of any length */
        if (!comment && !deq_buf_add(&s->line, bytes, (size_t)(at - bytes)))
            return false;
        if (at == end)
            break;
        s->after_cr = *at == '\r';
        if (!end_of_line(s, fn, ctx))
            return false;
        bytes = at + 1;
    }
    return true;
}

bool sse_end(struct sse *s, sse_fn fn, void *ctx)
{
    return (!s->line.len || end_of_line(s, fn, ctx)) && end_of_line(s, fn, ctx);
}
