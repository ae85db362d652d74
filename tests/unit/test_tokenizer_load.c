/* core/text/tokenizer_load.c: damaged, cut and changed files are refused by name; memory runs out at every place. */
#include "core/text/tokenizer.h"

#include <stdlib.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/text/bpe_train.h"
#include "tests/unit/tokenizers.h"

TEST(damaged_files_are_refused_by_name)
{
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"{\"version\"", "[{\"version\"", "line 1"},
        {"\"version\": \"1.0\"", "\"model\": {}", "duplicate"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Lowercase\"}",
         "normalizer.type: \"Lowercase\" is not supported"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, 1]}",
         "normalizer.normalizers[]: expected an object"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Sequence\"}",
         "normalizer.normalizers: expected an array, found nothing"},
        {"\"normalizer\": null", "\"normalizer\": 7", "normalizer: expected an object, found an integer"},
        {"\"type\": \"BPE\"", "\"type\": \"Unigram\"", "model.type: \"Unigram\" is not supported"},
        {"\"type\": \"BPE\"", "\"type\": 3", "model.type: expected a string, found an integer"},
        {"\"type\": \"BPE\"", "\"type\": \"B\\nX\"", "\"B?X\""},
        {"\"dropout\": null", "\"dropout\": 0.1", "model.dropout"},
        {"\"unk_token\": null", "\"unk_token\": \"<unk>\"", "model.unk_token"},
        {"\"continuing_subword_prefix\": \"\"", "\"continuing_subword_prefix\": \"##\"",
         "model.continuing_subword_prefix"},
        {"\"end_of_word_suffix\": \"\"", "\"end_of_word_suffix\": 1", "model.end_of_word_suffix"},
        {"\"fuse_unk\": false", "\"fuse_unk\": true", "model.fuse_unk"},
        {"\"byte_fallback\": false", "\"byte_fallback\": true", "model.byte_fallback"},
        {"\"ignore_merges\": false", "\"ignore_merges\": 0",
         "model.ignore_merges: expected a boolean, found an integer"},
        {"\"vocab\": {" SMALL_VOCAB "}", "\"vocab\": []", "model.vocab: expected an object"},
        {"\"vocab\": {" SMALL_VOCAB "}", "\"vocab\": {}", "model.vocab: expected tokens, found none"},
        {"\"c\": 2", "\"c\": 1", "which another token has too"},
        {"\"c\": 2", "\"c\": -1", "\"c\": id -1 is outside"},
        {"\"c\": 2", "\"c\": 16777216", "\"c\": id 16777216 is outside"},
        {"\"c\": 2", "\"c\": 16777215", "id 16777215: the file has 10 tokens, expected their ids below 65556"},
        {"\"c\": 2", "\"c\": 99999999999999999999", "line 1"},
        {"\"c\": 2", "\"c\": \"2\"", "\"c\": expected an integer id, found a string"},
        {"\"c\": 2", "\"c\": 2.0", "\"c\": expected an integer id, found a fraction"},
        {"\"c\": 2", "\"a\": 2", "duplicate"},
        {"\"c\": 2", "\"x\": 2", "model.merges[1]: part \"c\" is not in the vocabulary"},
        {"\"bc\": 6", "\"xx\": 6", "model.merges[1]: the merged token \"bc\" is not in the vocabulary"},
        {"\"merges\": [", "\"merges\": [\"a b\", ", "model.merges[1]: the same pair"},
        {"\"a b\"", "\"ab\"", "model.merges[0]: expected two parts"},
        {"\"a b\"", "\"a  b\"", "model.merges[0]: expected two parts"},
        {"\"a b\"", "\" b\"", "model.merges[0]: expected two parts"},
        {"\"a b\"", "\"a \"", "model.merges[0]: expected two parts"},
        {"\"a b\"", "\"a b c\"", "model.merges[0]: expected two parts"},
        {"\"a b\"", "\"\"", "model.merges[0]: expected two parts"},
        {"[\"b\", \"c\"]", "[\"b\"]", "model.merges[1]: expected"},
        {"[\"b\", \"c\"]", "[\"b\", \"c\", \"a\"]", "model.merges[1]: expected"},
        {"[\"b\", \"c\"]", "[\"b\", 7]", "model.merges[1]: expected"},
        {"[\"b\", \"c\"]", "null", "model.merges[1]: expected"},
        {"\"merges\": [", "\"merges_\": [", "model.merges: expected an array, found nothing"},
        {"\"model\": {", "\"model_\": {", "model: expected an object, found nothing"},
        {"\"added_tokens\": [" SMALL_ADDED "]", "\"added_tokens\": 1", "added_tokens: expected an array"},
        {SMALL_ADDED, "7", "added_tokens[0]: expected an object"},
        {"\"content\": \"<s>\"", "\"content\": null", "added_tokens[0].content: expected a string, found null"},
        {"\"content\": \"<s>\"", "\"content\": \"\"", "added_tokens[0].content: expected text, found none"},
        {"\"content\": \"<s>\"", "\"content\": \"<t>\"", "id 7, which another token has too"},
        {"\"id\": 7", "\"id\": 12", "\"<s>\" has id 12 here and 7 in model.vocab"},
        {"\"id\": 7", "\"id\": true", "added_tokens: \"<s>\": expected an integer id, found a boolean"},
        {"\"id\": 7", "\"id\": 4294967303", "is outside"},
        {"\"single_word\": false", "\"single_word\": true", "single_word"},
        {"\"lstrip\": false", "\"lstrip\": \"no\"", "lstrip: expected a boolean, found a string"},
        {SMALL_ADDED, SMALL_ADDED ", " SMALL_ADDED, "id 7 is given twice"},
        {SMALL_ADDED, SMALL_ADDED ", {\"id\": 9, \"content\": \"<t>\"}, {\"id\": 10, \"content\": \"<t>\"}",
         "\"<t>\" stands there twice"},
        {SMALL_ADDED,
         SMALL_ADDED ", {\"id\": 9, \"content\": \"<t>\"}, {\"id\": 10, \"content\": \"<t>\", \"normalized\": true}",
         "\"<t>\" stands there twice"},
        {"\"pre_tokenizer\": " BYTE_LEVEL, "\"pre_tokenizer\": null", "pre_tokenizer: expected an object, found null"},
        {"\"pre_tokenizer\": " BYTE_LEVEL, "\"pre_tokenizer\": {\"type\": \"Whitespace\"}",
         "\"Whitespace\" is not supported"},
        {"\"pre_tokenizer\": " BYTE_LEVEL, "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": []}",
         "ByteLevel at the end, found nothing"},
        {"\"pre_tokenizer\": " BYTE_LEVEL,
         "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [" BYTE_LEVEL ", " BYTE_LEVEL "]}",
         "found \"ByteLevel\" as number 1 of 2"},
        {"\"pre_tokenizer\": " BYTE_LEVEL,
         "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", "
         "\"pattern\": {\"Regex\": \"\\\\w+|x\"}, \"behavior\": \"Isolated\", \"invert\": false}, " BYTE_LEVEL "]}",
         "not supported: \\w+|x"},
        {"\"pre_tokenizer\": " BYTE_LEVEL,
         "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", "
         "\"pattern\": {\"String\": \" \"}}, " BYTE_LEVEL "]}",
         "pattern: expected"},
        {"\"use_regex\": true", "\"use_regex\": 1", "pre_tokenizer.use_regex: expected a boolean"},
        {"\"post_processor\": null", "\"post_processor\": {\"type\": \"BertProcessing\"}",
         "\"BertProcessing\" is not supported"},
        {"\"post_processor\": null", "\"post_processor\": {\"type\": \"TemplateProcessing\"}",
         "post_processor.single: expected an array"},
        {"\"post_processor\": null", "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": []}",
         "Sequence A is missing"},
        {"\"post_processor\": null",
         "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
         "\"q\"}}]}",
         "\"q\": expected ids"},
        {"\"post_processor\": null",
         "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
         "\"q\"}}], \"special_tokens\": {\"q\": {\"ids\": [77]}}}",
         "id 77 is not in the vocabulary"},
        {"\"decoder\": " BYTE_LEVEL, "\"decoder\": null", "decoder: expected an object, found null"},
        {"\"decoder\": " BYTE_LEVEL, "\"decoder\": {\"type\": \"Metaspace\"}", "decoder.type: \"Metaspace\""},
    };
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        char *json = text_with(SMALL, cases[i].from, cases[i].to);
        struct deq_tokenizer *tok = NULL;
        struct deq_err err = {0};
        CHECK_MSG(json != NULL, "case %zu does not apply", i);
        if (!json)
            continue;
        enum deq_rc rc = deq_tokenizer_parse(json, strlen(json), "some.json", &tok, &err);
        CHECK_MSG(rc == DEQ_EFORMAT && !tok, "case %zu: %s", i, cases[i].to);
        CHECK_MSG(!strncmp(err.text, "some.json: ", 11) && strstr(err.text, cases[i].message),
                  "case %zu: \"%s\" lacks \"%s\"", i, err.text, cases[i].message);
        deq_tokenizer_free(tok);
        deq_free(json);
    }
    struct deq_tokenizer *tok = NULL;
    struct deq_err err = {0};
    CHECK(deq_tokenizer_parse("[]", 2, "x", &tok, &err) == DEQ_EFORMAT &&
          strstr(err.text, "expected an object, found an array"));
    CHECK(deq_tokenizer_parse("", 0, "x", &tok, &err) == DEQ_EFORMAT);
    CHECK(deq_tokenizer_load("tests/golden/tokenizer/none", &tok, &err) == DEQ_ENOTFOUND);
    CHECK(deq_tokenizer_load("tests/golden", &tok, &err) == DEQ_ENOTFOUND && strstr(err.text, "vocab.json"));
}

