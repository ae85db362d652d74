/* Inside of the tokenizer module: what tokenizer.c (encode, decode), tokenizer_load.c (tokenizer.json),
 * tokenizer_tokens.c, tokenizer_around.c and the readers of the models (tokenizer_bpe.c, tokenizer_wordlevel.c)
 * share. Nobody else includes it.
 *
 * A new model type adds a value to enum model, its tables to struct deq_tokenizer, a reader that read_model() in
 * tokenizer_load.c calls, and its case to encode_plain() and deq_tokenizer_text() in tokenizer.c. */
#ifndef DEQ_TEXT_TOKENIZER_IMPL_H
#define DEQ_TEXT_TOKENIZER_IMPL_H

#include <jansson.h>

#include "core/text/added.h"
#include "core/text/bpe.h"
#include "core/text/normalize.h"
#include "core/text/pretok.h"
#include "core/text/tokenizer.h"
#include "core/text/wordset.h"

enum model { MODEL_BPE, MODEL_WORDLEVEL };
enum { DEQ_STAGES_MAX = 4 }; /* of a Sequence */

/* What the decoder of a word-level file says about one word: its text, and on which sides no blank separates it. */
struct joint {
    uint32_t id;
    bool before, after;
    struct deq_span text; /* in joint_text, a blank before it */
};

struct wordlevel {
    struct deq_wordset set;
    int64_t unk;           /* -1: a word that is not in the vocabulary is an error */
    int64_t newline;       /* what a line end becomes; -1: it is white space */
    bool cr;               /* "\r\n" and "\r" are line ends too */
    struct joint *joint;   /* [n_joints] sorted by id */
    size_t n_joints;
    char *joint_text;
};

struct deq_tokenizer {
    uint32_t vocab_size;
    struct deq_span *span; /* [vocab_size] bytes of each token; in a word-level blob a blank stands before each */
    char *blob;        /* [blob_len] bytes of all tokens */
    size_t blob_len;

    struct deq_added *added; /* [n_added] sorted by id */
    size_t n_added;
    struct deq_added_set set[2]; /* [0] not normalized, found first; [1] normalized, found in what is
                                  * left: the reference's order */

    enum deq_form form[DEQ_STAGES_MAX]; /* [n_forms] text between the first set's tokens is brought into
                                         * these, one after the other */
    size_t n_forms;
    bool prefix_space; /* a blank before text that does not begin with one */
    enum deq_pretok pretok[DEQ_STAGES_MAX]; /* [n_pretok] each cuts what the one before it left */
    size_t n_pretok;
    bool begins;       /* the post-processor's template has a token before a text: this one */
    uint32_t begin;

    enum model model;
    struct deq_bpe bpe;
    struct wordlevel words;
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
int deq_load_shown_z(const char *s);
const char *deq_load_type(const json_t *v);  /* "an array", "nothing", ... */
bool deq_load_absent(const json_t *v);       /* missing or null */
/* its "type"; NULL (and an error) when there is none */
const char *deq_load_component(struct loader *l, const json_t *o, const char *where);
enum deq_rc deq_load_bool(struct loader *l, const json_t *o, const char *where, const char *key, bool otherwise,
                          bool *ret);
enum deq_rc deq_load_id(struct loader *l, const json_t *v, const char *where, const char *what, uint32_t *ret);
/* tokenizer_tokens.c. The list "added_tokens"; their contents are the tree's until deq_load_tokens has copied them. */
enum deq_rc deq_load_added(struct loader *l, const json_t *list);
/* Sizes the tables by the vocabulary and the added tokens and fills in every token's bytes; with
 * want_words also bpe.word. */
enum deq_rc deq_load_tokens(struct loader *l, json_t *vocab, bool want_words);

/* tokenizer_around.c: what stands around a BPE model; the normalizer before the tokens are read, the rest after it. */
enum deq_rc deq_load_normalizer(struct loader *l, const json_t *o);
enum deq_rc deq_load_bpe_around(struct loader *l, const json_t *root);
enum deq_rc deq_load_post_processor(struct loader *l, const json_t *o);

/* tokenizer_bpe.c: "model" of tokenizer.json; GPT-2's vocab.json and the n bytes of its merges.txt */
enum deq_rc deq_load_bpe(struct loader *l, const json_t *model);
enum deq_rc deq_load_bpe_txt(struct loader *l, json_t *vocab, const char *text, size_t n);

/* tokenizer_wordlevel.c: a word is anything without white space; "model"; "normalizer", "pre_tokenizer" and
 * "decoder"; then text without added tokens, and the text of a token. prev: the token before it, -1: none. id
 * must be in the vocabulary. */
bool deq_is_word(const char *s, size_t n); /* not empty, no white space */
enum deq_rc deq_load_wordlevel(struct loader *l, const json_t *model);
enum deq_rc deq_load_wordlevel_around(struct loader *l, const json_t *root);
enum deq_rc deq_wordlevel_encode(const struct deq_tokenizer *tok, const char *s, size_t n, struct deq_tokens *out,
                                 struct deq_err *err);
const char *deq_wordlevel_text(const struct deq_tokenizer *tok, int64_t prev, uint32_t id, bool *ret_joint,
                               size_t *ret_len);
void deq_wordlevel_free(struct wordlevel *w);

/* tokenizer.c: an added token, or NULL */
const struct deq_added *deq_added_by_id(const struct deq_tokenizer *tok, uint32_t id);
const struct deq_added *deq_added_by_content(const struct deq_tokenizer *tok, const char *content, size_t n);

#endif
