#include "core/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"

void deq_buf_init(struct deq_buf *b, size_t max_bytes)
{
    *b = (struct deq_buf){.max = max_bytes};
}

void deq_buf_free(struct deq_buf *b)
{
    deq_free(b->data);
    *b = (struct deq_buf){.max = b->max};
}

void deq_buf_reset(struct deq_buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = 0;
}

static bool room(struct deq_buf *b, size_t n)
{
    if (b->failed || n > b->max - b->len) {
        b->failed = true;
        return false;
    }
    size_t need = b->len + n + 1;
    if (need > b->cap) {
        size_t cap = DEQ_MAX(need, DEQ_MIN(b->cap * 2, b->max + 1));
        cap = DEQ_MAX(cap, (size_t)64);
        char *p = deq_realloc(b->data, b->data ? b->len + 1 : 0, cap);
        if (!p) {
            b->failed = true;
            return false;
        }
        b->data = p;
        b->cap = cap;
    }
    return true;
}

bool deq_buf_add(struct deq_buf *b, const void *bytes, size_t n)
{
    if (!room(b, n))
        return false;
    if (n)
        memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = 0;
    return true;
}

bool deq_buf_str(struct deq_buf *b, const char *s)
{
    return deq_buf_add(b, s, strlen(s));
}

bool deq_buf_fmt(struct deq_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    bool ok = n >= 0 && room(b, (size_t)n);
    if (ok) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    } else {
        b->failed = true;
    }
    va_end(again);
    return ok;
}

void deq_buf_drop_front(struct deq_buf *b, size_t n)
{
    n = DEQ_MIN(n, b->len);
    if (!n)
        return;
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
    b->data[b->len] = 0;
}
