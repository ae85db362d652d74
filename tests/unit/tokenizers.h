/* What the tests of tokenizers share: the golden files, a tokenizer.json small enough to read, and changes of it. */
#ifndef DEQ_TEST_TOKENIZERS_H
#define DEQ_TEST_TOKENIZERS_H

#include "core/base/buf.h"
#include "core/text/tokenizer.h"
#include "tests/unit/damaged.h"
#include "tests/unit/test.h"

#define GOLDEN "tests/golden/tokenizer/"

enum { SAMPLE_VOCAB = 1024 };

/* The vocabulary of all small files: bytes a, b, c, space (as U+0120), and some words. */
#define SMALL_VOCAB                                                                                          \
    "\"a\": 0, \"b\": 1, \"c\": 2, \"\xc4\xa0\": 3, \"ab\": 4, \"abc\": 5, \"bc\": 6, \"<s>\": 7, " \
    "\"\xc4\xa0" "a\": 8"
#define SMALL_ADDED                                                                                          \
    "{\"id\": 7, \"content\": \"<s>\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "          \
    "\"normalized\": false, \"special\": true}"
#define SMALL_MODEL                                                                                          \
    "{\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": \"\", "            \
    "\"end_of_word_suffix\": \"\", \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false, "      \
    "\"vocab\": {" SMALL_VOCAB "}, "                                                                         \
    "\"merges\": [\"a b\", [\"b\", \"c\"], \"ab c\"]}"
#define BYTE_LEVEL "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}"
#define SMALL                                                                                                \
    "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [" SMALL_ADDED "], "        \
    "\"normalizer\": null, \"pre_tokenizer\": " BYTE_LEVEL ", \"post_processor\": null, "                      \
    "\"decoder\": " BYTE_LEVEL ", \"model\": " SMALL_MODEL "}"

char *read_golden(const char *name, size_t *ret_len);
/* tokenizer.json trained on sample.txt */
struct deq_buf trained_json(uint32_t vocab_size);
struct deq_tokenizer *parse_tokenizer(const char *json);
bool tokenizer_round_trip(const struct deq_tokenizer *tok, const char *s, size_t n);
bool encodes_to(const struct deq_tokenizer *tok, const char *s, bool special, const uint32_t *want, size_t n);
struct deq_tokenizer *parse_small(const char *from, const char *to);
/* Bytes of n hexadecimal digits. */
size_t hex_text(const char *hex, size_t n, char *out);

#define ENCODES(tok, s, special, ...)                                                                        \
    CHECK(encodes_to(tok, s, special, (const uint32_t[]){__VA_ARGS__}, DEQ_COUNT(((const uint32_t[]){__VA_ARGS__}))))

#endif
