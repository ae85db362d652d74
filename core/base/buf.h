/* A growing byte buffer that is told its maximum at birth. All text is built through it, so that no length is ever
 * taken from snprintf's return value. Not thread-safe; the owner frees it with deq_buf_free. Contents are always
 * NUL-terminated once something was appended, but may hold NUL bytes: the length is `len`.
 *
 * A failed append makes the buffer `failed` and empty, until it is freed: later appends do nothing, there are no bytes
 * that could be taken for the whole, and whatever a failed buffer is appended to fails too (deq_buf_append). So one
 * check suffices, where the last one goes out. */
#ifndef DEQ_BASE_BUF_H
#define DEQ_BASE_BUF_H

#include "core/base/budget.h"
#include "core/base/bytes.h"

/* Room for so many bytes in one piece, before any is there. */
bool deq_buf_reserve(struct deq_buf *b, size_t bytes);
bool deq_buf_add(struct deq_buf *b, const void *bytes, size_t n);
/* The same, but without room nothing happens to what is there. */
bool deq_buf_try(struct deq_buf *b, const void *bytes, size_t n);
/* The bytes of another buffer; when that failed, so does this one. */
bool deq_buf_append(struct deq_buf *b, const struct deq_buf *other);
/* What is built from another buffer shares its fate: false when that failed. */
bool deq_buf_carry(struct deq_buf *b, const struct deq_buf *other);
bool deq_buf_str(struct deq_buf *b, const char *s);
bool deq_buf_uint(struct deq_buf *b, uint64_t n); /* decimal, in a fraction of deq_buf_fmt's time */
bool deq_buf_fmt(struct deq_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void deq_buf_fail(struct deq_buf *b); /* what was to be appended could not be made */
void deq_buf_drop_front(struct deq_buf *b, size_t n);
/* to, which is empty, gets memory, bytes and allowance of from, or its failure; from is as after deq_buf_init. */
void deq_buf_move(struct deq_buf *to, struct deq_buf *from);

#endif
