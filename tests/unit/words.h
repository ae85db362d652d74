/* What the tests of words share: a tokenizer.json of word level small enough to read, and ids as digits. */
#ifndef DEQ_TEST_WORDS_H
#define DEQ_TEST_WORDS_H

#include "core/text/tokenizer.h"
#include "tests/unit/test.h"

#define ADDED "{\"id\": 0, \"content\": \"<eos>\", \"special\": true}"
#define NEWLINE "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\r\\\\n?|\\\\n\"}, \"content\": \" <eos> \"}"
#define RULE(word, text) "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"^ " word "$\"}, \"content\": \"" text "\"}"
#define BLANK "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"^\"}, \"content\": \" \"}"
#define FUSE "{\"type\": \"Fuse\"}"
#define GLUE "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\t+ ?\"}, \"content\": \"\"}"
#define STRIP "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}"
#define COMMA RULE(",", "\\t,")
#define JOINTS                                                                                               \
    "{\"type\": \"Sequence\", \"decoders\": [" BLANK ", " RULE("<eos>", "\\t\\n\\t") ", " COMMA ", "               \
    RULE("\\\\(", " (\\t") ", " RULE("@-@", "\\t-\\t") ", " FUSE ", " GLUE ", " STRIP "]}"
#define VOCAB "\"<eos>\": 0, \"the\": 1, \",\": 2, \"(\": 3, \"@-@\": 4, \"<unk>\": 5, \"caf\xc3\xa9\": 6"
#define SMALL                                                                                                \
    "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [" ADDED "], "              \
    "\"normalizer\": " NEWLINE ", \"pre_tokenizer\": {\"type\": \"WhitespaceSplit\"}, \"post_processor\": null, "    \
    "\"decoder\": " JOINTS ", \"model\": {\"type\": \"WordLevel\", \"vocab\": {" VOCAB "}, "                       \
    "\"unk_token\": \"<unk>\"}}"

/* Of decimal digits with blanks between them. */
struct deq_tokens ids_of(char *text);
bool same_tokens(const struct deq_tokens *a, const struct deq_tokens *b);
/* "0 1 2" */
bool encodes(const struct deq_tokenizer *tok, const char *text, const char *want);
bool decodes(const struct deq_tokenizer *tok, const char *ids, bool skip_special, const char *want);

#endif
