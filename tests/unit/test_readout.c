/* core/engine/readout.c: picks without whole products are those of whole ones, whoever looks on and in any company. */
#include "core/base/rng.h"
#include "core/cell/transformer.h"
#include "tests/unit/answers.h"
#include "tests/unit/test.h"

enum { V = 500, PROMPT = 9, TOKENS = 40 };

static const struct deq_solve_params solve = {.solver = DEQ_ANDERSON, .tol = 1e-2f, .max_iter = 30, .min_iter = 1};

/* An engine of random weights whose logits are as sharp as a trained model's. */
static struct deq_engine *open_engine(enum deq_class class, unsigned threads, bool clusters,
                                      struct deq_weights **ret_packed)
{
    const struct deq_transformer_arch a = {
        .base = {.kind = &deq_transformer_kind,
                 .vocab = {.size = V,
                           .d_model = 32,
                           .head_untied = true,
                           .head_bias = true,
                           .eos_id = -1,
                           .n_cutoffs = clusters ? 2 : 0,
                           .cutoffs = {60, 200}},
                 .serving = {.solver = deq_solver_defaults(), .row_window = 4, .numeric = class}},
        .n_head = 2,
        .d_head = 16,
        .d_inner = 48,
        .attn_window = 24,
        .n_block = 1,
        .norm = DEQ_NORM_PRE,
        .norm_eps = 1e-5f};
    struct deq_weights *w = NULL;
    struct deq_pool *pool = NULL;
    struct deq_cell *cell = NULL;
    struct deq_engine *e = NULL;
    struct deq_engine_opts o;
    const struct deq_cell shape = deq_transformer_shape(&a.base, 0, 0, threads);
    CHECK(deq_weights_new(&a.base, &w, NULL) == DEQ_OK);
    for (size_t i = 0; i < w->n_params; i++)
        for (size_t k = 0; k < w->params[i].count; k++)
            w->data[w->params[i].offset + k] =
                (strcmp(w->params[i].name, "head.weight") ? 0.3f : 1) * (float)deq_rng_normal(12, i, k);
    CHECK(deq_weights_packed(&a.base, w, false, ret_packed, NULL) == DEQ_OK &&
          deq_pool_new(threads, &pool, NULL) == DEQ_OK &&
          deq_engine_opts_fill(&shape, &(struct deq_engine_opts){.max_sequences = 4}, &o, NULL) == DEQ_OK &&
          deq_transformer_open(*ret_packed, o.max_rows, deq_engine_pages(&shape, &o), pool, &cell, NULL) == DEQ_OK &&
          deq_engine_open(cell, &a.base.vocab, &a.base.serving, pool, &o, &e, NULL) == DEQ_OK);
    deq_weights_free(w);
    return e;
}

static struct deq_request request(float temperature, uint32_t window, uint64_t seed, struct answer *a)
{
    static uint32_t prompts[4][PROMPT];
    for (size_t i = 0; i < PROMPT; i++)
        prompts[seed % 4][i] = (uint32_t)deq_rng_below(13, seed % 4, i, V);
    *a = (struct answer){.vocab = V};
    struct deq_request q = {.prompt = prompts[seed % 4], .n_prompt = PROMPT, .max_tokens = TOKENS, .ignore_eos = true,
                            .sampling = {.temperature = temperature, .top_p = 1, .seed = seed}, .solve = solve,
                            .cache = DEQ_CACHE_OFF, .event = record_answer, .ctx = a};
    q.solve.window = window;
    return q;
}

static bool same_picks(const struct answer *a, const struct answer *b)
{
    return a->n == b->n && !memcmp(a->token, b->token, a->n * sizeof *a->token) &&
           !memcmp(a->evaluations, b->evaluations, a->n * sizeof *a->evaluations) &&
           !memcmp(a->residual, b->residual, a->n * sizeof *a->residual);
}

TEST(readout_greedy_needs_no_whole_product)
{
    for (int class = 0; class < DEQ_CLASS_COUNT; class++) {
        struct deq_weights *w = NULL;
        struct deq_engine *e = open_engine((enum deq_class) class, 1, false, &w);
        REQUIRE(e);
        for (uint32_t window = 1; window <= 9; window *= 3)
            for (uint64_t seed = 0; seed < 3; seed++) {
                struct answer plain, shown;
                const struct deq_engine_stats before = deq_engine_stats(e);
                struct deq_request q = request(0, window, seed, &plain);
                CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
                run_all(e);
                const struct deq_engine_stats after = deq_engine_stats(e);
                q = request(0, window, seed, &shown);
                q.want_logits = true; /* every token's logits are whole products */
                CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
                run_all(e);
                CHECK_MSG(same_picks(&plain, &shown) && plain.n == TOKENS, "class %d, window %u", class, window);
                CHECK_MSG(4 * (after.head_rows - before.head_rows) <= TOKENS &&
                              (window == 1 || after.near_rows > before.near_rows),
                          "class %d, window %u: %u whole products", class, window,
                          (unsigned)(after.head_rows - before.head_rows));
            }
        deq_engine_free(e);
        deq_weights_free(w);
    }
}

