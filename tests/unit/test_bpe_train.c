/* core/text/bpe_train.c: merges are the reference's, in its order. */
#include "core/text/bpe_train.h"

#include <stdlib.h>

#include "core/base/mem.h"
#include "tests/unit/tokenizers.h"

TEST(training_equals_the_reference)
{
    struct deq_buf json = trained_json(SAMPLE_VOCAB);
    struct deq_tokenizer *tok = parse_tokenizer(json.data);
    size_t len = 0, lines = 0, n_a, n_b, n_c;
    char *data = read_golden(GOLDEN "sample-merges.txt", &len);
    CHECK(tok && deq_tokenizer_vocab_size(tok) == SAMPLE_VOCAB && deq_tokenizer_id(tok, "<|endoftext|>") == 0);
    for (char *p = data; tok && p && *p; lines++) {
        uint32_t a = (uint32_t)strtoul(p, &p, 10), b = (uint32_t)strtoul(p, &p, 10), c = (uint32_t)strtoul(p, &p, 10);
        const char *x = deq_tokenizer_bytes(tok, a, &n_a), *y = deq_tokenizer_bytes(tok, b, &n_b),
                   *z = deq_tokenizer_bytes(tok, c, &n_c);
        CHECK_MSG(c == 257 + lines && x && y && z && n_c == n_a + n_b && !memcmp(z, x, n_a) && !memcmp(z + n_a, y, n_b),
                  "merge %zu", lines);
        p += *p == '\n';
    }
    CHECK(lines == SAMPLE_VOCAB - 257);
    struct deq_buf again = trained_json(SAMPLE_VOCAB);
    CHECK(again.len == json.len && !memcmp(again.data, json.data, json.len));
    deq_buf_free(&again);
    deq_buf_free(&json);
    deq_free(data);
    deq_tokenizer_free(tok);
}

static struct deq_buf train_text(const char *text, uint32_t vocab_size)
{
    struct deq_buf json;
    struct deq_bpe_train_opts opts = {.vocab_size = vocab_size};
    deq_buf_init(&json, 1 << 20);
    CHECK(!deq_bpe_train(text, strlen(text), &opts, &json, NULL));
    return json;
}

TEST(training_leaves_document_ends_out)
{
    /* three times "the cat", whatever stands between */
    static const char *const same[] =
        {"the cat\n<|endoftext|>\nthe cat\n<|endoftext|>\nthe cat",
         "<|endoftext|>\nthe cat\n<|endoftext|>\n<|endoftext|>\nthe cat\n<|endoftext|>\nthe cat\n<|endoftext|>"};
    struct deq_buf a = train_text(same[0], 300), b = train_text(same[1], 300);
    CHECK(a.len == b.len && !memcmp(a.data, b.data, a.len));
    struct deq_tokenizer *tok = parse_tokenizer(a.data);
    CHECK(tok && deq_tokenizer_vocab_size(tok) == 257 + 5); /* th the at cat " cat": no more pairs */
    deq_tokenizer_free(tok);
    deq_buf_free(&a);
    deq_buf_free(&b);
    a = train_text("x <|endoftext|>\n", 300); /* not a line by itself: text */
    tok = parse_tokenizer(a.data);
    CHECK(tok && deq_tokenizer_vocab_size(tok) > 260);
    deq_tokenizer_free(tok);
    deq_buf_free(&a);
    /* the documents are "a\n", "\n", "b": no pair of line ends */
    a = train_text("a\n\n<|endoftext|>\n\n\n<|endoftext|>\nb", 300);
    tok = parse_tokenizer(a.data);
    CHECK(tok && deq_tokenizer_vocab_size(tok) == 257);
    deq_tokenizer_free(tok);
    deq_buf_free(&a);
    a = train_text("", 257);
    tok = parse_tokenizer(a.data);
    CHECK(tok && deq_tokenizer_vocab_size(tok) == 257 && tokenizer_round_trip(tok, "any\xff", 4));
    deq_tokenizer_free(tok);
    deq_buf_free(&a);
}

static void count_progress(void *ctx, size_t done, size_t total)
{
    size_t *last = ctx;
    CHECK(done >= *last && done <= total && total == SAMPLE_VOCAB - 257);
    *last = done;
}

TEST(training_arguments)
{
    struct deq_buf json;
    struct deq_err err = {0};
    size_t last = 0, len = 0;
    char *text = read_golden(GOLDEN "sample.txt", &len);
    deq_buf_init(&json, 1 << 20);
    struct deq_bpe_train_opts opts = {.vocab_size = 256};
    CHECK(deq_bpe_train("a", 1, &opts, &json, &err) == DEQ_EINVAL && strstr(err.text, "257"));
    opts = (struct deq_bpe_train_opts){SAMPLE_VOCAB, count_progress, &last};
    CHECK(!deq_bpe_train(text, len, &opts, &json, &err) && last == SAMPLE_VOCAB - 257);
    deq_buf_free(&json);
    deq_buf_init(&json, 100);
    CHECK(deq_bpe_train("a", 1, &opts, &json, &err) == DEQ_ENOMEM);
    deq_buf_free(&json);
    deq_free(text);
}
