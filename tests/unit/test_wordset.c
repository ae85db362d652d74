/* core/text/wordset.c: words are found by their bytes, also when the index had to grow; other words are not. */
#include "core/text/wordset.h"

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "tests/unit/test.h"

enum { WORDS = 3000 };

TEST(wordset_finds_what_was_put_in)
{
    static struct deq_span span[WORDS];
    struct deq_buf blob;
    struct deq_wordset w;
    deq_buf_init(&blob, 1 << 20);
    for (uint32_t i = 0; i < WORDS; i++) { /* "0", "00", "1", ...: many are the beginning of another */
        span[i].at = (uint32_t)blob.len + 1;
        deq_buf_fmt(&blob, "%x%s", i / 2, i % 2 ? "0x" : "");
        span[i].len = (uint32_t)(blob.len + 1 - span[i].at);
    }
    CHECK(!deq_wordset_init(&w, 10, NULL)); /* far too few: it grows */
    size_t early = 0, wrong = 0;
    for (uint32_t i = 0; i < WORDS; i++) {
        const struct deq_words words = {blob.data, span};
        early += deq_wordset_find(&w, words, blob.data + span[i].at - 1, span[i].len) != -1;
        CHECK(deq_wordset_add(&w, words, i));
    }
    CHECK(w.n == WORDS && w.n_slots >= 2 * WORDS);
    struct deq_buf moved; /* the blob may move */
    deq_buf_init(&moved, 1 << 20);
    deq_buf_append(&moved, &blob);
    const struct deq_words words = {moved.data, span};
    for (uint32_t i = 0; i < WORDS; i++)
        wrong += deq_wordset_find(&w, words, blob.data + span[i].at - 1, span[i].len) != i;
    CHECK_EQ(early, 0u);
    CHECK_EQ(wrong, 0u);
    CHECK_EQ(deq_wordset_find(&w, words, "", 0), -1);
    CHECK_EQ(deq_wordset_find(&w, words, "0x0", 3), -1);
    CHECK_EQ(deq_wordset_find(&w, words, "fffff", 5), -1);
    deq_wordset_free(&w);
    deq_wordset_free(&w);
    deq_buf_free(&moved);
    deq_buf_free(&blob);
}

TEST(wordset_without_memory)
{
    static const struct deq_span span[40] = {{1, 1}, {2, 1}};
    const struct deq_words words = {"ab", span};
    struct deq_wordset w;
    struct deq_err err;
    deq_mem_fault(1, false);
    CHECK(deq_wordset_init(&w, 10, &err) == DEQ_ENOMEM && strstr(err.text, "10 words"));
    deq_mem_fault(0, false);
    CHECK(!deq_wordset_init(&w, 0, NULL) && deq_wordset_add(&w, words, 0));
    w.n = w.n_slots / 2; /* full */
    deq_mem_fault(1, false);
    CHECK(!deq_wordset_add(&w, words, 1));
    deq_mem_fault(0, false);
    CHECK(deq_wordset_find(&w, words, "a", 1) == 0 && deq_wordset_find(&w, words, "b", 1) == -1);
    deq_wordset_free(&w);
}
