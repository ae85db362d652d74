#include "tests/fuzz/tokens.h"

#include "tests/fuzz/fuzz.h"

/* The texts of tokens, one by one, are the text of all; special ones have none. */
static void check_decoded(const struct deq_tokenizer *tok, const struct deq_tokens *t)
{
    struct deq_buf whole, parts;
    struct deq_err err;
    bool special = false;
    deq_buf_init(&whole, 1 << 26);
    deq_buf_init(&parts, 1 << 26);
    FUZZ_HOLDS(!deq_tokenizer_decode(tok, t->ids, t->n, true, &whole, &err));
    for (size_t i = 0; i < t->n; i++) {
        size_t len = 0;
        const char *text = deq_tokenizer_text(tok, i ? (int64_t)t->ids[i - 1] : -1, t->ids[i], &len);
        special = special || deq_tokenizer_is_special(tok, t->ids[i]);
        if (text)
            deq_buf_add(&parts, text, len);
    }
    FUZZ_HOLDS(!whole.failed && !parts.failed);
    FUZZ_HOLDS(special || (whole.len == parts.len && (!whole.len || !memcmp(whole.data, parts.data, whole.len))));
    deq_buf_free(&whole);
    deq_buf_free(&parts);
}

static void check_exact(const struct deq_tokenizer *tok, const struct deq_tokens *t, const char *text, size_t n)
{
    struct deq_buf again;
    struct deq_err err;
    deq_buf_init(&again, 1 << 26);
    FUZZ_HOLDS(!deq_tokenizer_decode(tok, t->ids, t->n, false, &again, &err));
    FUZZ_HOLDS(again.len == n && (!n || !memcmp(again.data, text, n)));
    deq_buf_free(&again);
}

static bool same(const struct deq_tokens *x, const struct deq_tokens *y)
{
    return x->n == y->n && (!x->n || !memcmp(x->ids, y->ids, x->n * sizeof *x->ids));
}

void fuzz_check_tokenizer(const struct deq_tokenizer *tok, const char *text, size_t n, bool exact)
{
    struct deq_tokens t = {0}, again = {0};
    struct deq_err err;
    for (int special = 0; special < 2; special++) {
        t.n = again.n = 0;
        const enum deq_rc rc = deq_tokenizer_encode(tok, text, n, special, &t, &err);
        const enum deq_rc in_ranges = deq_tokenizer_encode_ranges(tok, text, n, &(struct deq_range){0, n},
                                                                  special ? 1 : 0, &again, NULL);
        FUZZ_HOLDS(rc == in_ranges && same(&t, &again));
        if (rc) {
            FUZZ_HOLDS(rc == DEQ_EINVAL && !t.n);
            fuzz_check_err(rc, &err);
            continue;
        }
        for (size_t i = 0; i < t.n; i++) {
            size_t len;
            FUZZ_HOLDS(t.ids[i] < deq_tokenizer_vocab_size(tok) && deq_tokenizer_bytes(tok, t.ids[i], &len));
            FUZZ_HOLDS(special || !deq_tokenizer_is_special(tok, t.ids[i]));
        }
        check_decoded(tok, &t);
        if (exact)
            check_exact(tok, &t, text, n);
    }
    deq_tokens_free(&t);
    deq_tokens_free(&again);
}
