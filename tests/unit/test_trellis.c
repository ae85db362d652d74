/* core/cell/trellis.c: the cell on rows against the cell on whole sequences; what a row keeps of final positions has
 * the bits of what it would make again; a state that does not grow. */
#include "core/cell/trellis.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/cell/config.h"
#include "core/cell/seq.h"
#include "core/engine/engine.h"
#include "tests/unit/answers.h"
#include "tests/unit/seq_checks.h"
#include "tests/unit/test.h"

enum { T = 21, SPARE = 3 };

static struct deq_trellis_arch *new_arch(uint32_t kernel_size, uint32_t dilation)
{
    struct deq_trellis_arch *a = (struct deq_trellis_arch *)deq_arch_new(&deq_trellis_kind);
    a->base.vocab.size = 31;
    a->base.vocab.d_model = 14;
    a->base.vocab.d_out = 0;
    a->state_size = 22; /* neither a multiple of a vector nor of a panel */
    a->kernel_size = kernel_size;
    a->dilation = dilation;
    a->base.serving.row_window = 4;
    return a;
}

/* A cell with one sequence of T positions. */
struct rows {
    struct deq_pool *pool;
    struct deq_weights *packed;
    struct deq_cell *cell;
    uint32_t page[T];
    struct deq_ring ring;
    uint32_t token[T];
    float *z, *fz, *u, *logits; /* [T, ...] */
    const float *z_of[T];
    float *fz_of[T], *u_of[T];
    size_t position[T];
    const struct deq_ring *ring_of[T];
};

static void open_rows(struct rows *r, const struct deq_trellis_arch *a, const struct deq_weights *w)
{
    CHECK(deq_pool_new(2, &r->pool, NULL) == DEQ_OK &&
          deq_weights_packed(&a->base, w, false, &r->packed, NULL) == DEQ_OK &&
          deq_trellis_open(r->packed, T, T + SPARE, r->pool, &r->cell, NULL) == DEQ_OK);
    const size_t S = r->cell->state_dim, U = r->cell->inject_dim;
    r->ring = (struct deq_ring){r->page, T};
    r->z = DEQ_NEW_ARRAY(float, T * S);
    r->fz = DEQ_NEW_ARRAY(float, T * S);
    r->u = DEQ_NEW_ARRAY(float, T * U);
    r->logits = DEQ_NEW_ARRAY(float, T * a->base.vocab.size);
    for (size_t i = 0; i < T; i++) {
        r->page[i] = (uint32_t)(i * 8 % T); /* any order: 8 and 21 share no factor */
        r->token[i] = (uint32_t)deq_rng_below(2, 0, i, a->base.vocab.size);
        r->z_of[i] = r->z + i * S;
        r->fz_of[i] = r->fz + i * S;
        r->u_of[i] = r->u + i * U;
        r->position[i] = i;
        r->ring_of[i] = &r->ring;
    }
    for (size_t i = 0; i < T * S; i++)
        r->z[i] = (float)(0.5 * deq_rng_normal(2, 1, i));
}

static void close_rows(struct rows *r)
{
    r->cell->ops->free(r->cell);
    deq_pool_free(r->pool);
    deq_weights_free(r->packed);
    deq_free(r->z);
    deq_free(r->fz);
    deq_free(r->u);
    deq_free(r->logits);
}

/* Positions from .. to - 1. */
static struct deq_rows some(const struct rows *r, size_t from, size_t to)
{
    return (struct deq_rows){.n = to - from, .z = r->z_of + from, .fz = r->fz_of + from, .u = r->u_of + from,
                             .position = r->position + from, .ring = r->ring_of + from};
}

static void inject(struct rows *r, size_t from, size_t to)
{
    const struct deq_rows rows = some(r, from, to);
    r->cell->ops->inject(r->cell, &rows, r->token + from, r->u_of + from);
}

static void step(struct rows *r, size_t from, size_t to)
{
    const struct deq_rows rows = some(r, from, to);
    r->cell->ops->step(r->cell, &rows);
}

