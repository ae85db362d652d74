/* Inside of the tokenizer module: what tokenizer.c (encode, decode), tokenizer_load.c (tokenizer.json) and the readers of the
 * models (tokenizer_bpe.c) share. Nobody else includes it.
 *
 * A new model type adds a value to enum model, its tables to struct deq_tokenizer, a reader that read_model() in tokenizer_load.c
 * calls, and a case to encode_piece() in tokenizer.c. */
#ifndef DEQ_DATA_TOKENIZER_IMPL_H
#define DEQ_DATA_TOKENIZER_IMPL_H

#include <jansson.h>

#include "core/data/bpe.h"
#include "core/data/pretok.h"
#include "core/data/tokenizer.h"

enum model { MODEL_BPE };

struct span {
    uint32_t at; /* 1 + offset in the blob; 0 = no such token */
    uint32_t len;
};

struct added {
    const char *content; /* in the blob, NUL-terminated */
    uint32_t len, id;
    bool special, lstrip, rstrip, normalized;
};

/* Added tokens that are searched for together, sorted by content. */
struct added_set {
    const struct added **item; /* [n] */
    size_t n;
    bool begins[256]; /* some content begins with this byte */
};

struct deq_tokenizer {
    uint32_t vocab_size;
    struct span *span; /* [vocab_size] bytes of each token */
    char *blob;        /* [blob_len] bytes of all tokens */
    size_t blob_len;

    struct added *added; /* [n_added] sorted by id */
    size_t n_added;
    struct added_set set[2]; /* [0] not normalized, found first; [1] normalized, found in what is left: the reference's order */

    bool prefix_space; /* a blank before text that does not begin with one */
    enum deq_pretok pretok;
    uint32_t *before, *after; /* [n_before], [n_after] ids of the post-processor's template */
    size_t n_before, n_after;

    enum model model;
    struct deq_bpe bpe;
};

struct loader {
    struct deq_tokenizer *tok; /* being filled in */
    const char *name;          /* of the file, for messages */
    struct deq_err *err;
};

#define BAD(l, fmt, ...) deq_fail((l)->err, DEQ_EFORMAT, "%s: " fmt, (l)->name, ##__VA_ARGS__)

/* tokenizer_load.c: small readers; they fail with a message that names the place */
enum deq_rc deq_load_no_memory(struct loader *l);
int deq_load_shown(const char *s, size_t n); /* how many bytes of text from the file to print with %.*s */
const char *deq_load_type(const json_t *v);  /* "an array", "nothing", ... */
bool deq_load_absent(const json_t *v);       /* missing or null */
enum deq_rc deq_load_bool(struct loader *l, const json_t *o, const char *where, const char *key, bool otherwise, bool *ret);
enum deq_rc deq_load_id(struct loader *l, const json_t *v, const char *where, const char *what, uint32_t *ret);
/* Sizes the tables by the vocabulary and the added tokens and fills in every token's bytes; with want_words also bpe.word. */
enum deq_rc deq_load_tokens(struct loader *l, json_t *vocab, bool want_words);

/* tokenizer_bpe.c: "model" of tokenizer.json; GPT-2's vocab.json and the n bytes of its merges.txt */
enum deq_rc deq_load_bpe(struct loader *l, const json_t *model);
enum deq_rc deq_load_bpe_txt(struct loader *l, json_t *vocab, const char *text, size_t n);

/* tokenizer.c */
const struct added *deq_added_longest(const struct added_set *set, const char *s, size_t n);
const struct added *deq_added_by_id(const struct deq_tokenizer *tok, uint32_t id);

#endif
