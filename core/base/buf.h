/* A growing byte buffer that is told its maximum at birth. All text is built through it, so that no length is ever taken from
 * snprintf's return value. After a failed append the buffer is `failed`: later appends do nothing, and one check at the end
 * suffices. Not thread-safe; the owner frees it with deq_buf_free. Contents are always NUL-terminated once something was
 * appended, but may hold NUL bytes: the length is `len`. */
#ifndef DEQ_BASE_BUF_H
#define DEQ_BASE_BUF_H

#include "core/base/base.h"

struct deq_buf {
    char *data;
    size_t len, cap, max;
    bool failed;
};

void deq_buf_init(struct deq_buf *b, size_t max_bytes);
void deq_buf_free(struct deq_buf *b);
void deq_buf_reset(struct deq_buf *b); /* empty again, memory kept, failure forgotten */
bool deq_buf_add(struct deq_buf *b, const void *bytes, size_t n);
bool deq_buf_str(struct deq_buf *b, const char *s);
bool deq_buf_fmt(struct deq_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void deq_buf_drop_front(struct deq_buf *b, size_t n);

#endif