TEST(cut_and_changed_files_never_crash)
{
    const char *json = SMALL;
    size_t len = strlen(json), accepted = 0;
    char *copy = deq_alloc(len + 1);
    for (size_t n = 0; n < len; n++) {
        struct deq_tokenizer *tok = NULL;
        accepted += !deq_tokenizer_parse(json, n, "cut", &tok, NULL);
        deq_tokenizer_free(tok);
    }
    CHECK(accepted == 0);
    for (uint64_t i = 0; i < 20000; i++) {
        struct deq_tokenizer *tok = NULL;
        memcpy(copy, json, len + 1);
        for (uint64_t k = 0; k <= i % 3; k++)
            copy[deq_rng_below(9, i, 2 * k, len)] =
                "0123456789\"{}[],:ab<\xc4\xa0 \\-"[deq_rng_below(9, i, 2 * k + 1, 25)];
        if (!deq_tokenizer_parse(copy, len, "changed", &tok, NULL)) {
            struct deq_tokens t = {0};
            (void)deq_tokenizer_encode(tok, "abcab <s> cab<", 14, true, &t, NULL);
            for (size_t j = 0; j < t.n; j++) {
                size_t n;
                CHECK(deq_tokenizer_bytes(tok, t.ids[j], &n));
            }
            deq_tokens_free(&t);
        }
        deq_tokenizer_free(tok);
    }
    deq_free(copy);
}

