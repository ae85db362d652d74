#include "tests/unit/tokenizers.h"

#include <stdlib.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/text/bpe_train.h"

char *read_golden(const char *name, size_t *ret_len)
{
    char *data = NULL;
    struct deq_err err = {0};
    CHECK_MSG(!deq_io_read(name, 64 << 20, &data, ret_len, &err), "%s", err.text);
    return data;
}

struct deq_buf trained_json(uint32_t vocab_size)
{
    struct deq_buf json;
    struct deq_err err = {0};
    size_t len = 0;
    char *text = read_golden(GOLDEN "sample.txt", &len);
    struct deq_bpe_train_opts opts = {.vocab_size = vocab_size};
    deq_buf_init(&json, 64 << 20);
    if (text)
        CHECK_MSG(!deq_bpe_train(text, len, &opts, &json, &err), "%s", err.text);
    deq_free(text);
    return json;
}

struct deq_tokenizer *parse_tokenizer(const char *json)
{
    struct deq_tokenizer *tok = NULL;
    struct deq_err err = {0};
    enum deq_rc rc = json ? deq_tokenizer_parse(json, strlen(json), "test", &tok, &err) : DEQ_EINVAL;
    CHECK_MSG(!rc, "%s", err.text);
    return tok;
}

bool tokenizer_round_trip(const struct deq_tokenizer *tok, const char *s, size_t n)
{
    struct deq_tokens t = {0};
    struct deq_buf out;
    deq_buf_init(&out, 64 << 20);
    bool ok = !deq_tokenizer_encode(tok, s, n, false, &t, NULL) &&
              !deq_tokenizer_decode(tok, t.ids, t.n, false, &out, NULL) && out.len == n &&
              (!n || !memcmp(out.data, s, n));
    deq_buf_free(&out);
    deq_tokens_free(&t);
    return ok;
}

bool encodes_to(const struct deq_tokenizer *tok, const char *s, bool special, const uint32_t *want, size_t n)
{
    struct deq_tokens t = {0};
    bool ok = !deq_tokenizer_encode(tok, s, strlen(s), special, &t, NULL) && t.n == n &&
              !memcmp(t.ids, want, n * sizeof *want);
    if (!ok)
        for (size_t i = 0; i < t.n; i++)
            printf("%s%u", i ? " " : "", t.ids[i]);
    deq_tokens_free(&t);
    return ok;
}

struct deq_tokenizer *parse_small(const char *from, const char *to)
{
    char *json = text_with(SMALL, from, to);
    struct deq_tokenizer *tok = parse_tokenizer(json);
    deq_free(json);
    return tok;
}

size_t hex_text(const char *hex, size_t n, char *out)
{
    for (size_t i = 0; i + 1 < n; i += 2) {
        char pair[3] = {hex[i], hex[i + 1], 0};
        out[i / 2] = (char)strtoul(pair, NULL, 16);
    }
    return n / 2;
}
