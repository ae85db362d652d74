/* core/text/tokenizer_tokens.c: ids, words and added tokens of a tokenizer.json, and which do not go together. */
#include "core/text/tokenizer.h"

#include "tests/unit/tokenizers.h"

TEST(tokens_of_a_vocabulary_and_added_ones)
{
    /* ids may have holes, an added token may stand in the vocabulary or behind it, in any order */
    struct deq_tokenizer *tok = parse_small(
        SMALL_ADDED,
            "{\"id\": 15, \"content\": \"<t>\"}, " SMALL_ADDED
            ", {\"id\": 12, \"content\": \"<u>\", \"special\": true}");
    size_t n = 0;
    REQUIRE(tok);
    CHECK_EQ(deq_tokenizer_vocab_size(tok), 16);
    CHECK(deq_tokenizer_id(tok, "<t>") == 15 && deq_tokenizer_id(tok, "<u>") == 12 &&
          deq_tokenizer_id(tok, "<s>") == 7);
    CHECK(deq_tokenizer_is_special(tok, 7) && deq_tokenizer_is_special(tok, 12) && !deq_tokenizer_is_special(tok, 15));
    CHECK(!deq_tokenizer_bytes(tok, 13, &n) && !deq_tokenizer_bytes(tok, 16, &n));
    const char *space = deq_tokenizer_bytes(tok, 8, &n); /* letters of the alphabet of bytes are the bytes */
    CHECK(space && n == 2 && !memcmp(space, " a", 2));
    deq_tokenizer_free(tok);
}

TEST(damaged_tokens_are_refused_by_name)
{
    static const struct damage cases[] = {
        {"\"vocab\": {" SMALL_VOCAB "}", "\"vocab\": {}", "model.vocab: expected tokens, found none"},
        {"\"c\": 2", "\"c\": 1", "which another token has too"},
        {"\"c\": 2", "\"c\": -1", "\"c\": id -1 is outside"},
        {"\"c\": 2", "\"c\": 16777216", "\"c\": id 16777216 is outside"},
        {"\"c\": 2", "\"c\": 16777215", "id 16777215: the file has 10 tokens, expected their ids below 65556"},
        {"\"c\": 2", "\"c\": \"2\"", "\"c\": expected an integer id, found a string"},
        {"\"c\": 2", "\"c\": 2.0", "\"c\": expected an integer id, found a fraction"},
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
    };
    check_damaged(SMALL, cases, DEQ_COUNT(cases));
}