/* One evaluation from random states, then what is read of f. */
static void check_variant(struct deq_trellis_arch *a)
{
    struct deq_weights *w = random_weights(&a->base, 9);
    struct deq_seq *s = NULL;
    struct rows r = {0};
    const struct deq_seq_shape shape = {.b = 1, .t = T, .n_tapes = 1};
    open_rows(&r, a, w);
    const size_t S = r.cell->state_dim, V = a->base.vocab.size;
    CHECK(S == deq_trellis_state(a) && r.cell->lookback == (a->kernel_size - 1) * a->dilation);
    float *want = DEQ_NEW_ARRAY(float, T * S), *logprobs = DEQ_NEW_ARRAY(float, T * V);
    float tail_mem[T * DEQ_CUTOFFS_MAX], *to[T], *tails[T];
    REQUIRE(deq_seq_new(&a->base, &shape, &s, NULL) == DEQ_OK);
    s->ops->begin(s, w, r.token, NULL);
    s->ops->forward(s, 0, r.z, want);
    inject(&r, 0, T);
    step(&r, 0, T);
    double worst = 0;
    for (size_t i = 0; i < T * S; i++)
        worst = worse(worst, fabs((double)r.fz[i] - (double)want[i]));
    /* two orders of summation over at most 8 * 22 terms of size 1, damped by the gates' slopes; c sums what the
     * positions before were off by, and forgets half of it each time */
    CHECK_MSG(worst < 2e-5, "k %u, dilation %u: f differs by %g", a->kernel_size, a->dilation, worst);
    struct deq_rows states = some(&r, 0, T);
    states.z = (const float *const *)r.fz_of;
    for (size_t i = 0; i < T; i++) {
        to[i] = r.logits + i * V;
        tails[i] = tail_mem + i * DEQ_CUTOFFS_MAX;
    }
    r.cell->ops->readout(r.cell, &states, to, tails);
    for (unsigned c = 1; c <= r.cell->n_tails; c++)
        r.cell->ops->readout_tail(r.cell, c, &states, to, (const float *const *)tails);
    CHECK(deq_seq_logprobs(s, r.fz, logprobs, NULL) == DEQ_OK);
    worst = 0;
    for (size_t i = 0; i < T; i++) {
        /* of one cluster the logits are raw */
        const double norm = r.cell->n_tails ? 0 : (double)logprobs[i * V] - (double)to[i][0];
        for (size_t v = 0; v < V; v++)
            worst = worse(worst, fabs((double)to[i][v] + norm - (double)logprobs[i * V + v]));
    }
    CHECK_MSG(worst < 2e-5, "%u clusters: log-probabilities differ by %g", deq_clusters(&a->base.vocab), worst);
    deq_free(want);
    deq_free(logprobs);
    close_rows(&r);
    deq_seq_free(s);
    deq_weights_free(w);
    deq_free(a);
}

TEST(trellis_rows)
{
    check_variant(new_arch(2, 1));
}

TEST(trellis_rows_dilated)
{
    check_variant(new_arch(2, 3));
}

TEST(trellis_rows_three_taps)
{
    check_variant(new_arch(3, 1));
}

TEST(trellis_rows_many_taps_reach_before_the_text)
{
    struct deq_trellis_arch *a = new_arch(DEQ_TAPS_MAX, 4); /* 28 positions back, of 21 */
    a->embed_scale = true;
    check_variant(a);
}

TEST(trellis_rows_levels)
{
    struct deq_trellis_arch *a = new_arch(3, 2);
    a->levels = true;
    check_variant(a);
}

TEST(trellis_rows_clusters)
{
    struct deq_trellis_arch *a = new_arch(2, 1);
    a->base.vocab.n_cutoffs = 2;
    a->base.vocab.cutoffs[0] = 7;
    a->base.vocab.cutoffs[1] = 19;
    a->base.vocab.head_bias = true;
    check_variant(a);
}