TEST(failing_allocations)
{
    char text[200];
    memset(text, 'b', sizeof text); /* long enough for the heap */
    for (uint64_t nth = 1;; nth++) {
        struct deq_tokenizer *tok = NULL;
        struct deq_err err = {0};
        deq_mem_fault(nth, false);
        enum deq_rc rc = deq_tokenizer_parse(SMALL, strlen(SMALL), "x", &tok, &err);
        struct deq_tokens t = {0};
        struct deq_buf out, json;
        deq_buf_init(&out, 1000);
        deq_buf_init(&json, 1 << 20);
        if (!rc)
            rc = deq_tokenizer_encode(tok, text, sizeof text, true, &t, &err);
        if (!rc)
            rc = deq_tokenizer_decode(tok, t.ids, t.n, true, &out, &err);
        struct deq_bpe_train_opts opts = {.vocab_size = 270};
        if (!rc)
            rc = deq_bpe_train("the cat and the hat and that", 28, &opts, &json, &err);
        deq_mem_fault(0, false);
        CHECK(rc == DEQ_OK || (rc == DEQ_ENOMEM && err.code == DEQ_ENOMEM));
        deq_tokens_free(&t);
        deq_buf_free(&out);
        deq_buf_free(&json);
        deq_tokenizer_free(tok);
        if (!rc) {
            CHECK(nth > 200);
            break;
        }
    }
}
