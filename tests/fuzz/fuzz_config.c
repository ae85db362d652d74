/* config.json: an architecture that is taken has a table of weights, a cell and an engine whose sizes can be told
 * without a product that overflows, and a file written of it is read as the same architecture. */
#include "core/base/mem.h"
#include "core/cell/config.h"
#include "core/engine/engine.h"
#include "tests/fuzz/mutate.h"

/* What deq_check asks of an architecture, without a file of weights. */
static void measure(const struct deq_arch *a)
{
    struct deq_weights *w = NULL;
    struct deq_engine_opts opts;
    struct deq_err err;
    const struct deq_cell one = a->kind->shape(a, 0, 0, 1);
    FUZZ_HOLDS(one.state_dim && one.page_tok && one.page_bytes && one.lookback && one.vocab_size == a->vocab.size);
    enum deq_rc rc = deq_weights_table(a, &w, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
        return;
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < w->n_params; i++) {
        unsigned __int128 count = w->params[i].rows ? w->params[i].rows : 1;
        count *= w->params[i].cols;
        FUZZ_HOLDS(count == w->params[i].count && !__builtin_add_overflow(sum, w->params[i].count, &sum));
    }
    FUZZ_HOLDS(sum == w->parameters);
    FUZZ_HOLDS(deq_weights_held_bytes(w, false) >= w->parameters && deq_weights_load_bytes(w));
    deq_weights_free(w);
    rc = deq_engine_opts_fill(&one, &(struct deq_engine_opts){0}, &opts, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
        return;
    }
    const uint32_t pages = deq_engine_pages(&one, &opts);
    const struct deq_cell cell = a->kind->shape(a, opts.max_rows, pages, opts.threads);
    FUZZ_HOLDS(pages && (uint64_t)pages * one.page_bytes <= opts.cache_bytes);
    FUZZ_HOLDS(deq_engine_memory_bytes(&a->serving, &opts, &cell) > cell.bytes);
}

/* Texts of both are compared: the structs have gaps. */
static void check_written(const struct deq_arch *a)
{
    struct deq_arch *again = NULL;
    struct deq_err err;
    const char *path = fuzz_file("", 0);
    FUZZ_HOLDS(!deq_config_save(path, a, NULL, &err));
    FUZZ_HOLDS(!deq_config_load(path, &again, &err));
    FUZZ_HOLDS(again->kind == a->kind && again->vocab.size == a->vocab.size && again->vocab.eos_id == a->vocab.eos_id);
    FUZZ_HOLDS(again->vocab.d_model == a->vocab.d_model && again->vocab.n_cutoffs == a->vocab.n_cutoffs);
    FUZZ_HOLDS(!memcmp(&again->chat, &a->chat, sizeof a->chat));
    deq_free(again);
}

FUZZ(config)
{
    struct deq_arch *a;
    struct deq_err err;
    const enum deq_rc rc = deq_config_parse((const char *)data, n, "fuzz", &a, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
        return;
    }
    measure(a);
    check_written(a);
    deq_free(a);
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
FUZZ_MUTATOR
{
    return fuzz_mutate_json(data, n, max, seed);
}
#endif
