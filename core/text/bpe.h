/* Byte-pair encoding of one piece of text: begin with one symbol per byte, then again and again replace the adjacent
 * pair whose merge has the lowest rank (the leftmost of equals) by the merged token, until no adjacent pair has a
 * merge. (Sennrich, Haddow, Birch 2016; byte-level: Radford et al. 2019.)
 *
 * Not here: reading files (tokenizer.c), cutting text into pieces (pretok.h).
 * O(n log n): a heap of candidate pairs over a linked list of symbols; short pieces scan instead, with the same result.
 * The table is immutable once built and may be used from any thread; work memory belongs to the call. */
#ifndef DEQ_TEXT_BPE_H
#define DEQ_TEXT_BPE_H

#include "core/base/base.h"
#include "core/base/err.h"
#include "core/base/tokens.h"

enum { DEQ_BPE_NONE = -1 };

struct deq_bpe_merge {
    uint32_t left, right; /* ids of the parts */
    uint32_t rank, id;    /* priority, lower first; id of the merged token */
};

struct deq_bpe_word {
    const char *bytes;
    uint32_t len, id;
};

struct deq_bpe {
    int32_t byte_id[256];        /* token of each single byte, DEQ_BPE_NONE when the vocabulary has none */
    uint32_t vocab_size;         /* every id is below */
    struct deq_bpe_merge *merge; /* [n_merges] sorted by (left, right) */
    uint32_t *first;             /* [vocab_size + 1] merges of left symbol l stand at merge[first[l] .. first[l+1]) */
    size_t n_merges;
    struct deq_bpe_word *word;   /* [n_words] with ignore_merges: a piece that is one of these is that
                                  * token, whatever merges say */
    size_t n_words;
};

/* Work memory of one encode call; zero-initialise, free with deq_bpe_work_free. */
struct deq_bpe_work {
    void *symbols, *heap;
    size_t cap; /* longest piece there is room for, in bytes */
};

/* Sorts b->merge and b->word and builds the index; the caller has filled everything but `first`. Returns -1, or the
 * rank of a merge whose pair occurs twice, or -2 when there is no memory. */
int64_t deq_bpe_index(struct deq_bpe *b);
void deq_bpe_free(struct deq_bpe *b);

/* Appends the tokens of piece[0..n) to out. */
enum deq_rc deq_bpe_encode(const struct deq_bpe *b, const char *piece, size_t n, struct deq_bpe_work *work,
                           struct deq_tokens *out, struct deq_err *err);
void deq_bpe_work_free(struct deq_bpe_work *work);

/* The byte alphabet: printable bytes stand for themselves, the other 68 for U+0100 + k in order. */
uint32_t deq_byte_to_cp(uint8_t byte);
int deq_cp_to_byte(uint32_t cp); /* -1 when cp is not of the alphabet */

#endif
