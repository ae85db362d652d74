#include "tests/unit/words.h"

#include <stdlib.h>

#include "core/base/buf.h"

struct deq_tokens ids_of(char *text)
{
    struct deq_tokens t = {0};
    for (char *p = text, *end; p && (strtoul(p, &end, 10), end != p); p = end)
        CHECK(deq_tokens_push(&t, (uint32_t)strtoul(p, NULL, 10)));
    return t;
}

bool same_tokens(const struct deq_tokens *a, const struct deq_tokens *b)
{
    return a->n == b->n && (!a->n || !memcmp(a->ids, b->ids, a->n * sizeof *a->ids));
}

bool encodes(const struct deq_tokenizer *tok, const char *text, const char *want)
{
    char copy[256];
    struct deq_tokens t = {0};
    snprintf(copy, sizeof copy, "%s", want);
    struct deq_tokens ids = ids_of(copy);
    bool ok = tok && !deq_tokenizer_encode(tok, text, strlen(text), false, &t, NULL) && same_tokens(&t, &ids);
    for (size_t i = 0; !ok && i < t.n; i++)
        printf("%s%u", i ? " " : "", t.ids[i]);
    deq_tokens_free(&t);
    deq_tokens_free(&ids);
    return ok;
}

bool decodes(const struct deq_tokenizer *tok, const char *ids, bool skip_special, const char *want)
{
    char copy[256];
    struct deq_buf b;
    snprintf(copy, sizeof copy, "%s", ids);
    struct deq_tokens t = ids_of(copy);
    deq_buf_init(&b, 1 << 20);
    bool ok = tok && !deq_tokenizer_decode(tok, t.ids, t.n, skip_special, &b, NULL) && b.len == strlen(want) &&
              (!b.len || !memcmp(b.data, want, b.len));
    if (!ok)
        printf("[%s]", b.data ? b.data : "");
    deq_buf_free(&b);
    deq_tokens_free(&t);
    return ok;
}
