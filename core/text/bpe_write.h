/* The tokenizer.json of a trained byte-level BPE vocabulary. A pure function. */
#ifndef DEQ_TEXT_BPE_WRITE_H
#define DEQ_TEXT_BPE_WRITE_H

#include "core/base/base.h"
#include "core/base/buf.h"

#define DEQ_BPE_END_OF_TEXT "<|endoftext|>"

struct deq_bpe_token {
    char *bytes; /* owned by whoever trains */
    size_t len;
};

struct deq_bpe_parts {
    uint32_t left, right; /* ids */
};

/* token: [n_tokens] by id, the first is the end of text; merge: [n_merges] in order. What
 * does not fit is out->failed. */
void deq_bpe_write(const struct deq_bpe_token *token, size_t n_tokens, const struct deq_bpe_parts *merge,
                   size_t n_merges, struct deq_buf *out);

#endif
