/* The bytes of a vocabulary as a trie, so that all tokens that a form allows are found in one walk: what no token has
 * before it is looked at once. Nodes stand in preorder; each says where its subtree ends, and what bytes are in it:
 * where a form takes any text of these, all tokens below a node are allowed without a look at each. Special tokens,
 * those without bytes, and those of more than DEQ_SPELLING_LONGEST are not in it: no form ever needs them, because it
 * asks only for bytes that some token spells alone. Immutable; any thread. */
#ifndef DEQ_FORM_SPELLING_H
#define DEQ_FORM_SPELLING_H

#include "core/base/base.h"
#include "core/base/err.h"

enum { DEQ_SPELLING_LONGEST = 64 };

struct deq_token_text { /* NULL: not spelled */
    const char *bytes;
    uint32_t len, id;
};

struct deq_spelling_node {
    uint64_t below;  /* kinds of the bytes below this node, a bit each */
    uint32_t behind; /* the first node that is not below this one */
    uint32_t first;  /* the tokens that end here: [n] from there in `ids`; behind them those that end below */
    uint16_t n;
    uint8_t byte, depth; /* depth: bytes up to here, 1.. */
    uint8_t most;    /* bytes below this node, of the longest token there */
};

/* Bytes that forms seldom tell apart are of one kind: signs are their own, letters and digits a few. So a set of kinds
 * is one number. */
enum { DEQ_BYTE_KINDS = 49 };

struct deq_spelling {
    uint32_t vocab_size;
    struct deq_spelling_node *node; /* [n] */
    uint32_t n;
    uint32_t *ids;                  /* [n_ids] */
    uint32_t n_ids;
    struct deq_token_text *text;    /* [vocab_size] by id; bytes: the tokenizer's */
    bool alone[256];                /* bytes that are tokens */
    uint8_t kind[256];              /* of bytes */
};

/* bytes(ctx, id, &len): what the token adds to a text, NULL: nothing that a form could use; lives as long as the
 * spelling. */
enum deq_rc deq_spelling_new(uint32_t vocab_size, const char *(*bytes)(const void *ctx, uint32_t id, size_t *ret_len),
                             const void *ctx, struct deq_spelling **ret, struct deq_err *err);
void deq_spelling_free(struct deq_spelling *s);

#endif
