/* core/text/tokenizer_load.c: damaged, cut and changed files are refused by name; memory runs out at every place. */
#include "core/text/tokenizer.h"

#include <stdlib.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/text/bpe_train.h"
#include "tests/unit/tokenizers.h"

TEST(damaged_files_are_refused_by_name)
{
    static const struct damage cases[] = {
        {"{\"version\"", "[{\"version\"", "line 1"},
        {"\"version\": \"1.0\"", "\"model\": {}", "duplicate"},
        {"\"type\": \"BPE\"", "\"type\": \"Unigram\"", "model.type: \"Unigram\" is not supported"},
        {"\"type\": \"BPE\"", "\"type\": 3", "model.type: expected a string, found an integer"},
        {"\"type\": \"BPE\"", "\"type\": \"B\\nX\"", "\"B?X\""},
        {"\"c\": 2", "\"c\": 99999999999999999999", "line 1"},
        {"\"c\": 2", "\"a\": 2", "duplicate"},
        {"\"model\": {", "\"model_\": {", "model: expected an object, found nothing"},
    };
    check_damaged(SMALL, cases, DEQ_COUNT(cases));
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
        deq_mem_count_plain(true);
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
        deq_mem_count_plain(false);
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
