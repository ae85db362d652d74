#include "core/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"

void deq_buf_init(struct deq_buf *b, size_t max_bytes)
{
    *b = (struct deq_buf){.max = max_bytes};
}

static void release(struct deq_buf *b)
{
    deq_free(b->data);
    deq_allowance_give(b->allowance, b->cap);
    b->data = NULL;
    b->len = b->cap = 0;
}

void deq_buf_free(struct deq_buf *b)
{
    release(b);
    b->failed = b->full = false;
}

void deq_buf_reset(struct deq_buf *b)
{
    b->len = 0;
    if (b->data)
        b->data[0] = 0;
}

void deq_buf_fail(struct deq_buf *b)
{
    release(b);
    b->failed = true;
}

/* The allowance has old and new memory for the moment that both are there. */
static bool grow(struct deq_buf *b, size_t cap)
{
    if (!deq_allowance_take(b->allowance, cap))
        return false;
    char *p = deq_realloc(b->data, b->data ? b->len + 1 : 0, cap);
    deq_allowance_give(b->allowance, p ? b->cap : cap);
    if (!p)
        return false;
    b->data = p;
    b->cap = cap;
    return true;
}

static bool makes_room(struct deq_buf *b, size_t n)
{
    b->full = b->failed ? b->full : n > b->max - b->len;
    if (b->failed || b->full)
        return false;
    const size_t need = b->len + n + 1;
    return need <= b->cap || grow(b, DEQ_MAX(DEQ_MAX(need, DEQ_MIN(b->cap * 2, b->max + 1)), (size_t)64));
}

static bool room(struct deq_buf *b, size_t n)
{
    if (makes_room(b, n))
        return true;
    deq_buf_fail(b);
    return false;
}

bool deq_buf_reserve(struct deq_buf *b, size_t bytes)
{
    if (!b->failed && b->cap < bytes + 1 && !grow(b, bytes + 1))
        deq_buf_fail(b);
    return !b->failed;
}

bool deq_buf_try(struct deq_buf *b, const void *bytes, size_t n)
{
    if (!makes_room(b, n))
        return false;
    if (n)
        memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = 0;
    return true;
}

bool deq_buf_add(struct deq_buf *b, const void *bytes, size_t n)
{
    if (deq_buf_try(b, bytes, n))
        return true;
    deq_buf_fail(b);
    return false;
}

bool deq_buf_carry(struct deq_buf *b, const struct deq_buf *other)
{
    if (other->failed)
        deq_buf_fail(b);
    return !other->failed;
}

bool deq_buf_append(struct deq_buf *b, const struct deq_buf *other)
{
    return deq_buf_carry(b, other) && deq_buf_add(b, other->data, other->len);
}

void deq_buf_move(struct deq_buf *to, struct deq_buf *from)
{
    const size_t max = to->max;
    release(to);
    *to = *from;
    to->max = DEQ_MAX(max, from->len);
    *from = (struct deq_buf){.max = from->max, .allowance = from->allowance};
}

bool deq_buf_str(struct deq_buf *b, const char *s)
{
    return deq_buf_add(b, s, strlen(s));
}

bool deq_buf_uint(struct deq_buf *b, uint64_t n)
{
    char digits[20], *at = digits + sizeof digits;
    do
        *--at = (char)('0' + n % 10);
    while (n /= 10);
    return deq_buf_add(b, at, (size_t)(digits + sizeof digits - at));
}

/* Once where it fits into the room there is, a second time where it did not. */
bool deq_buf_fmt(struct deq_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    const size_t spare = b->failed ? 0 : b->cap - b->len;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(spare ? b->data + b->len : NULL, spare, fmt, ap);
    va_end(ap);
    bool ok = n >= 0 && room(b, (size_t)n);
    if (ok) {
        if ((size_t)n >= spare)
            vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    } else if (n < 0) {
        deq_buf_fail(b);
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
