/* core/text/tokenizer_around.c: normalizers, stages before the model, and the template behind it. */
#include "core/text/tokenizer.h"

#include "core/base/mem.h"
#include "tests/unit/tokenizers.h"

TEST(long_first_word_with_prefix_space)
{
    enum { N = 20000 };
    struct deq_tokenizer *tok = parse_small("\"add_prefix_space\": false", "\"add_prefix_space\": true");
    char *s = deq_alloc(N + 1);
    for (size_t len = N - 40; tok && s && len <= N; len++) { /* across the places where the scan is cut */
        struct deq_tokens t = {0};
        memset(s, 'c', len);
        CHECK(!deq_tokenizer_encode(tok, s, len, false, &t, NULL) && t.n == len + 1 && t.ids[0] == 3);
        t.n = 0;
        s[4090 + len % 20] = ' ';
        CHECK(!deq_tokenizer_encode(tok, s, len, false, &t, NULL) && t.n == len + 1);
        deq_tokens_free(&t);
    }
    deq_free(s);
    deq_tokenizer_free(tok);
}

TEST(normalizer_and_stages)
{
    struct deq_tokenizer *tok = parse_small("\"normalizer\": null",
                                            "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": "
                                            "\"NFKD\"}, {\"type\": \"NFC\"}]}");
    ENCODES(tok, "\xef\xbd\x81\xef\xbd\x82<s>c", true, 4, 7, 2); /* full width a, b */
    deq_tokenizer_free(tok);
    char *json = text_with(SMALL, SMALL_ADDED,
                           SMALL_ADDED ", {\"id\": 20, \"content\": \"ba\", \"normalized\": true}, {\"id\": 21, "
                                       "\"content\": \"cc\", \"normalized\": false}");
    char *normal_json = text_with(json, "\"normalizer\": null", "\"normalizer\": {\"type\": \"NFKC\"}");
    tok = parse_tokenizer(normal_json);
    ENCODES(tok, "a\xef\xbd\x82" "a\xef\xbd\x83" "c", true, 0, 20, 2, 2); /* "ba" after, "cc" before the form */
    deq_tokenizer_free(tok);
    deq_free(normal_json);
    deq_free(json);
    json = text_with(SMALL, SMALL_ADDED,
                     SMALL_ADDED ", {\"id\": 20, \"content\": \"\xef\xbd\x82\", \"normalized\": true}");
    normal_json = text_with(json, "\"normalizer\": null", "\"normalizer\": {\"type\": \"NFKC\"}");
    struct deq_err err = {0};
    CHECK(deq_tokenizer_parse(normal_json, strlen(normal_json), "x", &tok, &err) == DEQ_EFORMAT &&
          strstr(err.text, "the normalizer makes something else of it"));
    deq_free(normal_json);
    deq_free(json);
    static const char *const digits[] = {"true", "false"};
    for (size_t i = 0; i < 2; i++) {
        char stages[512];
        snprintf(stages, sizeof stages,
                 "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", "
                 "\"individual_digits\": %s}, " BYTE_LEVEL "]}",
                 digits[i]);
        json = text_with(SMALL, "\"pre_tokenizer\": " BYTE_LEVEL, stages);
        normal_json = text_with(json, "\"a\": 0, \"b\": 1", "\"a\": 0, \"b\": 1, \"1\": 10, \"11\": 11");
        deq_free(json);
        json = text_with(normal_json, "[\"a b\"", "[\"1 1\", \"a b\"");
        deq_free(normal_json);
        tok = parse_tokenizer(json);
        if (i)
            ENCODES(tok, "ab11 11ab", false, 4, 11, 3, 11, 4);
        else
            ENCODES(tok, "ab11 11ab", false, 4, 10, 10, 3, 10, 10, 4);
        deq_tokenizer_free(tok);
        deq_free(json);
    }
    tok = parse_small("\"decoder\": " BYTE_LEVEL,
                      "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [" BYTE_LEVEL "]}");
    ENCODES(tok, "ab", false, 4);
    deq_tokenizer_free(tok);
}

/* The token before a text is told, not put there; what stands behind is an end, which no prompt has. */
TEST(template_of_post_processor)
{
    static const char template[] =
        "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}}, "
        "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"SpecialToken\": {\"id\": \"x\", \"type_id\": 0}}], "
        "\"pair\": [], \"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [7], \"tokens\": [\"<s>\"]}, "
        "\"x\": {\"id\": \"x\", \"ids\": [4, 5], \"tokens\": [\"a\", \"b\"]}}}";
    char seq[1024], none[] = "\"post_processor\": null", *json;
    for (int nested = 0; nested < 2; nested++) {
        snprintf(seq, sizeof seq,
                 nested ? "\"post_processor\": {\"type\": \"Sequence\", \"processors\": [" BYTE_LEVEL ", %s]}"
                        : "\"post_processor\": %s",
                 template);
        json = text_with(SMALL, none, seq);
        struct deq_tokenizer *tok = parse_tokenizer(json);
        if (tok) {
            CHECK_EQ(deq_tokenizer_begin(tok), 7);
            ENCODES(tok, "ab", true, 4);
        }
        deq_tokenizer_free(tok);
        deq_free(json);
    }
    struct deq_tokenizer *tok = parse_tokenizer(SMALL);
    CHECK_EQ(deq_tokenizer_begin(tok), -1);
    deq_tokenizer_free(tok);
}

TEST(damaged_surroundings_are_refused_by_name)
{
    static const struct damage cases[] = {
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Lowercase\"}",
         "normalizer.type: \"Lowercase\" is not supported"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, 1]}",
         "normalizer.normalizers[]: expected an object"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Sequence\"}",
         "normalizer.normalizers: expected an array, found nothing"},
        {"\"normalizer\": null", "\"normalizer\": 7", "normalizer: expected an object, found an integer"},
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
        {"\"post_processor\": null",
         "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
         "\"q\"}}], \"special_tokens\": {\"q\": {\"ids\": [4, 5]}}}",
         "more than one token before a text"},
        {"\"decoder\": " BYTE_LEVEL, "\"decoder\": null", "decoder: expected an object, found null"},
        {"\"decoder\": " BYTE_LEVEL, "\"decoder\": {\"type\": \"Metaspace\"}", "decoder.type: \"Metaspace\""},
    };
    check_damaged(SMALL, cases, DEQ_COUNT(cases));
}
