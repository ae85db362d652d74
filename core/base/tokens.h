/* A list of token ids that grows. Owned by whoever declared it (zeroed), given back with deq_tokens_free. */
#ifndef DEQ_BASE_TOKENS_H
#define DEQ_BASE_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct deq_tokens {
    uint32_t *ids;
    size_t n, cap;
};

bool deq_tokens_push(struct deq_tokens *t, uint32_t id); /* false: no memory */
void deq_tokens_free(struct deq_tokens *t);

#endif