TEST(trellis_rows_output_of_another_width)
{
    struct deq_trellis_arch *a = new_arch(2, 1);
    a->base.vocab.d_out = 9;
    a->base.vocab.head_untied = a->base.vocab.head_bias = true;
    check_variant(a);
}

/* Bits depend neither on who enters or is evaluated together, nor on whether earlier positions became final since. */
static void check_bits(uint32_t kernel_size, uint32_t dilation, bool levels)
{
    struct deq_trellis_arch *a = new_arch(kernel_size, dilation);
    a->levels = levels;
    struct deq_weights *w = random_weights(&a->base, 9);
    struct rows all = {0}, one = {0};
    open_rows(&all, a, w);
    open_rows(&one, a, w);
    const size_t S = all.cell->state_dim, U = all.cell->inject_dim;
    inject(&all, 0, T);
    for (size_t i = 0; i < T; i++)
        inject(&one, i, i + 1);
    CHECK(!memcmp(all.u, one.u, T * U * sizeof(float)));
    step(&all, 0, T);
    memcpy(one.z, all.z, T * S * sizeof(float));
    unsigned different = 0, unfolded = 0;
    for (size_t i = 0; i < T; i++) {
        for (int again = 0; again < 2; again++) { /* the first evaluation folds, the second finds it done */
            memset(one.fz_of[i], 0, S * sizeof(float));
            step(&one, i, i + 1);
            different += memcmp(one.fz_of[i], all.fz_of[i], S * sizeof(float)) != 0;
        }
        unfolded += i && !memcmp(one.u_of[i], all.u_of[i], U * sizeof(float));
        /* final at the state that the others saw; the c that belongs to it stands in the page already */
        struct deq_rows done = some(&one, i, i + 1);
        float *at[1] = {one.z + i * S};
        done.fz = at;
        one.cell->ops->commit(one.cell, &done);
    }
    /* those that look before the text alone keep nothing; position 0 is not counted */
    CHECK_MSG(!different && unfolded == dilation - 1, "k %u, dilation %u: %u rows differ, %u kept nothing", kernel_size,
              dilation, different, unfolded);
    close_rows(&all);
    close_rows(&one);
    deq_weights_free(w);
    deq_free(a);
}

TEST(trellis_keeps_what_is_final)
{
    check_bits(2, 1, false);
    check_bits(2, 3, false);
    check_bits(4, 2, false);
    check_bits(3, 1, true);
}

TEST(trellis_pages_are_copied_whole)
{
    struct deq_trellis_arch *a = new_arch(2, 1);
    struct deq_weights *w = random_weights(&a->base, 9);
    struct rows r = {0};
    float first[64];
    open_rows(&r, a, w);
    const size_t S = r.cell->state_dim;
    inject(&r, 0, 2);
    step(&r, 0, 2);
    memcpy(first, r.fz_of[1], S * sizeof(float));
    r.cell->ops->page_copy(r.cell, T, r.page[0]); /* position 0 stands somewhere else now */
    r.page[0] = T;
    step(&r, 1, 2);
    CHECK(!memcmp(first, r.fz_of[1], S * sizeof(float)));
    inject(&r, 1, 2); /* its token is read from there too */
    step(&r, 1, 2);
    CHECK(!memcmp(first, r.fz_of[1], S * sizeof(float)));
    close_rows(&r);
    deq_weights_free(w);
    deq_free(a);
}

