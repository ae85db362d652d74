/* Trains a byte-level BPE vocabulary on plain text and writes it as a tokenizer.json that the
 * `tokenizers` library loads too.
 *
 * The algorithm is that library's trainer: cut the text with GPT-2's expression, count the distinct words, and then
 * repeatedly merge the most frequent adjacent pair (of equals the one with the smaller ids), keeping pair counts up to
 * date where it stood. The time is n log n of the text, whatever the lengths of its words.
 * Ids: 0 is <|endoftext|>, then the 256 bytes in the order of their symbols, then one per merge. The result
 * depends on the text and vocab_size only. A line that is exactly <|endoftext|> separates documents; it and the
 * line end before it are not text.
 *
 * One call, one thread, nothing kept. */
#ifndef DEQ_TEXT_BPE_TRAIN_H
#define DEQ_TEXT_BPE_TRAIN_H

#include "core/base/base.h"
#include "core/base/buf.h"
#include "core/base/err.h"

enum { DEQ_BPE_TRAIN_MIN_VOCAB = 257, DEQ_BPE_TRAIN_MAX_VOCAB = 1 << 20 };
#define DEQ_BPE_TRAIN_MAX_BYTES 0x7fffffffu /* of text: positions are 32 bits wide */

struct deq_bpe_train_opts {
    uint32_t vocab_size; /* DEQ_BPE_TRAIN_MIN_VOCAB .. _MAX_VOCAB; the result is smaller when
                          * the text has no more pairs */
    void (*progress)(void *ctx, size_t done, size_t total); /* merges so far; may be NULL */
    void *ctx;
};

/* ret_json: initialised by the caller; its maximum bounds the file. Nothing is appended on failure but part of the file
 * may be when the buffer is too small (DEQ_ENOMEM). */
enum deq_rc deq_bpe_train(const char *text, size_t len, const struct deq_bpe_train_opts *opts, struct deq_buf *ret_json,
                          struct deq_err *err);

#endif
