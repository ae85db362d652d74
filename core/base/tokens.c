#include "core/base/tokens.h"

#include "core/base/base.h"
#include "core/base/mem.h"

bool deq_tokens_push(struct deq_tokens *t, uint32_t id)
{
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64, bytes;
        uint32_t *p = deq_mul_size(cap, sizeof *p, &bytes) ? deq_realloc(t->ids, t->n * sizeof *p, bytes) : NULL;
        if (!p)
            return false;
        t->ids = p;
        t->cap = cap;
    }
    t->ids[t->n++] = id;
    return true;
}

void deq_tokens_free(struct deq_tokens *t)
{
    deq_free(t->ids);
    *t = (struct deq_tokens){0};
}
