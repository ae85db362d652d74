/* core/text/added.c: added tokens in a text, the longest of the leftmost. */
#include "core/text/added.h"

#include "tests/unit/tokenizers.h"

TEST(added_tokens)
{
    struct deq_tokenizer *tok = parse_small(
        SMALL_ADDED,
        SMALL_ADDED ", {\"id\": 20, \"content\": \"<s>b\"}, {\"id\": 21, \"content\": \"ca\", \"normalized\": true}, "
                    "{\"id\": 22, \"content\": \"<l>\", \"lstrip\": true}, "
                    "{\"id\": 23, \"content\": \"<r>\", \"rstrip\": true}");
    size_t n;
    if (!tok)
        return;
    CHECK(deq_tokenizer_vocab_size(tok) == 24 && deq_tokenizer_id(tok, "ca") == 21 &&
          !deq_tokenizer_bytes(tok, 10, &n));
    ENCODES(tok, "a<s>bc", true, 0, 20, 2);   /* the longest wins */
    ENCODES(tok, "a<s>ca", true, 0, 7, 21);   /* what is normalized is found between the others */
    ENCODES(tok, "bca", false, 1, 21);        /* not special: always found, before any merge */
    ENCODES(tok, "a  <l>  b", false, 0, 22, 3, 3, 1);
    ENCODES(tok, "a  <r> \xe3\x80\x80 b", false, 0, 3, 3, 23, 1);
    deq_tokenizer_free(tok);
}

/* The search against the plain definition, over an alphabet of two letters, where everything overlaps. */
TEST(added_tokens_leftmost_longest)
{
    static const struct deq_added token[] = {
        {"a", 1, 0, 0, 0, 0, 0, 0}, {"ab", 2, 1, 0, 0, 0, 0, 0}, {"abab", 4, 2, 0, 0, 0, 0, 0},
        {"bba", 3, 3, 0, 0, 0, 0, 0}, {"babaa", 5, 4, 0, 0, 0, 0, 0}, {"aabb", 4, 5, 0, 0, 0, 0, 0},
    };
    struct deq_added_hits hits = {0};
    for (unsigned some = 0; some < 1u << DEQ_COUNT(token); some++) {
        struct deq_added_set set = {0};
        const struct deq_added *twice;
        CHECK(deq_added_room(&set, DEQ_COUNT(token)));
        for (size_t i = 0; i < DEQ_COUNT(token); i++)
            if (some >> i & 1)
                set.item[set.n++] = &token[i];
        CHECK(deq_added_index(&set, &twice) && !twice);
        for (unsigned bits = 0; bits < 1 << 10; bits++) {
            char s[11] = {0};
            size_t bad = 0;
            for (size_t i = 0; i < 10; i++)
                s[i] = bits >> i & 1 ? 'a' : 'b';
            CHECK(deq_added_scan(&set, s, 10, &hits));
            for (size_t at = 0; at < 10; at++) {
                const struct deq_added *want = NULL, *got = NULL;
                for (size_t i = 0; i < DEQ_COUNT(token); i++)
                    if (some >> i & 1 && !strncmp(s + at, token[i].content, token[i].len) &&
                        (!want || want->len < token[i].len))
                        want = &token[i];
                for (size_t i = 0; i < hits.n; i++)
                    got = hits.hit[i].at == at ? hits.hit[i].token : got;
                bad += got != want;
            }
            CHECK_MSG(!bad, "tokens %x, text %s", some, s);
        }
        for (size_t i = 0; i < DEQ_COUNT(token); i++)
            CHECK(deq_added_find(&set, token[i].content, token[i].len) == (some >> i & 1 ? &token[i] : NULL));
        CHECK(!deq_added_find(&set, "abb", 3) && !deq_added_find(&set, "", 0));
        deq_added_free(&set);
    }
    deq_added_hits_free(&hits);
}
