/* A list of token ids that grows, and a part of the text that they are of. A list is owned by whoever declared it
 * (zeroed), given back with deq_tokens_free. */
#ifndef DEQ_BASE_TOKENS_H
#define DEQ_BASE_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct deq_tokens {
    uint32_t *ids;
    size_t n, cap;
};

/* Bytes begin to end, without end, of a text. */
struct deq_range {
    size_t begin, end;
};

bool deq_tokens_push(struct deq_tokens *t, uint32_t id); /* false: no memory */
void deq_tokens_free(struct deq_tokens *t);

#endif
