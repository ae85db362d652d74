/* Text files (core/base/text.h) as documents: a line that is exactly <|endoftext|> separates two documents; it and the
 * line ends beside it belong to neither. A file without that line is one document. */
#ifndef DEQ_TEXT_CORPUS_H
#define DEQ_TEXT_CORPUS_H

#include "core/text/tokenizer.h"

#define DEQ_DOCUMENT_END "<|endoftext|>"

/* Cuts the next document from text[*at..len) and advances *at; false at the end. Empty documents are skipped. */
bool deq_corpus_next(const char *text, size_t len, size_t *at, const char **ret_doc, size_t *ret_len);

/* Where the last `share` of a text begins: at a line, else at a character. */
size_t deq_corpus_split(const char *text, size_t len, float share);

/* Appends  bos doc eos bos doc eos ...  (bos, eos < 0: none of them) and counts the documents' bytes, without those. */
enum deq_rc deq_corpus_encode(const struct deq_tokenizer *tok, int64_t bos, int64_t eos, const char *text, size_t len,
                              struct deq_tokens *out, uint64_t *ret_text_bytes, struct deq_err *err);

#endif
