/* Bytes that a function of the library appends: the door's part of buf.h. The owner begins with deq_buf_init, which
 * tells the most that it may hold, reads data and len, and ends with deq_buf_free. Contents are NUL-terminated once
 * something was appended, but may hold NUL bytes. A failed append makes the buffer `failed` and empty until it is
 * freed: what is appended later does nothing, so one check suffices, where the last byte goes out. Not thread-safe. */
#ifndef DEQ_BASE_BYTES_H
#define DEQ_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>

struct deq_allowance;

struct deq_buf {
    char *data;
    size_t len, cap, max;
    bool failed;
    bool full;                       /* it failed at its maximum, not for want of memory */
    struct deq_allowance *allowance; /* borrowed; what its memory counts against, or NULL */
};

void deq_buf_init(struct deq_buf *b, size_t max_bytes);
void deq_buf_free(struct deq_buf *b);  /* and as after deq_buf_init */
void deq_buf_reset(struct deq_buf *b); /* empty again, memory kept; a failure stays */

#endif
