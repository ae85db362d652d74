/* core/train/dataset.c: the order of batches follows from the step alone; text held back is not trained on. */
#include "core/train/dataset.h"

#include "core/base/mem.h"
#include "core/text/corpus.h"
#include "tests/unit/test.h"

TEST(train_dataset_order)
{
    struct deq_tokenizer *tok;
    struct deq_dataset *a, *b;
    struct deq_err err;
    REQUIRE(deq_tokenizer_load("tests/golden/tiny", &tok, NULL) == DEQ_OK);
    REQUIRE(deq_dataset_load(tok, -1, 0, "tests/golden/tokenizer", "sample.txt", 0, 32, 7, &a, NULL) == DEQ_OK);
    REQUIRE(deq_dataset_load(tok, -1, 0, "tests/golden/tokenizer", "sample.txt", 0, 32, 7, &b, NULL) == DEQ_OK);
    uint32_t x[8 * 32], y[8 * 32], x2[8 * 32], y2[8 * 32];
    const uint64_t epoch = a->n_seq / 8 + 1;
    deq_dataset_batch(a, epoch + 3, 8, x, y);
    deq_dataset_batch(b, 0, 8, x2, y2);
    CHECK(memcmp(x, x2, sizeof x));
    deq_dataset_batch(b, epoch + 3, 8, x2, y2); /* another history, the same step */
    CHECK(!memcmp(x, x2, sizeof x) && !memcmp(y, y2, sizeof y));
    CHECK(!memcmp(x + 1, y, 31 * sizeof *x)); /* targets are the next tokens */
    CHECK(deq_dataset_load(tok, -1, 0, "tests/golden", "nothing.txt", 0, 32, 7, &b, &err) == DEQ_ENOTFOUND &&
          strstr(err.text, "nothing.txt"));
    deq_dataset_free(a);
    REQUIRE(deq_dataset_load(tok, 5, 0, "tests/golden/tokenizer", "sample.txt", 0, 32, 7, &a, NULL) == DEQ_OK);
    CHECK(a->tokens.n == b->tokens.n + 1 && a->tokens.ids[0] == 0 && a->tokens.ids[1] == 5); /* it is one document */
    CHECK(!memcmp(a->tokens.ids + 2, b->tokens.ids + 1, (b->tokens.n - 1) * sizeof *b->tokens.ids));
    deq_dataset_free(a);
    deq_dataset_free(b);
    deq_tokenizer_free(tok);
}

/* Training and validation text of one file: together all of it, cut at a line, else at a character. */
TEST(train_text_is_held_back)
{
    static const char lines[] = "one\ntwo\nthree\nfour\n", no_lines[] = "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9";
    CHECK(deq_corpus_split(lines, sizeof lines - 1, 0) == sizeof lines - 1);
    CHECK(deq_corpus_split(lines, sizeof lines - 1, 0.5f) == 14); /* "four" */
    CHECK(deq_corpus_split(no_lines, 8, 0.4f) == 6); /* 5 is inside a character */
    CHECK(deq_corpus_split("", 0, 0.4f) == 0);
    char *all, *head, *tail;
    size_t n, n_head, n_tail;
    static const char path[] = "tests/golden/tokenizer/sample.txt";
    REQUIRE(!deq_dataset_read(path, 0, false, &all, &n, NULL) &&
          !deq_dataset_read(path, 0.1f, false, &head, &n_head, NULL) &&
          !deq_dataset_read(path, 0.1f, true, &tail, &n_tail, NULL));
    CHECK(n_head + n_tail == n && !memcmp(all, head, n_head) && !memcmp(all + n_head, tail, n_tail));
    CHECK(n_tail > n / 20 && n_tail <= n / 10 + 1 && head[n_head - 1] == '\n');
    deq_free(all);
    deq_free(head);
    deq_free(tail);
}