TEST(readout_draws_need_one_whole_product_a_token)
{
    for (int class = DEQ_CLASS_FLOAT32; class < DEQ_CLASS_COUNT; class++) {
        struct deq_weights *w = NULL, *other = NULL;
        struct deq_engine *e = open_engine((enum deq_class) class, 1, false, &w);
        struct deq_engine *many = open_engine((enum deq_class) class, 2, false, &other);
        REQUIRE(e && many);
        struct answer alone[4], company[4];
        for (uint64_t seed = 0; seed < 4; seed++) { /* two draw, two do not */
            struct deq_request q = request(seed % 2 ? 0 : 1, 8, seed, &alone[seed]);
            const struct deq_engine_stats before = deq_engine_stats(e);
            CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
            run_all(e);
            const struct deq_engine_stats after = deq_engine_stats(e);
            /* one for each row that commits, and for those that would but for a wrong guess before them: many in a
             * model of random weights; each row had three guesses before that */
            if (class != DEQ_CLASS_FLOAT32 && !(seed % 2))
                CHECK_MSG(after.head_rows - before.head_rows <= 2 * TOKENS &&
                              after.screen_rows - before.screen_rows > after.head_rows - before.head_rows,
                          "class %d: %u whole products", class, (unsigned)(after.head_rows - before.head_rows));
            q = request(seed % 2 ? 0 : 1, 8, seed, &company[seed]);
            CHECK(deq_submit(many, &q, NULL, NULL) == DEQ_OK);
        }
        run_all(many);
        for (uint64_t seed = 0; seed < 4; seed++)
            CHECK_MSG(same_answer(&alone[seed], &company[seed]), "class %d, request %u", class, (unsigned)seed);
        deq_engine_free(e);
        deq_engine_free(many);
        deq_weights_free(w);
        deq_weights_free(other);
    }
}

/* The largest error of a distribution's sum: a cluster whose words were not read has others there. */
struct summed {
    struct answer a;
    double worst;
};

static enum deq_verdict record_sum(void *ctx, const struct deq_event *e)
{
    struct summed *s = ctx;
    double sum = 0;
    for (uint32_t i = 0; e->kind == DEQ_EVENT_TOKEN && i < V; i++)
        sum += exp((double)e->logits[i]);
    if (e->kind == DEQ_EVENT_TOKEN)
        s->worst = worse(s->worst, fabs(sum - 1));
    return record_answer(&s->a, e);
}

/* Of a vocabulary in clusters: what is picked is the same whether all of them are read, because somebody looks on, or
 * those that a pick depends on; alone and in company. */
TEST(readout_of_clusters)
{
    struct deq_weights *w = NULL;
    struct deq_engine *e = open_engine(DEQ_CLASS_FLOAT32, 2, true, &w);
    REQUIRE(e);
    struct answer alone[4], beside[4];
    for (uint64_t seed = 0; seed < 4; seed++) {
        struct summed shown = {.worst = 0};
        struct deq_request q = request(seed % 2 ? 0 : 1, seed < 2 ? 1 : 8, seed, &alone[seed]);
        CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
        run_all(e);
        q.want_logits = true;
        q.event = record_sum;
        q.ctx = &shown;
        shown.a.vocab = V;
        CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
        run_all(e);
        CHECK_MSG(same_picks(&alone[seed], &shown.a) && shown.a.n == TOKENS && shown.worst < 1e-4,
                  "request %u: sums differ by %g", (unsigned)seed, shown.worst);
    }
    for (uint64_t seed = 0; seed < 4; seed++) {
        struct deq_request q = request(seed % 2 ? 0 : 1, seed < 2 ? 1 : 8, seed, &beside[seed]);
        q.want_logits = seed == 3;
        CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    }
    run_all(e);
    for (uint64_t seed = 0; seed < 4; seed++)
        CHECK_MSG(same_picks(&alone[seed], &beside[seed]), "request %u", (unsigned)seed);
    deq_engine_free(e);
    deq_weights_free(w);
}