TEST(trellis_memory_is_what_was_said)
{
    for (uint32_t i = 0; i < 8; i++) {
        struct deq_trellis_arch *a = new_arch(2 + i % 7, 1 + i % 3);
        a->levels = i & 1;
        a->base.predictor_hidden = i & 2 ? 12 : 0;
        a->base.vocab.d_embed = i & 4 ? 20 : 0;
        struct deq_weights *w = random_weights(&a->base, 9), *packed = NULL;
        struct deq_pool *pool = NULL;
        struct deq_cell *cell = NULL;
        CHECK(deq_weights_packed(&a->base, w, false, &packed, NULL) == DEQ_OK &&
              deq_pool_new(1 + i % 3, &pool, NULL) == DEQ_OK);
        const uint64_t before = deq_mem_bytes();
        CHECK(deq_trellis_open(packed, 5 + i, 7 * i, pool, &cell, NULL) == DEQ_OK);
        CHECK_EQ(deq_mem_bytes() - before, deq_trellis_shape(&a->base, 5 + i, 7 * i, 1 + i % 3).bytes);
        /* two states of H floats, a token, and what is known of the position */
        CHECK_EQ(cell->page_bytes / cell->page_tok, 2 * a->state_size * sizeof(float) + 8);
        CHECK(!cell->ops->predict == !a->base.predictor_hidden);
        cell->ops->free(cell);
        deq_pool_free(pool);
        deq_weights_free(packed);
        deq_weights_free(w);
        deq_free(a);
    }
}

/* --- Through the engine --- */

struct served {
    struct deq_trellis_arch *arch;
    struct deq_weights *plain, *packed;
    struct deq_engine *engine;
};

static struct served serve(struct deq_trellis_arch *a, uint32_t max_positions)
{
    struct served s = {.arch = a, .plain = random_weights(&a->base, 9)};
    struct deq_engine_opts o;
    struct deq_pool *pool = NULL;
    struct deq_cell *cell = NULL;
    const struct deq_cell shape = deq_trellis_shape(&a->base, 0, 0, 1);
    const struct deq_engine_opts asked = {.max_sequences = 1, .max_positions = max_positions};
    CHECK(deq_weights_packed(&a->base, s.plain, false, &s.packed, NULL) == DEQ_OK &&
          deq_pool_new(1, &pool, NULL) == DEQ_OK && deq_engine_opts_fill(&shape, &asked, &o, NULL) == DEQ_OK &&
          deq_trellis_open(s.packed, o.max_rows, deq_engine_pages(&shape, &o), pool, &cell, NULL) == DEQ_OK &&
          deq_engine_open(cell, &a->base.vocab, &a->base.serving, pool, &o, &s.engine, NULL) == DEQ_OK);
    return s;
}

static void stop_serving(struct served *s)
{
    deq_engine_free(s->engine);
    deq_weights_free(s->packed);
    deq_weights_free(s->plain);
    deq_free(s->arch);
}

/* Position by position and all at once have the same equilibrium, whatever the window. */
static void check_equilibrium(uint32_t kernel_size, uint32_t dilation)
{
    enum { LONG = 40 };
    struct served s = serve(new_arch(kernel_size, dilation), LONG);
    const struct deq_seq_shape shape = {.b = 1, .t = LONG, .n_tapes = 1};
    const uint32_t V = s.arch->base.vocab.size;
    struct deq_seq *seq = NULL;
    uint32_t tokens[LONG];
    for (size_t i = 0; i < LONG; i++)
        tokens[i] = (uint32_t)deq_rng_below(4, 0, i, V);
    REQUIRE(deq_seq_new(&s.arch->base, &shape, &seq, NULL) == DEQ_OK);
    float *z = DEQ_NEW_ARRAY(float, LONG * seq->state_dim), *want = DEQ_NEW_ARRAY(float, LONG * V);
    seq->ops->begin(seq, s.plain, tokens, NULL);
    for (int i = 0; i < 200; i++)
        seq->ops->forward(seq, 0, z, z);
    CHECK(deq_seq_logprobs(seq, z, want, NULL) == DEQ_OK);
    for (uint32_t window = 1; window <= 16; window *= 4) {
        struct answer a = {.vocab = V, .all_logits = DEQ_NEW_ARRAY(float, LONG * V)};
        const struct deq_request q = {
            .prompt = tokens, .n_prompt = LONG, .want_prompt = true, .sampling = {.top_p = 1}, .event = record_answer,
            .ctx = &a, .solve = {.solver = DEQ_ANDERSON, .tol = 2e-6f, .max_iter = 200, .window = window}};
        CHECK(deq_submit(s.engine, &q, NULL, NULL) == DEQ_OK);
        run_all(s.engine);
        double worst = 0;
        for (size_t t = 0; t < LONG; t++) {
            const double norm = (double)want[t * V] - (double)a.all_logits[t * V];
            for (size_t v = 0; v < V; v++)
                worst = worse(worst, fabs((double)a.all_logits[t * V + v] + norm - (double)want[t * V + v]));
        }
        /* residuals of 2e-6 at |z| of at most sqrt(22), over a contraction of about 0.5, and what the positions before
         * were off by; times weights of size 1 over 14 of 22 numbers: about 5e-5 */
        CHECK_MSG(worst < 2e-4 && !a.not_converged && a.prompt_positions == LONG,
                  "k %u, window %u: log-probabilities differ by %g", kernel_size, window, worst);
        deq_free(a.all_logits);
    }
    deq_free(z);
    deq_free(want);
    deq_seq_free(seq);
    stop_serving(&s);
}

