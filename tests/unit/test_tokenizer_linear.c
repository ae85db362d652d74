/* Tokenizer files and texts made to cost a product of two sizes. */
#include "core/text/tokenizer.h"

#include <stdlib.h>

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "core/text/added.h"
#include "core/text/bpe_train.h"
#include "core/text/normalize.h"
#include "core/text/pretok.h"
#include "tests/unit/test.h"

/* ---- text ---- */

struct text {
    const struct deq_tokenizer *tok;
    enum deq_pretok kind;
    const char *unit; /* the text is this again and again */
};

static char *repeated(const char *unit, size_t n)
{
    const size_t k = strlen(unit);
    char *s = deq_alloc(n + 1);
    for (size_t i = 0; i < n; i++)
        s[i] = unit[i % k];
    return s;
}

static void encode(void *ctx, size_t n)
{
    const struct text *t = ctx;
    struct deq_tokens out = {0};
    char *s = repeated(t->unit, n);
    (void)deq_tokenizer_encode(t->tok, s, n, false, &out, NULL);
    deq_tokens_free(&out);
    deq_free(s);
}

static void cut(void *ctx, size_t n)
{
    const struct text *t = ctx;
    char *s = repeated(t->unit, n);
    for (size_t at = 0; at < n;)
        at += deq_pretok_next(t->kind, s + at, n - at);
    deq_free(s);
}

static struct deq_tokenizer *parse(const struct deq_buf *json)
{
    struct deq_tokenizer *tok = NULL;
    struct deq_err err = {0};
    CHECK_MSG(!json->failed && !deq_tokenizer_parse(json->data, json->len, "test", &tok, &err), "%s", err.text);
    return tok;
}

/* Bytes a, b, blank and <; the added tokens given. */
static struct deq_tokenizer *with_added(const char *added)
{
    struct deq_buf json;
    deq_buf_init(&json, 64 << 20);
    deq_buf_str(&json, "{\"added_tokens\": [");
    deq_buf_str(&json, added);
    deq_buf_str(&json, "], \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, "
                       "\"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, "
                       "\"b\": 1, \"\xc4\xa0\": 2, \"<\": 3, \"aa\": 4, \"ab\": 5}, \"merges\": [\"a a\", \"a b\"]}}");
    struct deq_tokenizer *tok = parse(&json);
    deq_buf_free(&json);
    return tok;
}

TEST(tokenizer_text_is_linear)
{
    static const char *const units[] = {"a", " ", "\n", " \n", "\xe3\x80\x80", "'", "1", "ab", "\xff", "<", "'s ", "a ",
                                        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"};
    struct deq_tokenizer *gpt2 = NULL;
    struct deq_err err = {0};
    CHECK_MSG(!deq_tokenizer_load("tests/golden/tokenizer/gpt2", &gpt2, &err), "%s", err.text);
    for (size_t u = 0; gpt2 && u < DEQ_COUNT(units); u++) {
        struct text t = {.tok = gpt2, .unit = units[u]};
        CHECK_LINEAR(encode, &t, 20000, "unit %zu", u);
        for (t.kind = DEQ_PRETOK_GPT2; t.kind <= DEQ_PRETOK_DIGITS; t.kind++)
            CHECK_LINEAR(cut, &t, 20000, "unit %zu, splitter %d", u, (int)t.kind);
    }
    deq_tokenizer_free(gpt2);
}

static void form(void *ctx, size_t n)
{
    struct deq_buf out;
    char *s = repeated(ctx, n);
    deq_buf_init(&out, 64 << 20);
    CHECK(deq_normalize(DEQ_NFC, s, n, &out));
    deq_buf_free(&out);
    deq_free(s);
}

TEST(normal_forms_are_linear)
{
    /* marks that must change places, marks that join, jamo, bytes that are no text */
    static char units[][16] = {"\xcc\x81\xcc\xa3", "e\xcc\x81", "\xe1\x84\x80\xe1\x85\xa1", "\xcc", "a"};
    for (size_t u = 0; u < DEQ_COUNT(units); u++)
        CHECK_LINEAR(form, units[u], 12000, "unit %zu", u);
}

TEST(added_tokens_in_text_are_linear)
{
    static const struct {
        const char *what, *added, *unit;
    } cases[] = {
        {"blanks taken by a token of a blank", "{\"id\": 9, \"content\": \" \", \"rstrip\": true}", " "},
        {"blanks taken from both sides",
         "{\"id\": 9, \"content\": \" \", \"rstrip\": true, \"lstrip\": true}, {\"id\": 0, \"content\": \"a\", "
         "\"lstrip\": true}",
         "        a"},
        {"a token of blanks among those another took",
         "{\"id\": 9, \"content\": \" \", \"rstrip\": true}, {\"id\": 10, \"content\": \"\\n\"}", "  \n"},
        {"normalized ones", "{\"id\": 9, \"content\": \" \", \"rstrip\": true, \"normalized\": true}", " "},
        {"special ones that are text", "{\"id\": 9, \"content\": \" \", \"rstrip\": true, \"special\": true}", " "},
    };
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        struct deq_tokenizer *tok = with_added(cases[i].added);
        struct text t = {.tok = tok, .unit = cases[i].unit};
        if (tok)
            CHECK_LINEAR(encode, &t, 4096, "%s", cases[i].what);
        deq_tokenizer_free(tok);
    }
}

