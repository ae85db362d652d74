/* Text to token ids and back, from a Hugging Face tokenizer.json (or GPT-2's vocab.json + merges.txt).
 *
 * What it is: the reader of that file, the splitting at added tokens, and the dispatch to the model (byte-level BPE:
 * bpe.h, with the pre-tokenisers of pretok.h; word level: tokenizer_wordlevel.c). What it is not: normalisers (but for
 * one of word level), WordPiece, Unigram: a file that asks for something this code cannot do exactly as the reference
 * library does is refused, by name of the key.
 *
 * Bytes are the truth. Text is any bytes: byte-level BPE encodes what is not UTF-8 byte by byte through the byte
 * alphabet, so that decode(encode(s)) == s always holds (unless the file asks for add_prefix_space or a stripping added
 * token). Word level keeps words only: blanks between them, and words that it does not know, are lost.
 *
 * Owner: whoever loads frees with deq_tokenizer_free. A loaded tokenizer is immutable; any thread may use it. */
#ifndef DEQ_TEXT_TOKENIZER_H
#define DEQ_TEXT_TOKENIZER_H

#include "core/base/base.h"
#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/base/tokens.h"

enum { DEQ_TOKENIZER_MAX_IDS = 1 << 24, DEQ_TOKENIZER_MAX_FILE_BYTES = 128 << 20 };

struct deq_tokenizer;

/* path: a tokenizer.json, or a directory that holds tokenizer.json or vocab.json + merges.txt. */
enum deq_rc deq_tokenizer_load(const char *path, struct deq_tokenizer **ret_tok, struct deq_err *err);
/* The text of a tokenizer.json; name stands in messages. */
enum deq_rc deq_tokenizer_parse(const char *json, size_t len, const char *name, struct deq_tokenizer **ret_tok,
                                struct deq_err *err);
void deq_tokenizer_free(struct deq_tokenizer *tok); /* takes NULL */

uint32_t deq_tokenizer_vocab_size(const struct deq_tokenizer *tok);                   /* highest id + 1 */
/* of an added token; -1 when absent */
int64_t deq_tokenizer_id(const struct deq_tokenizer *tok, const char *content);
bool deq_tokenizer_is_special(const struct deq_tokenizer *tok, uint32_t id);
/* The raw bytes a token stands for, owned by tok; NULL for an id that is not in the vocabulary. */
const char *deq_tokenizer_bytes(const struct deq_tokenizer *tok, uint32_t id, size_t *ret_len);
/* What the token adds to a shown text in which token prev stands before it (-1: it is the first). Its bytes, for
 * byte-level BPE; a word's may have a blank before it. NULL for a special token, unless the decoder of the file makes
 * something of it (a line end), and for an id that is not in the vocabulary. Concatenated over a list it is what
 * deq_tokenizer_decode makes of that list. */
const char *deq_tokenizer_text(const struct deq_tokenizer *tok, int64_t prev, uint32_t id, size_t *ret_len);

/* Whether the text of a token depends on the one before it. */
bool deq_tokenizer_has_words(const struct deq_tokenizer *tok);

/* The token that the file's post-processor puts before a text; -1: none. encode() does not: the caller knows whether
 * the text begins a sequence. (What it puts behind one, an end, is none of a prompt.) */
int64_t deq_tokenizer_begin(const struct deq_tokenizer *tok);

/* Appends the tokens of text[0..len) to out; on failure out is as before. Added tokens that are not special are always
 * recognised, special ones only with parse_special: text from users must not be able to end a conversation. DEQ_EINVAL
 * when a byte occurs that the vocabulary has no symbol for, or a word that has none and there is no unk_token. */
enum deq_rc deq_tokenizer_encode(const struct deq_tokenizer *tok, const char *text, size_t len, bool parse_special,
                                 struct deq_tokens *out, struct deq_err *err);
/* The same, but special tokens are recognised where they lie within one of the n ranges of the text, which ascend and
 * are apart: there it is the caller's own, elsewhere somebody's. It is cut nowhere else: tokens that are not special
 * lie across. (Special tokens that the file wants found in text's normal form, where the text has one: only in pieces
 * between others that lie within a range whole.) */
enum deq_rc deq_tokenizer_encode_ranges(const struct deq_tokenizer *tok, const char *text, size_t len,
                                        const struct deq_range *special, size_t n, struct deq_tokens *out,
                                        struct deq_err *err);
/* Appends raw bytes to out; they may end inside a code point. An id outside the vocabulary is DEQ_EINVAL. */
enum deq_rc deq_tokenizer_decode(const struct deq_tokenizer *tok, const uint32_t *ids, size_t n, bool skip_special,
                                 struct deq_buf *out, struct deq_err *err);

#endif
