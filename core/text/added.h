/* Added tokens in a text: the leftmost of them, and of those that begin there the longest, again and again.
 *
 * What it is: a trie of the contents spelt backwards, with the failure links of Aho and Corasick (1975). A text is read
 * once from its end to its beginning; the state at byte i is the longest text beginning at i that some content ends
 * with, and its `longest` is the longest content that begins at i. So all beginnings are known after O(n) steps,
 * whatever the contents share with each other and with the text.
 * What it is not: stripping of blanks and what is done with a token that was found (tokenizer.c).
 *
 * The set borrows the contents; owner: whoever embeds it, deq_added_free. Reading is safe from any thread. */
#ifndef DEQ_TEXT_ADDED_H
#define DEQ_TEXT_ADDED_H

#include "core/base/base.h"

struct deq_added {
    const char *content; /* NUL-terminated */
    uint32_t len, id;
    bool special, lstrip, rstrip, single_word, normalized;
};

struct deq_added_node {
    uint32_t child, fail; /* numbers of nodes; children stand together, by byte */
    uint32_t longest;     /* 1 + index in `item` of the longest content that the text from here begins with; 0 = none */
    uint16_t n_children;
    uint8_t byte;
};

struct deq_added_set {
    const struct deq_added **item; /* [n] sorted by content */
    size_t n;
    struct deq_added_node *node; /* [0] is the root */
    uint32_t root[256];          /* the root's child of each byte; 0 = none */
};

struct deq_added_hit {
    size_t at;
    const struct deq_added *token;
};

/* Where added tokens begin in a text, the last first. */
struct deq_added_hits {
    struct deq_added_hit *hit;
    size_t n, cap;
};

/* Room for n tokens; the caller puts set->n pointers into set->item and then makes the index. False: no memory. */
bool deq_added_room(struct deq_added_set *set, size_t n);
/* *ret_twice: one of two items of the same content, or NULL. */
bool deq_added_index(struct deq_added_set *set, const struct deq_added **ret_twice);
void deq_added_free(struct deq_added_set *set);

/* The token whose content is s[0..n), or NULL. */
const struct deq_added *deq_added_find(const struct deq_added_set *set, const char *s, size_t n);
/* Replaces *hits by all of s[0..n). False: no memory. Zero-initialise *hits, free with deq_added_hits_free. */
bool deq_added_scan(const struct deq_added_set *set, const char *s, size_t n, struct deq_added_hits *hits);
void deq_added_hits_free(struct deq_added_hits *hits);

#endif