/* n bytes of text, and a token of n bytes that differs from it in the last: every byte of the text begins it. */
static void long_token(void *ctx, size_t n)
{
    struct deq_buf added;
    deq_buf_init(&added, 64 << 20);
    (void)ctx;
    for (int k = 0; k < 2; k++) { /* and one that is its end: the same from behind */
        char *s = repeated("a", n);
        s[k ? 0 : n - 1] = 'b';
        deq_buf_fmt(&added, "%s{\"id\": %d, \"content\": \"", k ? ", " : "", 9 + k);
        deq_buf_add(&added, s, n);
        deq_buf_str(&added, "\"}");
        deq_free(s);
    }
    struct deq_tokenizer *tok = with_added(added.data);
    struct text t = {.tok = tok, .unit = "a"};
    if (tok)
        encode(&t, n);
    deq_tokenizer_free(tok);
    deq_buf_free(&added);
}

/* sqrt(n) tokens of sqrt(n) bytes that differ at their ends only. */
static void common_beginnings(void *ctx, size_t n)
{
    struct deq_buf added;
    size_t side = 1;
    (void)ctx;
    while (side * side < n)
        side++;
    char *s = repeated("a", side);
    deq_buf_init(&added, 64 << 20);
    for (size_t i = 0; i < side; i++)
        deq_buf_fmt(&added, "%s{\"id\": %zu, \"content\": \"%s%06zu\"}", i ? ", " : "", 9 + i, s, i);
    struct deq_tokenizer *tok = with_added(added.data);
    struct text t = {.tok = tok, .unit = "a"};
    if (tok)
        encode(&t, n);
    deq_tokenizer_free(tok);
    deq_free(s);
    deq_buf_free(&added);
}

TEST(long_added_tokens_are_linear)
{
    CHECK_LINEAR(long_token, NULL, 8192, "one token as long as the text");
    CHECK_LINEAR(common_beginnings, NULL, 8192, "tokens that begin alike");
}

/* ---- files ---- */

/* n rules of the decoder, n added tokens, n words. */
static void load_words(void *ctx, size_t n)
{
    struct deq_buf json;
    (void)ctx;
    deq_buf_init(&json, 64 << 20);
    deq_buf_str(&json, "{\"added_tokens\": [");
    for (size_t i = 0; i < n; i++)
        deq_buf_fmt(&json, "%s{\"id\": %zu, \"content\": \"a%06zu\", \"special\": true}", i ? ", " : "", 2 + i, i);
    deq_buf_str(&json, "], \"pre_tokenizer\": {\"type\": \"WhitespaceSplit\"}, \"decoder\": {\"type\": \"Sequence\", "
                       "\"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"^\"}, \"content\": \" \"}");
    for (size_t i = 0; i < n; i++)
        deq_buf_fmt(&json, ", {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"^ %c%06zu$\"}, \"content\": \"\\tx\"}",
                    "aqw"[i % 3], i);
    deq_buf_str(&json, ", {\"type\": \"Fuse\"}, {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\t+ ?\"}, "
                       "\"content\": \"\"}, {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}, "
                       "\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"<unk>\": 0, \"a\": 1");
    for (size_t i = 0; i < n; i++)
        deq_buf_fmt(&json, ", \"w%06zu\": %zu", i, 2 + n + i);
    deq_buf_str(&json, "}, \"unk_token\": \"<unk>\"}}");
    deq_tokenizer_free(parse(&json));
    deq_buf_free(&json);
}

/* n tokens that are whole words too, n merges. */
static void load_bpe(void *ctx, size_t n)
{
    struct deq_buf json;
    (void)ctx;
    deq_buf_init(&json, 64 << 20);
    deq_buf_str(&json, "{\"added_tokens\": [], \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
                       "\"add_prefix_space\": false}, \"decoder\": {\"type\": \"ByteLevel\"}, "
                       "\"model\": {\"type\": \"BPE\", \"ignore_merges\": true, \"vocab\": {\"a\": 0");
    for (size_t i = 0; i < n; i++)
        deq_buf_fmt(&json, ", \"%06zu\": %zu, \"a%06zu\": %zu", i, 1 + 2 * i, i, 2 + 2 * i);
    deq_buf_str(&json, "}, \"merges\": [\"a 000000\"");
    for (size_t i = 1; i < n; i++)
        deq_buf_fmt(&json, ", \"a %06zu\"", i);
    deq_buf_str(&json, "]}}");
    deq_tokenizer_free(parse(&json));
    deq_buf_free(&json);
}

TEST(tokenizer_files_are_linear)
{
    CHECK_LINEAR(load_words, NULL, 700, "word level: rules, added tokens, words");
    CHECK_LINEAR(load_bpe, NULL, 1000, "BPE: tokens and merges");
}

/* One word without a cut, and merges as many as a part of it. */
static void train_on_a_word(void *ctx, size_t n)
{
    const struct deq_bpe_train_opts opts = {.vocab_size = (uint32_t)(DEQ_BPE_TRAIN_MIN_VOCAB + n / 16)};
    struct deq_buf json;
    uint32_t x = 1;
    (void)ctx;
    char *s = deq_alloc(n);
    for (size_t i = 0; i < n; i++)
        s[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[((x = x * 1664525 + 1013904223) >> 16) % 52];
    deq_buf_init(&json, 64 << 20);
    CHECK(!deq_bpe_train(s, n, &opts, &json, NULL));
    deq_buf_free(&json);
    deq_free(s);
}

TEST(training_on_a_long_word_is_linear)
{
    CHECK_LINEAR(train_on_a_word, NULL, 40000,
                 "letters"); /* large enough that neither size lies in a core's own cache */
}
