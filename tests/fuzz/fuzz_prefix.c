/* The file of a prefix cache, of three kinds of cells: what is taken gives hits to the text that it is of, and lets go
 * of every page; what is refused leaves the engine as it was. Input: a letter for the model, the file. */
#include "tests/fuzz/engines.h"
#include "tests/fuzz/mutate.h"

static void let_go(struct deq_engine *e)
{
    while (deq_prefix_evict(&e->prefix))
        ;
    FUZZ_HOLDS(!e->prefix.n && !e->prefix.n_pages && e->pages.n_free == e->pages.n_pages);
}

FUZZ(prefix)
{
    const unsigned model = fuzz_letter(&data, &n, FUZZ_MODELS);
    const struct deq_saved_of of = fuzz_saved_of("deq.prefix", model);
    struct deq_engine *e = fuzz_engine(model);
    struct deq_err err;
    size_t blocks = 0;
    const enum deq_rc rc = deq_prefix_read(&of, e, fuzz_file(data, n), &blocks, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
        FUZZ_HOLDS(!e->prefix.n && e->pages.n_free == e->pages.n_pages);
    } else {
        FUZZ_HOLDS(e->prefix.n <= blocks && e->prefix.n_pages >= e->prefix.n);
        const struct deq_request q = fuzz_request(model, NULL);
        fuzz_solve(e, &q);
        const char *path = fuzz_file("", 0);
        FUZZ_HOLDS(!deq_prefix_write(&of, e, path, &err));
        let_go(e);
        FUZZ_HOLDS(!deq_prefix_read(&of, e, path, &blocks, &err));
        let_go(e);
    }
    deq_engine_free(e);
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
/* One that an engine leaves. */
static size_t begin_with(unsigned model, uint8_t *data, size_t max)
{
    const struct deq_saved_of of = fuzz_saved_of("deq.prefix", model);
    const struct deq_request q = fuzz_request(model, NULL);
    struct deq_engine *e = fuzz_engine(model);
    struct deq_err err;
    const char *path = fuzz_file("", 0);
    fuzz_solve(e, &q);
    FUZZ_HOLDS(!deq_prefix_write(&of, e, path, &err));
    deq_engine_free(e);
    FILE *f = fopen(path, "r");
    FUZZ_HOLDS(f);
    data[0] = (uint8_t)('A' + model);
    const size_t n = fread(data + 1, 1, max - 1, f);
    fclose(f);
    return n + 1;
}

FUZZ_MUTATOR
{
    if (n < 64)
        return begin_with(seed % FUZZ_MODELS, data, max);
    return 1 + fuzz_mutate_safetensors(data + 1, n - 1, max - 1, seed, true);
}
#endif