TEST(trellis_engine_equals_sequence_form)
{
    check_equilibrium(2, 1);
    check_equilibrium(3, 2);
}

/* Its own keys of config.json and what must go together, each refused by name. */
TEST(trellis_config_refuses)
{
    static const char model[] = "{\"model_type\": \"deq_trellis\", \"vocab_size\": 9, \"hidden_size\": 6, "
                                "\"state_size\": 8, \"deq\": {\"tol\": 0, \"window\": 1, %s}, %s}";
    static const struct {
        const char *deq, *key, *says; /* NULL: taken */
    } cases[] = {
        {"\"solver\": \"anderson\"", "\"levels\": false", NULL},
        {"\"solver\": \"picard\"", "\"levels\": true", NULL},
        {"\"solver\": \"anderson\"", "\"levels\": true", "levels: each is"},
        {"\"solver\": \"broyden\"", "\"levels\": true", "deq.solver picard with deq.beta 1, not broyden"},
        {"\"solver\": \"picard\", \"beta\": 0.5", "\"levels\": true", "with 0.5"},
        {"\"solver\": \"picard\", \"max_iter\": 7", "\"levels\": 1", "levels: expected true or false"},
        {"\"beta\": 1", "\"kernel_size\": 1", "kernel_size: expected an integer in 2..8"},
        {"\"beta\": 1", "\"kernel_size\": 9", "kernel_size: expected an integer in 2..8"},
        {"\"beta\": 1", "\"dilation\": 0", "dilation: expected an integer in 1..1024"},
        {"\"beta\": 1", "\"output_size\": 9, \"tie_word_embeddings\": false", "state_size: 8 is less than the 9"},
        {"\"beta\": 1", "\"output_size\": 8, \"tie_word_embeddings\": false", NULL},
        {"\"beta\": 1", "\"num_attention_heads\": 2", "num_attention_heads: unknown key"},
        {"\"beta\": 1", "\"cutoffs\": [5, 3]", "cutoffs: 3 is not above"},
    };
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        char text[400];
        struct deq_err e = {0};
        struct deq_arch *a = NULL;
        const int n = snprintf(text, sizeof text, model, cases[i].deq, cases[i].key);
        const enum deq_rc rc = deq_config_parse(text, (size_t)n, "c", &a, &e), want = cases[i].says ? DEQ_EFORMAT : 0;
        CHECK_MSG(rc == want && (!want || strstr(e.text, cases[i].says)), "%s, %s: %s", cases[i].deq, cases[i].key,
                  e.text);
        deq_free(a);
    }
}

