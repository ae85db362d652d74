/* core/engine/engine_open.c: options filled by what is not said, and refused by name. */
#include "core/cell/toy.h"
#include "core/engine/engine.h"
#include "core/engine/pages.h"
#include "tests/unit/test.h"

TEST(engine_options_are_filled)
{
    const struct deq_cell shape = deq_toy_shape(&(struct deq_toy){.dim = 24}, 0, 0);
    struct deq_engine_opts o;
    struct deq_err err = {0};
    CHECK_MSG(!deq_engine_opts_fill(&shape, &(struct deq_engine_opts){0}, &o, &err), "%s", err.text);
    CHECK(o.threads == 1 && o.max_sequences == 32 && o.max_rows == 256 && o.prefill_block == 128);
    CHECK_EQ(o.max_positions, 2048); /* of a cell that sees little */
    /* full windows for all */
    CHECK_EQ(o.cache_bytes, 32 * shape.page_bytes * deq_pages_needed(&shape, o.max_positions, 64));
    CHECK_EQ(deq_engine_pages(&shape, &o), o.cache_bytes / shape.page_bytes);
    struct deq_cell far = shape;
    far.lookback = 999;
    CHECK(!deq_engine_opts_fill(&far, &(struct deq_engine_opts){0}, &o, &err) && o.max_positions == 8000);
    far.max_positions = 3000; /* no text is longer, whatever is asked for */
    CHECK(!deq_engine_opts_fill(&far, &(struct deq_engine_opts){0}, &o, &err) && o.max_positions == 3000);
    CHECK(!deq_engine_opts_fill(&far, &(struct deq_engine_opts){.max_positions = 4000}, &o, &err));
    CHECK_EQ(o.max_positions, 3000);
    CHECK(!deq_engine_opts_fill(&shape, &(struct deq_engine_opts){.max_sequences = 2}, &o, &err));
    CHECK_EQ(o.max_rows, 64); /* one window at least */
    CHECK(!deq_engine_opts_fill(&shape, &(struct deq_engine_opts){.threads = 3, .max_sequences = 5, .max_rows = 70,
                                                                  .max_positions = 9, .prefill_block = 8}, &o, &err));
    CHECK(o.threads == 3 && o.max_sequences == 5 && o.max_rows == 70 && o.max_positions == 9 && o.prefill_block == 8);
}

TEST(engine_options_are_refused)
{
    const struct deq_cell shape = deq_toy_shape(&(struct deq_toy){.dim = 24}, 0, 0);
    const struct {
        struct deq_engine_opts o;
        const char *says;
    } t[] = {
        {{.prefill_block = 6}, "prefill_block 6 is not a multiple of 4"},
        {{.max_sequences = 65537}, "must be at most 65536"},
        {{.max_rows = 63}, "max_rows 63: must be at least 64, which one window may take"},
        {{.max_positions = (1 << 24) + 1}, "max_positions 16777217 exceeds 16777216"},
        {{.max_positions = 100, .cache_bytes = 1}, "cache of 1 bytes: one sequence of 100 positions takes "},
        {{.cache_bytes = UINT64_MAX}, "at most "},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct deq_engine_opts o = {.threads = 77};
        struct deq_err err = {0};
        CHECK_MSG(deq_engine_opts_fill(&shape, &t[i].o, &o, &err) == DEQ_EINVAL && strstr(err.text, t[i].says),
                  "case %zu: %s",
                  i, err.text);
        CHECK_EQ(o.threads, 77);
    }
}
