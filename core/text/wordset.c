#include "core/text/wordset.h"

#include <string.h>

#include "core/base/mem.h"

enum { MIN_SLOTS = 64 };

enum deq_rc deq_wordset_init(struct deq_wordset *w, size_t expected, struct deq_err *err)
{
    size_t n = MIN_SLOTS;
    *w = (struct deq_wordset){0};
    while (n / 2 < expected)
        n *= 2;
    if (!deq_hash_key(&w->key))
        return deq_fail(err, DEQ_EIO, "the system gives no random numbers for the key of a hash table");
    if (!(w->slot = DEQ_NEW_ARRAY(uint32_t, n)))
        return deq_fail(err, DEQ_ENOMEM, "no memory for an index of %zu words", expected);
    w->n_slots = n;
    return DEQ_OK;
}

void deq_wordset_free(struct deq_wordset *w)
{
    deq_free(w->slot);
    *w = (struct deq_wordset){0};
}

static size_t first_slot(const struct deq_wordset *w, const char *s, size_t n)
{
    return (size_t)deq_siphash(&w->key, s, n).h[0] & (w->n_slots - 1);
}

int64_t deq_wordset_find(const struct deq_wordset *w, struct deq_words words, const char *s, size_t n)
{
    for (size_t i = first_slot(w, s, n); w->slot[i]; i = (i + 1) & (w->n_slots - 1)) {
        const struct deq_span *have = &words.span[w->slot[i] - 1];
        if (have->len == n && !memcmp(words.blob + have->at - 1, s, n))
            return (int64_t)w->slot[i] - 1;
    }
    return -1;
}

static void insert(struct deq_wordset *w, struct deq_words words, uint32_t number)
{
    size_t i = first_slot(w, words.blob + words.span[number].at - 1, words.span[number].len);
    while (w->slot[i])
        i = (i + 1) & (w->n_slots - 1);
    w->slot[i] = number + 1;
}

bool deq_wordset_add(struct deq_wordset *w, struct deq_words words, uint32_t number)
{
    if (w->n + 1 > w->n_slots / 2) {
        struct deq_wordset twice = {.key = w->key,
                                    .slot = DEQ_NEW_ARRAY(uint32_t, 2 * w->n_slots),
                                    .n_slots = 2 * w->n_slots,
                                    .n = w->n};
        if (!twice.slot)
            return false;
        for (size_t i = 0; i < w->n_slots; i++)
            if (w->slot[i])
                insert(&twice, words, w->slot[i] - 1);
        deq_free(w->slot);
        *w = twice;
    }
    insert(w, words, number);
    w->n++;
    return true;
}
