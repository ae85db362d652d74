/* core/engine/trace.c: what is told of rows adds up to what they did, and is a function of the request alone. */
#include "core/base/mem.h"
#include "tests/unit/answers.h"

enum { ROWS_MAX = 2048 };

/* What a request was told. */
struct watched {
    struct {
        uint32_t position, token, entered, left, evaluations;
        enum deq_fate fate;
        bool guessed;
        float first, last; /* residual, or -1 where there is none */
    } row[ROWS_MAX];
    size_t n, tokens, of[DEQ_FATES], untold;
    bool ended;
};

static enum deq_verdict watch(void *ctx, const struct deq_event *e)
{
    struct watched *w = ctx;
    const struct deq_trace *t = e->trace;
    w->ended = e->kind == DEQ_EVENT_END;
    w->tokens += e->kind == DEQ_EVENT_TOKEN;
    w->untold += e->kind == DEQ_EVENT_TOKEN && !t;
    if (!t || w->n == ROWS_MAX)
        return DEQ_CONTINUE;
    CHECK((t->fate == DEQ_ROW_COMMITTED) == (e->kind == DEQ_EVENT_TOKEN));
    CHECK_EQ(t->n, DEQ_MIN(e->evaluations, (uint32_t)DEQ_TRACE_RESIDUALS));
    CHECK_EQ(t->left - t->entered + 1, DEQ_MAX(e->evaluations, 1u));
    w->row[w->n].position = (uint32_t)e->position;
    w->row[w->n].token = e->token;
    w->row[w->n].entered = t->entered;
    w->row[w->n].left = t->left;
    w->row[w->n].evaluations = e->evaluations;
    w->row[w->n].fate = t->fate;
    w->row[w->n].guessed = t->guessed;
    w->row[w->n].first = t->n ? t->residual[0] : -1;
    w->row[w->n].last = t->n ? t->residual[t->n - 1] : -1;
    CHECK(!t->n || w->row[w->n].last == e->residual || isnan(e->residual));
    w->n++;
    w->of[t->fate]++;
    return DEQ_CONTINUE;
}

static struct watched *ask_watched(struct deq_engine *e, struct deq_request q)
{
    struct watched *w = DEQ_NEW(struct watched);
    q.event = watch;
    q.ctx = w;
    q.want_trace = true;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(w->ended && !w->untold);
    return w;
}

static bool same_watched(const struct watched *a, const struct watched *b)
{
    return a->n == b->n && !memcmp(a->row, b->row, a->n * sizeof *a->row);
}

/* Rows are where the window says, at every width: positions commit in order, each entered behind the one before, in
 * the midst of it exactly where that was guessed; what was guessed wrong is what the engine counts as restarts. */
