/* core/engine/engine_open.c: options filled by what is not said, and refused by name. */
#include "core/base/mem.h"
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

/* The last that is taken, of what has bounds. */
TEST(engine_options_have_ends)
{
    const struct deq_cell shape = deq_toy_shape(&(struct deq_toy){.dim = 24}, 0, 0);
    struct deq_engine_opts o, small = {.max_sequences = 1, .max_rows = 64, .max_positions = 100, .prefill_block = 4};
    const uint64_t one = shape.page_bytes * deq_pages_needed(&shape, 100, 64);
    CHECK_EQ(deq_engine_opts_fill(&shape, &(struct deq_engine_opts){.max_sequences = 65536, .max_rows = 65536}, &o,
                                  NULL),
             DEQ_OK);
    CHECK_EQ(deq_engine_opts_fill(&shape, &(struct deq_engine_opts){.max_sequences = 65537, .max_rows = 64}, &o, NULL),
             DEQ_EINVAL);
    CHECK_EQ(deq_engine_opts_fill(&shape, &(struct deq_engine_opts){.max_sequences = 1, .max_rows = 65537}, &o, NULL),
             DEQ_EINVAL);
    CHECK_EQ(deq_engine_opts_fill(&shape, &(struct deq_engine_opts){.max_positions = 1 << 24}, &o, NULL), DEQ_OK);
    small.cache_bytes = one;
    CHECK_EQ(deq_engine_opts_fill(&shape, &small, &o, NULL), DEQ_OK);
    small.cache_bytes = one - 1;
    CHECK_EQ(deq_engine_opts_fill(&shape, &small, &o, NULL), DEQ_EINVAL);
    small.cache_bytes = shape.page_bytes * UINT32_MAX;
    CHECK_EQ(deq_engine_opts_fill(&shape, &small, &o, NULL), DEQ_OK);
    small.cache_bytes = shape.page_bytes * (UINT32_MAX + 1ull);
    CHECK_EQ(deq_engine_opts_fill(&shape, &small, &o, NULL), DEQ_EINVAL);
}

/* Of a large vocabulary 64 MB of logits are there at a time, or a window's; and that is what is said to be taken. */
TEST(engine_logits_are_bounded)
{
    struct deq_cell shape = deq_toy_shape(&(struct deq_toy){.dim = 24}, 0, 0);
    const struct deq_serving serving = {.solver = {.method = DEQ_ANDERSON, .memory = 3}};
    struct deq_engine_opts o;
    uint64_t bytes[4];
    shape.vocab_size = 1 << 17; /* 128 rows of logits */
    for (uint32_t i = 0; i < DEQ_COUNT(bytes); i++) {
        CHECK(!deq_engine_opts_fill(&shape, &(struct deq_engine_opts){.max_sequences = 1, .max_rows = 96 + 32 * i}, &o,
                                    NULL));
        bytes[i] = deq_engine_memory_bytes(&serving, &o, &shape);
    }
    const uint64_t of_rows = bytes[3] - bytes[2], of_logits = bytes[1] - bytes[0] - of_rows;
    CHECK_EQ(bytes[2] - bytes[1], of_rows);
    CHECK(of_rows < 1 << 20 && of_logits >= 32 * (sizeof(float) << 17) && of_logits < 34 * (sizeof(float) << 17));
}

TEST(engine_takes_what_it_says)
{
    const struct deq_toy of = {.dim = 24, .rho = 0.5f};
    const struct deq_cell shape = deq_toy_shape(&of, 0, 0);
    const struct deq_vocab vocab = {.size = 24, .eos_id = -1};
    const struct deq_serving serving = {
        .solver = {.method = DEQ_ANDERSON, .memory = 3, .max_iter = 200, .tol = 1e-5f, .beta = 1, .reg = 1e-4f},
        .row_window = 4};
    const struct deq_engine_opts asked = {.max_sequences = 2, .max_positions = 400, .prefill_block = 16};
    struct deq_engine_opts opts, more;
    struct deq_pool *pool;
    struct deq_cell *cell;
    struct deq_engine *e = NULL;
    struct deq_err err;
    const uint64_t before = deq_mem_live();
    REQUIRE(!deq_pool_new(1, &pool, NULL) && !deq_engine_opts_fill(&shape, &asked, &opts, NULL) &&
            !deq_toy_open(&of, opts.max_rows, deq_engine_pages(&shape, &opts), pool, &cell, NULL));
    more = opts;
    more.cache_bytes += shape.page_bytes;
    CHECK(deq_engine_open(cell, &vocab, &serving, pool, &more, &e, &err) == DEQ_EINVAL &&
          strstr(err.text, "the cell was opened with") && !e);
    REQUIRE(!deq_engine_open(cell, &vocab, &serving, pool, &opts, &e, NULL)); /* a failure leaves them as they were */
    const uint64_t taken = deq_mem_live() - before, said = deq_engine_stats(e).memory_bytes;
    /* each of six blocks in lines of 64 bytes, the largest in whole pages where the C library maps it */
    CHECK_MSG(taken >= said && taken - said <= 6 * 64 + 4096, "%d more", (int)(taken - said));
    deq_engine_free(e);
    CHECK_EQ(deq_mem_live(), before);
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
