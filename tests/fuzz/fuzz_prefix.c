/* The file of a prefix cache, of three kinds of cells: what is taken gives hits to the text that it is of, and lets go
 * of every page; what is refused leaves the engine as it was. Input: a letter for the model, the file. */
#include <math.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "tests/fuzz/engines.h"
#include "tests/fuzz/mutate.h"

/* One for every execution, which leaves it as it was. */
static struct deq_engine *engine_of(unsigned model)
{
    static struct deq_engine *known[FUZZ_MODELS];
    if (!known[model])
        known[model] = fuzz_engine(model);
    return known[model];
}

static void let_go(struct deq_engine *e)
{
    while (deq_prefix_evict(&e->prefix))
        ;
    FUZZ_HOLDS(!e->prefix.n && !e->prefix.n_pages && e->pages.n_free == e->pages.n_pages);
}

/* What later texts begin with. */
static void check_entries(const struct deq_engine *e)
{
    const struct deq_prefix *c = &e->prefix;
    size_t n = 0;
    for (uint32_t i = c->newest; i < c->cap && n <= c->n; i = c->entries[i].next, n++) {
        const struct deq_prefix_entry *x = &c->entries[i];
        FUZZ_HOLDS(deq_prefix_find(c, &x->key));
        FUZZ_HOLDS(x->n_pages >= 1 && x->n_pages <= c->pages_max && deq_saved_finite(x->state, c->state_dim));
        FUZZ_HOLDS(isfinite(x->reached.residual_max) && x->reached.residual_max >= 0);
        for (uint32_t k = 0; k < x->n_pages; k++)
            FUZZ_HOLDS(x->page[k] < e->pages.n_pages);
    }
    FUZZ_HOLDS(n == c->n);
}

FUZZ(prefix)
{
    const unsigned model = fuzz_letter(&data, &n, FUZZ_MODELS);
    const struct deq_saved_of of = fuzz_saved_of("deq.prefix", model);
    struct deq_engine *e = engine_of(model);
    struct deq_err err;
    size_t blocks = 0;
    const enum deq_rc rc = deq_prefix_read(&of, e, fuzz_file(data, n), &blocks, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
        FUZZ_HOLDS(!e->prefix.n && e->pages.n_free == e->pages.n_pages);
    } else {
        FUZZ_HOLDS(e->prefix.n <= blocks && e->prefix.n_pages >= e->prefix.n);
        check_entries(e);
        const struct deq_request q = fuzz_request(model, NULL);
        fuzz_solve(e, &q);
        const char *path = fuzz_file("", 0);
        FUZZ_HOLDS(!deq_prefix_write(&of, e, path, &err));
        let_go(e);
        FUZZ_HOLDS(!deq_prefix_read(&of, e, path, &blocks, &err));
        let_go(e);
    }
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
/* One that an engine leaves, which had a block of a text, or more. */
static size_t begin_with(unsigned model, size_t tokens, uint8_t *data, size_t max)
{
    static struct deq_buf known[FUZZ_MODELS][FUZZ_TOKENS_MAX + 1];
    const struct deq_saved_of of = fuzz_saved_of("deq.prefix", model);
    struct deq_request q = fuzz_request(model, NULL);
    struct deq_buf *text = &known[model][tokens];
    if (!text->len) {
        struct deq_engine *e = engine_of(model);
        struct deq_err err;
        char *bytes;
        size_t len;
        q.n_prompt = tokens;
        fuzz_solve(e, &q);
        const char *path = fuzz_file("", 0);
        FUZZ_HOLDS(!deq_prefix_write(&of, e, path, &err) && !deq_io_read(path, 1 << 24, &bytes, &len, &err));
        deq_buf_init(text, 1 << 24);
        FUZZ_HOLDS(deq_buf_add(text, bytes, len));
        deq_free(bytes);
        let_go(e);
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
