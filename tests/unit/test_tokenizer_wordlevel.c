/* core/text/tokenizer_wordlevel.c: a tokenizer.json of words, what it encodes and decodes, and what is no such file. */
#include "core/text/tokenizer.h"

#include <stdlib.h>

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "tests/unit/damaged.h"
#include "tests/unit/words.h"

static struct deq_tokenizer *parse_with(const char *from, const char *to)
{
    char *json = text_with(SMALL, from, to);
    struct deq_tokenizer *tok = NULL;
    struct deq_err err = {0};
    CHECK_MSG(json && !deq_tokenizer_parse(json, strlen(json), "test", &tok, &err), "%s", err.text);
    deq_free(json);
    return tok;
}

TEST(wordlevel_small)
{
    size_t n = 0;
    struct deq_tokenizer *tok = parse_with("1.0", "1.0");
    if (!tok)
        return;
    CHECK(deq_tokenizer_vocab_size(tok) == 7 && deq_tokenizer_is_special(tok, 0) && !deq_tokenizer_is_special(tok, 5));
    CHECK(deq_tokenizer_id(tok, "<eos>") == 0 && deq_tokenizer_id(tok, "the") == -1);
    CHECK(encodes(tok, "", "") && encodes(tok, " \t ", ""));
    CHECK(encodes(tok, "the , nowhere caf\xc3\xa9", "1 2 5 6"));
    CHECK(encodes(tok, "the\xe3\x80\x80the\xc2\x85the", "1 1 1"));
    CHECK(encodes(tok, "the\n\n the\r\nthe\rthe\n", "1 0 0 1 0 1 0 1 0")); /* a last line without its end has none */
    CHECK(encodes(tok, "the <eos> the<eos>", "1 0 5"));
    /* what is not UTF-8 is of no known word, and no white space */
    CHECK(encodes(tok, "caf\xc3 \xff\xfe the\xe3\x80", "5 5 5"));
    CHECK(decodes(tok, "1 3 1 2 1 4 1 0 1 0 0", false, "the (the, the-the\nthe\n\n"));
    CHECK(decodes(tok, "1 0 1", true, "the the") && decodes(tok, "0 1", false, "\nthe") &&
          decodes(tok, "2 4 4 3 0", false, ",--(\n"));
    CHECK(deq_tokenizer_bytes(tok, 6, &n) && n == 5);
    CHECK(deq_tokenizer_text(tok, 1, 6, &n) && n == 6 && *deq_tokenizer_text(tok, 1, 6, &n) == ' ');
    CHECK(deq_tokenizer_text(tok, 3, 6, &n) && n == 5);
    CHECK(deq_tokenizer_text(tok, 1 << 24, 6, &n) && n == 6); /* any prev will do */
    CHECK(!deq_tokenizer_text(tok, 1, 7, &n) && !deq_tokenizer_text(tok, -1, UINT32_MAX, &n));
    deq_tokenizer_free(tok);

    tok = parse_with(JOINTS, "null"); /* words joined by blanks: encode(decode(ids)) == ids */
    CHECK(decodes(tok, "1 3 1 2 4 0 1", false, "the ( the , @-@ <eos> the") &&
          encodes(tok, "the ( the , @-@ <eos> the", "1 3 1 2 4 0 1"));
    CHECK(!deq_tokenizer_text(tok, 1, 0, &n)); /* special, and nobody says what it looks like */
    deq_tokenizer_free(tok);
    tok = parse_with(NEWLINE, "null");
    CHECK(encodes(tok, "the\nthe\r\n", "1 1"));
    deq_tokenizer_free(tok);
    tok = parse_with("{\"Regex\": \"\\\\r\\\\n?|\\\\n\"}", "{\"String\": \"\\n\"}");
    CHECK(encodes(tok, "the\nthe\r\nthe\rthe", "1 0 1 0 1 1"));
    deq_tokenizer_free(tok);

    struct deq_tokens t = {0};
    struct deq_err err = {0};
    tok = parse_with("\"unk_token\": \"<unk>\"", "\"unk_token\": \"[UNK]\"");
    CHECK(deq_tokens_push(&t, 42));
    CHECK(tok && deq_tokenizer_encode(tok, "the nowhere", 11, false, &t, &err) == DEQ_EINVAL &&
          strstr(err.text, "\"nowhere\"") && t.n == 1);
    deq_tokens_free(&t);
    deq_tokenizer_free(tok);
}