TEST_EACH_KIND(trace_adds_up)
{
    struct answer unused;
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    for (uint32_t window = 1; window <= 8; window += 7) {
        struct deq_engine *e = tiny_engine(m, 1, 1);
        struct deq_request q = tiny_request(m, &p, 60, &unused);
        q.solve.window = window;
        q.solve.prefill_window = 8;
        q.sampling = (struct deq_sampling){.temperature = 1.5f, .top_p = 1, .seed = 3}; /* so that some guesses fail */
        struct watched *w = ask_watched(e, q);
        size_t position = p.n - 1;
        const size_t none = ROWS_MAX;
        for (size_t i = 0, before = none; i < w->n; i++) {
            if (w->row[i].fate != DEQ_ROW_COMMITTED)
                continue;
            CHECK_EQ(w->row[i].position, position++);
            if (before != none) {
                const bool overlaps = w->row[i].entered <= w->row[before].left;
                CHECK_MSG(overlaps == w->row[before].guessed, "window %u, position %zu", window, position - 1);
                CHECK(overlaps || w->row[i].entered == w->row[before].left + 1);
            }
            before = i;
        }
        CHECK_EQ(w->tokens, 60u);
        CHECK_EQ(w->of[DEQ_ROW_COMMITTED], 60u);
        CHECK_EQ(w->of[DEQ_ROW_MISGUESSED], deq_engine_stats(e).restarts);
        CHECK((w->of[DEQ_ROW_MISGUESSED] > 0) == (window > 1));
        deq_free(w);
        deq_engine_free(e);
    }
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* ... nor on company, pauses, threads and where the prompt's first blocks came from. */
TEST_EACH_KIND(trace_does_not_depend_on_company)
{
    struct answer unused;
    struct watched *beside = DEQ_NEW(struct watched);
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct deq_engine *e = tiny_engine(m, 2, 4);
    struct deq_request q = tiny_request(m, &p, 40, &unused);
    q.sampling = (struct deq_sampling){.temperature = 1, .top_p = 1, .seed = 7};
    struct watched *alone = ask_watched(e, q), *cached = ask_watched(e, q);
    CHECK(deq_engine_stats(e).prefix_hits_tok > 0);
    CHECK(same_watched(alone, cached));
    struct answer other[2] = {{0}};
    struct deq_admission a;
    for (int i = 0; i < 2; i++) {
        struct deq_request r = tiny_request(m, &p, 50, &other[i]);
        r.sampling.temperature = (float)i;
        CHECK(deq_submit(e, &r, NULL, NULL) == DEQ_OK);
    }
    q.event = watch;
    q.ctx = beside;
    q.want_trace = true;
    q.cache = DEQ_CACHE_OFF;
    CHECK(deq_submit(e, &q, &a, NULL) == DEQ_OK);
    for (int i = 0; !beside->ended && i < 100000; i++) {
        if (i % 5 == 1)
            (void)deq_pause(e, a.id, true);
        if (i % 5 == 3)
            (void)deq_pause(e, a.id, false);
        deq_step(e);
    }
    CHECK(same_watched(alone, beside));
    run_all(e);
    deq_free(alone);
    deq_free(cached);
    deq_free(beside);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

struct two {
    struct watched w[2];
};

static enum deq_verdict watch_choice(void *ctx, const struct deq_event *e)
{
    return watch(&((struct two *)ctx)->w[e->choice], e);
}

/* Choices have the row of the prompt's last position in common, and go on behind its step. */
TEST(trace_of_choices)
{
    const uint32_t prompt[40] = {1, 2, 3};
    struct answer unused;
    struct two *two = DEQ_NEW(struct two);
    struct deq_engine *e = toy_engine(&(struct deq_toy){.dim = 24, .rho = 0.6f, .coupling = 0.5f}, 1, 2, NULL);
    struct deq_request q = toy_request(prompt, 40, 10, &unused);
    q.n = 2;
    q.sampling.temperature = 1;
    q.want_trace = true;
    q.event = watch_choice;
    q.ctx = two;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    const struct watched *a = &two->w[0], *b = &two->w[1];
    CHECK(a->tokens == 10 && b->tokens == 10 && !a->untold && !b->untold);
    CHECK(a->row[0].position == 39 && b->row[0].position == 39);
    CHECK(a->row[0].entered == b->row[0].entered && a->row[0].left == b->row[0].left);
    uint32_t first = UINT32_MAX;
    for (size_t i = 1; i < b->n; i++)
        first = DEQ_MIN(first, b->row[i].entered);
    CHECK_EQ(first, b->row[0].left + 1);
    deq_free(two);
    deq_engine_free(e);
}

/* Of 300 evaluations the first 255 residuals stay, and the last. A contraction of 0.999 is never below 1e-6. */
TEST(trace_is_bounded)
{
    const uint32_t prompt[2] = {1, 2};
    struct answer unused;
    struct deq_engine *e = toy_engine(&(struct deq_toy){.dim = 24, .rho = 0.999f}, 1, 1, NULL);
    struct deq_request q = toy_request(prompt, 2, 3, &unused);
    q.solve = (struct deq_solve_params){.solver = DEQ_PICARD, .tol = 1e-6f, .max_iter = 300, .window = 1};
    struct watched *w = ask_watched(e, q);
    CHECK_EQ(w->n, 3u);
    for (size_t i = 0; i < w->n; i++)
        CHECK(w->row[i].evaluations == 300 && w->row[i].last < w->row[i].first);
    deq_free(w);
    deq_engine_free(e);
}

/* A guess whose state is not a number takes the rows behind it along. */
TEST(trace_of_rows_that_are_not_finite)
{
    const uint32_t prompt[3] = {1, 2, 3};
    struct answer unused;
    struct deq_cell *cell;
    size_t not_finite = 0;
    struct deq_engine *e = toy_engine(&(struct deq_toy){.dim = 24, .rho = 0.9f, .coupling = 0.5f}, 1, 1, &cell);
    deq_toy_poison(cell, 20);
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct deq_request q = toy_request(prompt, 3, 12, &unused);
        q.sampling = (struct deq_sampling){.temperature = 1, .top_p = 1, .seed = seed};
        struct watched *w = ask_watched(e, q);
        not_finite += w->of[DEQ_ROW_NOT_FINITE];
        deq_free(w);
    }
    CHECK(not_finite > 0);
    deq_engine_free(e);
}

TEST(trace_only_where_asked_for)
{
    const uint32_t prompt[3] = {1, 2, 3};
    struct answer unused;
    struct watched w = {0};
    struct deq_engine *e = toy_engine(&(struct deq_toy){.dim = 24, .rho = 0.9f, .coupling = 0.5f}, 1, 1, NULL);
    struct deq_request q = toy_request(prompt, 3, 12, &unused);
    q.sampling.temperature = 1;
    q.event = watch;
    q.ctx = &w;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(w.untold == 12 && w.n == 0 && w.ended && deq_engine_stats(e).restarts > 0);
    deq_engine_free(e);
}
