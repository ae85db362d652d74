/* core/text/tokenizer_bpe.c: merges of a tokenizer.json, and what a model of it may not say. */
#include "core/text/tokenizer.h"

#include "core/base/mem.h"
#include "tests/unit/tokenizers.h"

TEST(small_vocabulary)
{
    struct deq_tokenizer *tok = parse_tokenizer(SMALL);
    if (!tok)
        return;
    CHECK(deq_tokenizer_vocab_size(tok) == 9);
    ENCODES(tok, "abcab", false, 5, 4);
    ENCODES(tok, " a", false, 3, 0); /* no merge makes "U+0120 a", though it is in the vocabulary */
    ENCODES(tok, "a<s>b", true, 0, 7, 1);
    struct deq_err err = {0};
    struct deq_tokens t = {0};
    CHECK(deq_tokens_push(&t, 42));
    CHECK(deq_tokenizer_encode(tok, "ab ax", 5, false, &t, &err) == DEQ_EINVAL && strstr(err.text, "0x78"));
    CHECK(t.n == 1 && t.ids[0] == 42);
    struct deq_buf out;
    deq_buf_init(&out, 4);
    CHECK(!deq_tokenizer_decode(tok, (uint32_t[]){5}, 1, false, &out, &err) && out.len == 3);
    CHECK(deq_tokenizer_decode(tok, (uint32_t[]){0, 9}, 2, false, &out, &err) == DEQ_EINVAL && strstr(err.text, "9"));
    CHECK(out.len == 3 && !strcmp(out.data, "abc"));
    CHECK(deq_tokenizer_decode(tok, (uint32_t[]){5}, 1, false, &out, &err) == DEQ_ENOMEM);
    deq_buf_free(&out); /* a failure stays until then */
    CHECK(!deq_tokenizer_decode(tok, (uint32_t[]){7, 4, 7}, 3, true, &out, &err) && !strcmp(out.data, "ab"));
    deq_buf_free(&out);
    deq_tokens_free(&t);
    deq_tokenizer_free(tok);

    tok = parse_small("\"ignore_merges\": false", "\"ignore_merges\": true");
    ENCODES(tok, " a", false, 8);
    ENCODES(tok, " aab", false, 3, 0, 4);
    deq_tokenizer_free(tok);
    tok = parse_small("\"add_prefix_space\": false", "\"add_prefix_space\": true");
    ENCODES(tok, "ab", false, 3, 4);
    ENCODES(tok, " ab", false, 3, 4);
    ENCODES(tok, "ab<s>c", true, 3, 4, 7, 3, 2);
    deq_tokenizer_free(tok);
    tok = parse_small("\"type\": \"BPE\", ", "");
    ENCODES(tok, "abc", false, 5);
    deq_tokenizer_free(tok);
}

TEST(damaged_merges_are_refused_by_name)
{
    static const struct damage cases[] = {
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
    };
    check_damaged(SMALL, cases, DEQ_COUNT(cases));
}
