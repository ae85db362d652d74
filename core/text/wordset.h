/* A hash index over words that somebody else holds: bytes -> number. Open addressing, at most half full, keyed with
 * SipHash, so that no vocabulary or text can be made to collide. The words stand one after the other in a blob; word i
 * is span[i] of it, which must not change once it was put in, while both may move.
 *
 * Owner: whoever embeds it; deq_wordset_free. Reading is safe from any thread. */
#ifndef DEQ_TEXT_WORDSET_H
#define DEQ_TEXT_WORDSET_H

#include "core/base/base.h"
#include "core/base/err.h"
#include "core/base/hash.h"

struct deq_span {
    uint32_t at; /* 1 + offset in the blob; 0 = no such word */
    uint32_t len;
};

struct deq_words {
    const char *blob;
    const struct deq_span *span;
};

struct deq_wordset {
    struct deq_hash key;
    uint32_t *slot; /* [n_slots] 1 + number of the word; 0 = free */
    size_t n_slots, n;
};

/* Room for `expected` words; it grows when there are more. */
enum deq_rc deq_wordset_init(struct deq_wordset *w, size_t expected, struct deq_err *err);
void deq_wordset_free(struct deq_wordset *w);

/* -1: not there */
int64_t deq_wordset_find(const struct deq_wordset *w, struct deq_words words, const char *s, size_t n);
/* Puts words.span[number] in; it must not be there yet. False: no memory. */
bool deq_wordset_add(struct deq_wordset *w, struct deq_words words, uint32_t number);

#endif
