/* Saved states, of three kinds of cells: what is taken is written as the same file, and a text goes on behind it to an
 * end. Input: a letter for the model, the file. */
#include <math.h>

#include "tests/fuzz/engines.h"
#include "tests/fuzz/mutate.h"

static struct deq_engine *engine_of(unsigned model)
{
    static struct deq_engine *known[FUZZ_MODELS];
    if (!known[model])
        known[model] = fuzz_engine(model);
    return known[model];
}

/* Every number is what it is used as. */
static void check_sound(const struct deq_cell *c, const struct deq_state *s)
{
    FUZZ_HOLDS(s->filled && s->n_tokens && s->state_dim == c->state_dim && s->page_bytes == c->page_bytes);
    FUZZ_HOLDS(deq_saved_finite(s->state, s->state_dim) && isfinite(s->reached.residual_max));
    for (size_t i = 0; i < s->n_tokens; i++)
        FUZZ_HOLDS(s->tokens[i] < c->vocab_size);
    FUZZ_HOLDS(s->n_pages && (s->first_page + s->n_pages) * s->page_tok >= s->n_tokens &&
               (s->first_page + s->n_pages - 1) * s->page_tok < s->n_tokens);
    for (uint32_t i = 0; i < s->n_pages; i++)
        FUZZ_HOLDS(deq_page_fits(c, s->pages + i * s->page_bytes));
}

/* As bytes, which are all that there is of it. */
static void check_written(unsigned model, const struct deq_state *s, struct deq_buf *out)
{
    const struct deq_saved_of of = fuzz_saved_of("deq.state", model);
    struct deq_state *again;
    struct deq_buf text;
    FUZZ_HOLDS(!deq_state_write_buf(&of, s, out, NULL) && !out->failed);
    FUZZ_HOLDS(!deq_state_read(&of, engine_of(model)->cell, out->data, out->len, "again", &again, NULL));
    deq_buf_init(&text, 1 << 24);
    FUZZ_HOLDS(!deq_state_write_buf(&of, again, &text, NULL));
    FUZZ_HOLDS(text.len == out->len && !memcmp(text.data, out->data, text.len));
    deq_buf_free(&text);
    deq_state_free(again);
}

FUZZ(state)
{
    const unsigned model = fuzz_letter(&data, &n, FUZZ_MODELS);
    const struct deq_saved_of of = fuzz_saved_of("deq.state", model);
    struct deq_engine *e = engine_of(model);
    struct deq_state *s;
    struct deq_buf text;
    struct deq_err err;
    char *file = fuzz_copy(data, n);
    const enum deq_rc rc = deq_state_read(&of, e->cell, file, n, "fuzz", &s, &err);
    free(file);
    if (rc) {
        fuzz_check_err(rc, &err);
        return;
    }
    check_sound(e->cell, s);
    deq_buf_init(&text, 1 << 24);
    check_written(model, s, &text);
    deq_buf_free(&text);
    const struct deq_request q = fuzz_request(model, s);
    fuzz_solve(e, &q);
    deq_state_free(s);
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
/* One that an engine leaves, of some first tokens. */
static size_t begin_with(unsigned model, size_t tokens, uint8_t *data, size_t max)
{
    static struct deq_buf known[FUZZ_MODELS][FUZZ_TOKENS_MAX + 1];
    const struct deq_saved_of of = fuzz_saved_of("deq.state", model);
    struct deq_request q = fuzz_request(model, NULL);
    struct deq_buf *text = &known[model][tokens];
    struct deq_state *s;
    if (!text->len) {
        deq_buf_init(text, 1 << 24);
        q.n_prompt = tokens;
        q.max_tokens = 0;
        FUZZ_HOLDS(!deq_state_make(engine_of(model)->cell, q.n_prompt, &s, NULL));
        q.keep = s;
        fuzz_solve(engine_of(model), &q);
        FUZZ_HOLDS(!deq_state_write_buf(&of, s, text, NULL));
        deq_state_free(s);
    }
    const size_t n = DEQ_MIN(text->len, max - 1);
    data[0] = (uint8_t)('A' + model);
    memcpy(data + 1, text->data, n);
    return n + 1;
}

FUZZ_MUTATOR
{
    uint64_t random = seed;
    const unsigned model = fuzz_next(&random) % FUZZ_MODELS;
    const size_t tokens = 1 + fuzz_next(&random) % FUZZ_TOKENS_MAX;
    if (n < 64 || fuzz_next(&random) % 32 == 0)
        n = begin_with(model, tokens, data, max);
    return 1 + fuzz_mutate_safetensors(data + 1, n - 1, max - 1, seed, true);
}
#endif
