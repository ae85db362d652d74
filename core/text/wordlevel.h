/* Makes the tokenizer.json of a word-level model, from the vocabulary that the model was trained with: what the
 * `tokenizers` library and tokenizer_wordlevel.c read to the ids of the DEQ authors' code (locuslab/deq and torchdeq:
 * utils/vocabulary.py, which is Transformer-XL's). There a line of text is cut at white space, every line ends in
 * <eos>, and id i is the i-th symbol.
 *
 * The file says the same: a line end becomes the word <eos> where the vocabulary has one (else it is white
 * space); a word that is not in the vocabulary becomes <unk>, or <UNK>, or is an error where there is neither
 * (the authors' code stops too). Their code ends a last line without a line end in <eos> as well; a prompt does
 * not end there, and gets none.
 * Its decoder undoes what WikiText's tokenisation did, as far as that is a function of two neighbours: "a @-@ b ( c ) ,
 * d 's" is shown as "a-b (c), d's". Straight quotes stay apart: which of them opens is not to be seen there. Reading
 * such a text again gives other ids ("c),": it is one word now); without the decoder, encode(decode(ids)) == ids.
 *
 * One call, one thread, nothing kept. */
#ifndef DEQ_TEXT_WORDLEVEL_H
#define DEQ_TEXT_WORDLEVEL_H

#include "core/base/base.h"
#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/text/wordset.h"

enum { DEQ_WORDLEVEL_MAX_WORDS = 1 << 22 };

struct deq_wordlevel_info {
    uint32_t n_words;
    int64_t eos_id, unk_id; /* -1: the vocabulary has none */
};

/* Reads a vocabulary: UTF-8, a symbol a line in the order of ids, which is what stands before the first white space
 * (behind it may be a count). A symbol that stands there again is skipped, as the authors' Vocab._build_from_file does;
 * an empty line, at which that fails, is DEQ_EFORMAT. expected: how many symbols there must be; 0: any number. out_path
 * is replaced whole or not at all. */
enum deq_rc deq_wordlevel_from_vocab(const char *vocab_path, uint32_t expected, const char *out_path,
                                     struct deq_wordlevel_info *ret_info, struct deq_err *err);

/* For a model whose vocabulary is lost: the words "<0>", "<1>", ... It can be served by token ids, and by texts of such
 * words; another word is an error, not <unk>, for nobody knows that token. */
enum deq_rc deq_wordlevel_placeholder(uint32_t n_words, const char *out_path, struct deq_err *err);

/* Counts words as the authors do: <eos> is id 0, then the words by count, of equals the one that came
 * first. Texts are added in order: of WikiText-103 the training text, of WikiText-2 and the Penn Treebank
 * training, validation and test. */
struct deq_wordcount {
    struct deq_wordset set;
    char *blob;              /* [len] of blob_cap */
    struct deq_span *span;   /* [set.n] of cap, in order of first occurrence */
    uint64_t *count;         /* [set.n] of cap */
    size_t len, blob_cap, cap;
    uint64_t n_words;        /* of all texts */
};
enum deq_rc deq_wordcount_init(struct deq_wordcount *c, struct deq_err *err);
void deq_wordcount_free(struct deq_wordcount *c);
/* name stands in messages. */
enum deq_rc deq_wordcount_add(struct deq_wordcount *c, const char *name, const char *text, size_t len,
                              struct deq_err *err);
/* Writes tokenizer.json and, unless vocab_path is NULL, the vocabulary as
 * deq_wordlevel_from_vocab reads it, with counts. */
enum deq_rc deq_wordcount_write(struct deq_wordcount *c, const char *out_path, const char *vocab_path,
                                struct deq_wordlevel_info *ret_info, struct deq_err *err);

#endif