TEST(wordlevel_damaged_files_are_refused_by_name)
{
    static const struct damage cases[] = {
        {"\"vocab\": {" VOCAB "}", "\"vocab\": []", "model.vocab: expected an object of word: id, found an array"},
        {"\"vocab\": {" VOCAB "}", "\"vocab\": {}", "model.vocab: expected tokens, found none"},
        {"\"the\": 1", "\"the\": 2", "which another token has too"},
        {"\"the\": 1", "\"the\": \"1\"", "expected an integer id, found a string"},
        {"\"the\": 1", "\"the\": 99999999", "is outside"},
        {"\"the\": 1", "\",\": 1", "duplicate"},
        {"\"the\": 1", "\"\": 1", "model.vocab: \"\" is empty or holds white space"},
        {"\"the\": 1", "\"the end\": 1", "model.vocab: \"the end\" is empty or holds white space"},
        {"\"the\": 1", "\"a\xe2\x80\x83\": 1", "is empty or holds white space"},
        {"\"<eos>\": 0", "\"<eos>\": 7", "\"<eos>\" has id 0 here and 7 in model.vocab"},
        {", \"unk_token\": \"<unk>\"", "", "model.unk_token: expected a string, found nothing"},
        {"\"unk_token\": \"<unk>\"", "\"unk_token\": null", "model.unk_token: expected a string, found null"},
        {"\"WhitespaceSplit\"", "\"Whitespace\"", "pre_tokenizer.type: \"Whitespace\" is not supported with WordLevel"},
        {"{\"type\": \"WhitespaceSplit\"}", "null", "pre_tokenizer: expected an object, found null"},
        {NEWLINE, "{\"type\": \"Lowercase\"}", "normalizer.type: \"Lowercase\" is not supported"},
        {NEWLINE, "{}", "normalizer.type: expected a string, found nothing"},
        {"\\\\r\\\\n?|\\\\n", "\\\\s", "normalizer.pattern: expected"},
        {"\" <eos> \"", "\"<eos>\"", "normalizer.content: expected one word between two blanks"},
        {"\" <eos> \"", "\"  \"", "normalizer.content: expected one word between two blanks"},
        {"\" <eos> \"", "\" a b \"", "normalizer.content: expected one word between two blanks"},
        {"\" <eos> \"", "\" <nl> \"", "normalizer.content: the word \"<nl>\" is not in the vocabulary"},
        {"\"special\": true", "\"normalized\": true",
         "\"<eos>\".normalized: true is not supported together with a normalizer"},
        {JOINTS, "7", "decoder: expected an object, found an integer"},
        {JOINTS, "{\"type\": \"WordPiece\"}",
         "decoder.type: \"WordPiece\" is not supported, expected null or \"Sequence\""},
        {JOINTS, "{\"type\": \"Sequence\"}", "decoder.decoders: expected"},
        {BLANK ", ", "", "decoder.decoders: expected"},
        {", " FUSE, "", "decoder.decoders: expected"},
        {", " GLUE, "", "decoder.decoders: expected"},
        {"\"start\": 1", "\"start\": 2", "decoder.decoders: expected"},
        {COMMA, "null", "decoder.decoders[2]: expected a Replace"},
        {COMMA, FUSE, "decoder.decoders[2]: expected a Replace"},
        {COMMA, RULE(".", "\\t."), "decoder.decoders[2]: expected a Replace"},
        {COMMA, RULE("\\\\w", "\\tw"), "decoder.decoders[2]: expected a Replace"},
        {COMMA, RULE("", "\\t,"), "decoder.decoders[2]: expected a Replace"},
        {COMMA, RULE("a b", "\\t,"), "decoder.decoders[2]: expected a Replace"},
        {COMMA, RULE(",", " ,"), "decoder.decoders[2].content: expected"},
        {COMMA, RULE(",", ""), "decoder.decoders[2].content: expected"},
        {COMMA, RULE(",", "\\t"), "decoder.decoders[2].content: expected"},
        {COMMA, RULE(",", "\\t\\t"), "decoder.decoders[2].content: expected"},
        {COMMA, RULE(",", "\\t, ,"), "decoder.decoders[2].content: expected"},
        {COMMA, RULE(",", ",\\t"), "decoder.decoders[2].content: expected"},
        {COMMA, COMMA ", " COMMA, "decoder.decoders: the word \",\" stands there twice"},
        {"\"post_processor\": null", "\"post_processor\": {\"type\": \"BertProcessing\"}",
         "\"BertProcessing\" is not supported"},
    };
    check_damaged(SMALL, cases, DEQ_COUNT(cases));
}

TEST(wordlevel_cut_and_changed_files_never_crash)
{
    size_t len = strlen(SMALL), accepted = 0, loaded = 0;
    char *copy = deq_alloc(len + 1);
    for (size_t n = 0; n < len; n++) {
        struct deq_tokenizer *tok = NULL;
        accepted += !deq_tokenizer_parse(SMALL, n, "cut", &tok, NULL);
        deq_tokenizer_free(tok);
    }
    CHECK(accepted == 0);
    for (uint64_t i = 0; i < 20000; i++) {
        struct deq_tokenizer *tok = NULL;
        memcpy(copy, SMALL, len + 1);
        for (uint64_t k = 0; k <= i % 3; k++)
            copy[deq_rng_below(9, i, 2 * k, len)] =
                "0123456789\"{}[],:ab<\xc4\xa0 \\-nt$^"[deq_rng_below(9, i, 2 * k + 1, 29)];
        if (!deq_tokenizer_parse(copy, len, "changed", &tok, NULL)) {
            struct deq_tokens t = {0};
            struct deq_buf b;
            loaded++;
            deq_buf_init(&b, 4096);
            (void)deq_tokenizer_encode(tok, "the ( caf\xc3\xa9 , @-@\n<eos> no\r", 27, true, &t, NULL);
            CHECK(!deq_tokenizer_decode(tok, t.ids, t.n, false, &b, NULL));
            deq_buf_free(&b);
            deq_tokens_free(&t);
        }
        deq_tokenizer_free(tok);
    }
    CHECK(loaded > 1000);
    deq_free(copy);
}

/* Want of memory is told as such wherever it comes, also of jansson's: the file is right. */
TEST(wordlevel_without_memory_is_no_bad_file)
{
    uint64_t nth = 0;
    for (enum deq_rc rc = DEQ_ENOMEM; rc;) {
        struct deq_tokenizer *tok = NULL;
        struct deq_err err = {0};
        deq_mem_count_plain(true);
        deq_mem_fault(++nth, false);
        rc = deq_tokenizer_parse(SMALL, strlen(SMALL), "x", &tok, &err);
        deq_mem_fault(0, false);
        deq_mem_count_plain(false);
        CHECK_MSG(!rc || rc == DEQ_ENOMEM, "allocation %llu: %s", (unsigned long long)nth, err.text);
        deq_tokenizer_free(tok);
    }
    CHECK(nth > 100);
}
