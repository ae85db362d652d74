/* core/text/bpe_write.c: what is written is a tokenizer that gives the tokens back, quotes and control characters too.
 * */
#include "core/text/bpe_write.h"

#include "tests/unit/tokenizers.h"

TEST(bpe_write_reads_back)
{
    struct deq_bpe_token token[257 + 3] = {{"<|endoftext|>", 13}};
    char bytes[256];
    const struct deq_bpe_parts merge[] = {{1 + '"', 1 + '\\'}, {1 + '\n', 1}, {257, 258}};
    struct deq_buf json;
    for (int b = 0; b < 256; b++) {
        bytes[b] = (char)b;
        token[1 + b] = (struct deq_bpe_token){&bytes[b], 1};
    }
    token[257] = (struct deq_bpe_token){"\"\\", 2};
    token[258] = (struct deq_bpe_token){"\n\0", 2};
    token[259] = (struct deq_bpe_token){"\"\\\n\0", 4};
    deq_buf_init(&json, 1 << 16);
    deq_bpe_write(token, DEQ_COUNT(token), merge, DEQ_COUNT(merge), &json);
    struct deq_tokenizer *tok = parse_tokenizer(json.data);
    REQUIRE(tok);
    CHECK_EQ(deq_tokenizer_vocab_size(tok), DEQ_COUNT(token));
    CHECK_EQ(deq_tokenizer_id(tok, "<|endoftext|>"), 0);
    for (uint32_t i = 1; i < DEQ_COUNT(token); i++) {
        size_t n = 0;
        const char *s = deq_tokenizer_bytes(tok, i, &n);
        CHECK_MSG(s && n == token[i].len && !memcmp(s, token[i].bytes, n), "token %u", i);
    }
    ENCODES(tok, "\"\\\\", false, 257, 1 + '\\');
    deq_tokenizer_free(tok);
    deq_buf_free(&json);

    deq_buf_init(&json, 1 << 16);
    deq_bpe_write(token, 257, NULL, 0, &json); /* no merges at all */
    tok = parse_tokenizer(json.data);
    CHECK(tok && deq_tokenizer_vocab_size(tok) == 257);
    deq_tokenizer_free(tok);
    deq_buf_free(&json);
    deq_buf_init(&json, 100);
    deq_bpe_write(token, 257, NULL, 0, &json);
    CHECK(json.failed);
    deq_buf_free(&json);
}