/* An ordinary trellis network takes its levels a position at a time, from zero, over the last one of those before. */
TEST(trellis_engine_takes_levels)
{
    enum { LEVELS = 5 };
    struct deq_trellis_arch *a = new_arch(2, 1);
    a->levels = true;
    a->base.serving.solver.tol = 0;
    a->base.serving.solver.method = DEQ_PICARD;
    struct served s = serve(a, T);
    struct rows r = {0};
    open_rows(&r, a, s.plain);
    const size_t S = r.cell->state_dim, V = a->base.vocab.size;
    struct answer got = {.vocab = a->base.vocab.size, .all_logits = DEQ_NEW_ARRAY(float, T * V)};
    const struct deq_request q = {.prompt = r.token, .n_prompt = T, .want_prompt = true, .sampling = {.top_p = 1},
                                  .event = record_answer, .ctx = &got,
                                  .solve = {.solver = DEQ_PICARD, .max_iter = LEVELS, .window = 1}};
    CHECK(deq_submit(s.engine, &q, NULL, NULL) == DEQ_OK);
    run_all(s.engine);
    for (size_t i = 0; i < T; i++) {
        struct deq_rows row = some(&r, i, i + 1);
        float *logits[1] = {r.logits + i * V};
        memset(r.z + i * S, 0, S * sizeof(float));
        inject(&r, i, i + 1);
        for (int level = 0; level < LEVELS; level++) {
            step(&r, i, i + 1);
            memcpy(r.z + i * S, r.fz + i * S, S * sizeof(float));
        }
        r.cell->ops->commit(r.cell, &row);
        r.cell->ops->readout(r.cell, &row, logits, NULL);
    }
    CHECK_EQ(got.prompt_positions, (size_t)T);
    CHECK(!memcmp(r.logits, got.all_logits, T * V * sizeof(float)));
    deq_free(got.all_logits);
    close_rows(&r);
    stop_serving(&s);
}

struct counted {
    uint64_t tokens;
    bool ended;
};

static enum deq_verdict count(void *ctx, const struct deq_event *e)
{
    struct counted *c = ctx;
    c->ended = e->kind == DEQ_EVENT_END;
    c->tokens += e->kind == DEQ_EVENT_TOKEN;
    return DEQ_CONTINUE;
}

/* A text of 100 tokens and one of 100,000 take the same pages, and memory differs by the tokens' own ids. */
TEST(trellis_state_does_not_grow)
{
    static const uint32_t lengths[] = {100, 10000, 100000};
    enum { STEPS = 12000, WINDOW = 4 };
    struct served s = serve(new_arch(2, 1), 200000);
    const uint32_t prompt[1] = {1};
    uint64_t first = 0;
    for (size_t i = 0; i < DEQ_COUNT(lengths); i++) {
        struct counted c = {0};
        struct deq_admission id;
        const struct deq_request q = {.prompt = prompt, .n_prompt = 1, .max_tokens = lengths[i] - 1, .ignore_eos = true,
                                      .sampling = {.temperature = 1, .top_p = 1, .seed = 3},
                                      .solve = {.solver = DEQ_ANDERSON, .tol = 1e-2f, .max_iter = 30, .window = WINDOW},
                                      .event = count, .ctx = &c};
        const uint64_t before = deq_mem_bytes();
        uint64_t most = 0;
        CHECK(deq_submit(s.engine, &q, &id, NULL) == DEQ_OK);
        const uint64_t now = deq_mem_bytes(), took = now - before - lengths[i] * sizeof(uint32_t);
        first = i ? first : took;
        CHECK_EQ(took, first);
        unsigned grew = 0;
        for (int step = 0; step < STEPS && !c.ended; step++) {
            deq_step(s.engine);
            most = DEQ_MAX(most, deq_engine_stats(s.engine).pages_used);
            grew += deq_mem_bytes() > now;
        }
        CHECK_EQ(most, WINDOW + 1);
        CHECK_EQ(grew, 0u);
        CHECK(c.ended ? c.tokens == lengths[i] - 1 : c.tokens > STEPS / 8 && deq_cancel(s.engine, id.id) == DEQ_OK);
    }
    CHECK_EQ(deq_engine_stats(s.engine).pages_used, 0);
    stop_serving(&s);
}
