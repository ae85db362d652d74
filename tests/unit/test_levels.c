/* An answer's bits at every CPU level, in every numeric class: the same at all levels; and on every machine, with every
 * compiler and C library, those that this test was written with. */
#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/cell/config.h"
#include "core/cell/transformer.h"
#include "tests/unit/answers.h"
#include "tests/unit/levels.h"
#include "tests/unit/test.h"

static void hash_answer(struct deq_hash *h, const struct answer *a)
{
    *h = deq_siphash(h, a->token, a->n * sizeof *a->token);
    *h = deq_siphash(h, a->evaluations, a->n * sizeof *a->evaluations);
    *h = deq_siphash(h, a->logprob, a->n * sizeof *a->logprob);
    *h = deq_siphash(h, a->residual, a->n * sizeof *a->residual);
}

/* A tiny model: greedy, at a temperature, ranked. */
static void hash_model(struct deq_hash *h, struct deq_model *m, uint32_t tokens)
{
    static const struct deq_sampling ways[] = {{.top_p = 1}, {.temperature = 1, .top_p = 1, .seed = 5},
                                               {.temperature = 0.8f, .top_p = 0.9f, .top_k = 30, .seed = 6}};
    REQUIRE(m);
    struct deq_tokens p = encode_text(m, "GLOUCESTER: Now is the winter");
    for (size_t i = 0; i < DEQ_COUNT(ways); i++) {
        struct answer a = {0};
        struct deq_request q = tiny_request(m, &p, tokens, &a);
        q.sampling = ways[i];
        struct deq_engine *e = tiny_engine(m, 1, 1);
        REQUIRE(e);
        CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
        run_all(e);
        CHECK(a.n == tokens);
        hash_answer(h, &a);
        deq_engine_free(e);
    }
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* A vocabulary in clusters, random weights: adaptive softmax, with and without the whole distribution. */
static void hash_clusters(struct deq_hash *h)
{
    const struct deq_transformer_arch t = {
        .base = {.kind = &deq_transformer_kind,
                 .vocab = {.size = 90, .n_cutoffs = 2, .cutoffs = {10, 40}, .div_val = 2, .d_embed = 24,
                           .head_bias = true, .d_model = 24, .eos_id = -1},
                 .serving = {.solver = deq_solver_defaults(), .row_window = 4}},
        .n_head = 2, .d_head = 12, .d_inner = 40, .n_block = 1, .attn_window = 32,
        .norm = DEQ_NORM_POST, .norm_affine = true, .norm_eps = 1e-5f};
    const struct deq_arch *a = &t.base;
    struct deq_weights *w = NULL, *packed = NULL;
    struct deq_pool *pool = NULL;
    struct deq_cell *cell = NULL;
    struct deq_engine *e = NULL;
    struct deq_engine_opts o;
    const struct deq_cell shape = deq_transformer_shape(a, 0, 0, 1);
    uint32_t prompt[20];
    CHECK(deq_weights_new(a, &w, NULL) == DEQ_OK);
    for (size_t i = 0; i < w->n; i++) /* uniform: no library function of the C library in it */
        w->data[i] = (float)(deq_rng_uniform(11, 0, i) - 0.5);
    for (size_t i = 0; i < DEQ_COUNT(prompt); i++)
        prompt[i] = (uint32_t)deq_rng_below(11, 1, i, a->vocab.size);
    CHECK(deq_weights_packed(a, w, false, &packed, NULL) == DEQ_OK && deq_pool_new(1, &pool, NULL) == DEQ_OK &&
          deq_engine_opts_fill(&shape, &(struct deq_engine_opts){.max_sequences = 2}, &o, NULL) == DEQ_OK &&
          deq_transformer_open(packed, o.max_rows, deq_engine_pages(&shape, &o), pool, &cell, NULL) == DEQ_OK &&
          deq_engine_open(cell, &a->vocab, &a->serving, pool, &o, &e, NULL) == DEQ_OK);
    for (int whole = 0; whole < 2; whole++) {
        struct answer got = {.vocab = a->vocab.size};
        struct deq_request q = {.prompt = prompt, .n_prompt = DEQ_COUNT(prompt), .max_tokens = 60, .want_logits = whole,
                                .sampling = {.temperature = 1, .top_p = 1, .seed = 3}, .event = record_answer,
                                .ctx = &got,
                                .solve = {.solver = DEQ_ANDERSON, .tol = 1e-3f, .max_iter = 30, .window = 4}};
        CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
        run_all(e);
        CHECK(got.n == 60);
        hash_answer(h, &got);
    }
    deq_engine_free(e);
    deq_weights_free(packed);
    deq_weights_free(w);
}

TEST(levels_give_the_bits_of_a_class)
{
    static const struct {
        enum deq_class numeric;
        const char *dir;
        uint32_t tokens;
        uint64_t hash;
    } want[] = {
        {DEQ_CLASS_FLOAT32, TINY, 40, 0x0037be03f02e523c}, {DEQ_CLASS_FLOAT32, TINY_TRELLIS, 40, 0xfcd269628c4a53ba},
        {DEQ_CLASS_INT16, TINY, 20, 0x14d4b88696093654},   {DEQ_CLASS_INT16, TINY_TRELLIS, 20, 0x2efafd9f3f4aa402},
        {DEQ_CLASS_INT8, TINY, 20, 0xa25ffd6554bf33d0},    {DEQ_CLASS_INT8, TINY_TRELLIS, 20, 0x3d20b90624e3d1aa},
        {DEQ_CLASS_FLOAT32, TINY_LOOPED, 12, 0x8b3fd7b0040815c2}, {DEQ_CLASS_INT16, TINY_LOOPED, 6, 0xe0b19d632f6bc84b},
        {DEQ_CLASS_INT8, TINY_LOOPED, 6, 0x5e2fdc4290ad4f67},
    };
    const struct deq_kern *const was = deq_kern();
    find_levels();
    for (int l = 0; l < LEVELS; l++)
        for (size_t i = 0; i < DEQ_COUNT(want) && force_level(l); i++) {
            struct deq_hash h = {{1, 2}};
            struct deq_model *m = NULL;
            struct deq_err err;
            CHECK_MSG(deq_model_load(want[i].dir, &want[i].numeric, &m, &err) == DEQ_OK, "%s", err.text);
            hash_model(&h, m, want[i].tokens);
            CHECK_MSG(h.h[0] == want[i].hash, "%s, %s, class %d: 0x%016llx", level_names[l], want[i].dir,
                      (int)want[i].numeric, (unsigned long long)h.h[0]);
        }
    deq_kern_use(was);
}

TEST(levels_give_the_bits_of_clusters)
{
    const struct deq_kern *const was = deq_kern();
    find_levels();
    for (int l = 0; l < LEVELS; l++) {
        struct deq_hash h = {{1, 2}};
        if (!force_level(l))
            continue;
        hash_clusters(&h);
        CHECK_MSG(h.h[0] == 0x0fbe53a4dcfc8714, "%s: 0x%016llx", level_names[l], (unsigned long long)h.h[0]);
    }
    deq_kern_use(was);
}
