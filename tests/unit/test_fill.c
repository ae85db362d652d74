/* core/engine/fill.c, and the layers behind the loop of readout.c: on toy cells that have layers before and behind
 * theirs, against closed forms. */
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "tests/unit/answers.h"

enum { V = 24, PROMPT = 100 };

static const struct deq_toy layered = {.dim = V, .rho = 0.6f, .coupling = 0.4f, .before = 0.5f, .behind = 0.3f};

static void fill_prompt(uint32_t *prompt, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        prompt[i] = (uint32_t)deq_rng_below(seed, 0, i, V);
}

/* Logits of every position of a text [n, V]: x_t = one-hot + a x_{t-1}, z_t = x_t + c z_{t-1}, v_t = z_t + b v_{t-1} */
static void closed_form(const struct deq_toy *of, const uint32_t *text, size_t n, double *logits)
{
    double x[V] = {0}, z[V] = {0}, v[V] = {0};
    for (size_t t = 0; t < n; t++)
        for (size_t d = 0; d < V; d++) {
            x[d] = (text[t] == d) + (double)of->before * x[d];
            z[d] = x[d] + (double)of->coupling * z[d];
            logits[t * V + d] = v[d] = z[d] + (double)of->behind * v[d];
        }
}

/* How far the log-probabilities of an answer's tokens are from those of its text. */
static double worst_logprob(const struct deq_toy *of, const uint32_t *prompt, size_t n_prompt, const struct answer *a)
{
    const size_t n = n_prompt + a->n;
    uint32_t *text = DEQ_NEW_ARRAY(uint32_t, n);
    double *logits = DEQ_NEW_ARRAY(double, n * V), worst = 0;
    memcpy(text, prompt, n_prompt * sizeof *text);
    memcpy(text + n_prompt, a->token, a->n * sizeof *text);
    closed_form(of, text, n, logits);
    for (size_t i = 0; i < a->n; i++) {
        const double *l = logits + (n_prompt - 1 + i) * V;
        double sum = 0;
        for (size_t d = 0; d < V; d++)
            sum += exp(l[d]);
        worst = fmax(worst, fabs(l[a->token[i]] - log(sum) - (double)a->logprob[i]));
    }
    deq_free(logits);
    deq_free(text);
    return worst;
}

/* residuals below 1e-5 of |z| < 4, contraction 0.6: errors of 1e-4, and those of the positions before add c/(1-c) and
 * b/(1-b) of it */
static const double TOLERANCE = 5e-4;

TEST(fill_layers_of_a_prompt)
{
    uint32_t prompt[PROMPT];
    double *want = DEQ_NEW_ARRAY(double, PROMPT * V);
    fill_prompt(prompt, PROMPT, 1);
    closed_form(&layered, prompt, PROMPT, want);
    for (uint32_t window = 1; window <= 16; window *= 4)
        for (int warm = DEQ_WARM_ZERO; warm < DEQ_WARM_COUNT; warm++) {
            if (warm == DEQ_WARM_PREDICTOR)
                continue;
            struct deq_cell *cell;
            struct answer a = {0};
            struct deq_engine *e = toy_engine(&layered, 2, 4, &cell);
            REQUIRE(e);
            struct deq_request q = toy_request(prompt, PROMPT, 0, &a);
            q.want_prompt = true;
            q.solve.window = window;
            q.solve.warm_start = (enum deq_warm)warm;
            a.all_logits = DEQ_NEW_ARRAY(float, PROMPT * V);
            CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
            run_all(e);
            double worst = 0;
            for (size_t i = 0; i < PROMPT * V; i++)
                worst = fmax(worst, fabs(want[i] - (double)a.all_logits[i]));
            const struct deq_engine_stats s = deq_engine_stats(e);
            CHECK_MSG(a.prompt_positions == PROMPT && worst < TOLERANCE, "window %u, start %s: error %g", window,
                      deq_warm_name((enum deq_warm)warm), worst);
            /* once a token, a block at a time, whatever the window */
            CHECK(s.explicit_rows == PROMPT && deq_toy_largest_batch(cell) == 16 && deq_toy_commits(cell) == PROMPT);
            CHECK(s.starts[warm] >= PROMPT && s.coda_rows >= PROMPT);
            deq_free(a.all_logits);
            deq_engine_free(e);
        }
    deq_free(want);
}

/* Layers before the loop alone, behind it alone, both: guesses that fail are forgotten by both. */
TEST(fill_layers_of_generation)
{
    uint32_t prompt[PROMPT];
    fill_prompt(prompt, PROMPT, 2);
    for (int which = 1; which < 4; which++) {
        struct deq_toy of = layered;
        of.before = which & 1 ? of.before : 0;
        of.behind = which & 2 ? of.behind : 0;
        struct deq_engine *e = toy_engine(&of, 1, 4, NULL);
        REQUIRE(e);
        uint64_t restarts = 0, explicit_rows = 0;
        for (uint32_t window = 1; window <= 8; window *= 2) {
            struct answer x = {0};
            struct deq_request q = toy_request(prompt, 37, 60, &x);
            q.sampling = (struct deq_sampling){.temperature = 1, .top_p = 1, .seed = 3};
            q.solve.window = window;
            q.cache = DEQ_CACHE_OFF;
            const struct answer a = ask(e, &q, NULL);
            const double worst = worst_logprob(&of, prompt, 37, &a);
            const struct deq_engine_stats s = deq_engine_stats(e);
            CHECK_MSG(a.n == 60 && worst < TOLERANCE, "layers %d, window %u: error %g", which, window, worst);
            CHECK(window == 1 || s.restarts > restarts);
            /* every position once, and once more for a guess that took another's place */
            CHECK_EQ(s.explicit_rows - explicit_rows, which & 1 ? 37 + 59 + s.restarts - restarts : 0);
            restarts = s.restarts;
            explicit_rows = s.explicit_rows;
            CHECK(s.pages_used == 0 && s.rows_open == 0);
        }
        deq_engine_free(e);
    }
}

/* The prefix cache holds what all layers left: a text behind cached blocks has the bits of one that was read whole,
 * and only the rest goes through the layers before the loop. Choices share it, in the midst of a page too. */
TEST(fill_layers_behind_cached_blocks)
{
    uint32_t prompt[PROMPT];
    fill_prompt(prompt, PROMPT, 4);
    struct deq_engine *e = toy_engine(&layered, 2, 6, NULL);
    REQUIRE(e);
    for (size_t n = 45; n < 49; n++) {
        struct answer x = {0};
        struct choices c = {{{0}}};
        struct deq_admission cached;
        struct deq_request q = toy_request(prompt, n, 20, &x);
        q.sampling = (struct deq_sampling){.temperature = 1, .top_p = 1, .seed = n};
        q.solve.warm_start = DEQ_WARM_PROPOSAL;
        q.cache = DEQ_CACHE_OFF;
        const struct answer alone = ask(e, &q, NULL);
        q.cache = DEQ_CACHE_EXACT;
        (void)ask(e, &q, NULL);
        const uint64_t before = deq_engine_stats(e).explicit_rows, restarts = deq_engine_stats(e).restarts;
        const struct answer again = ask(e, &q, &cached);
        const struct deq_engine_stats s = deq_engine_stats(e);
        CHECK(same_answer(&alone, &again));
        CHECK_EQ(cached.cached_tokens, (n - 1) / 16 * 16);
        CHECK_EQ(s.explicit_rows - before, n - cached.cached_tokens + 19 + s.restarts - restarts);
        q.n = CHOICES;
        q.event = record_choice;
        q.ctx = &c;
        for (size_t i = 0; i < CHOICES; i++)
            c.a[i].vocab = V;
        CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
        run_all(e);
        CHECK(same_answer(&alone, &c.a[0]));
        for (size_t i = 1; i < CHOICES; i++) {
            const double worst = worst_logprob(&layered, prompt, n, &c.a[i]);
            CHECK_MSG(c.a[i].n == 20 && worst < TOLERANCE, "choice %zu behind %zu: error %g", i, n, worst);
        }
        CHECK(deq_engine_stats(e).pages_used == 0 && deq_engine_stats(e).pages_reserved == 0);
    }
    deq_engine_free(e);
}

/* A request's bits are its own in any company, on any number of threads, whatever arrives and leaves. */
TEST(fill_layers_batch_invariance)
{
    enum { PROBES = 8, SLOTS = 6, BATCHES = 12 };
    uint32_t prompt[PROMPT];
    struct answer alone[PROBES] = {{0}}, unused = {0};
    struct deq_request q[PROBES];
    fill_prompt(prompt, PROMPT, 5);
    for (size_t i = 0; i < PROBES; i++) {
        q[i] = toy_request(prompt + i / 4, 20 + 11 * i, 10 + (uint32_t)i, &unused); /* four begin alike */
        q[i].sampling = (struct deq_sampling){.temperature = i % 2, .top_p = 1, .seed = i};
        q[i].solve.window = (uint32_t[]){1, 4, 8, 2}[i % 4];
        q[i].solve.prefill_window = i % 3 == 2 ? 8 : 0;
        q[i].solve.warm_start = i % 3 ? DEQ_WARM_PROPOSAL : DEQ_WARM_PREVIOUS;
        struct deq_engine *e = toy_engine(&layered, 1, 1, NULL);
        REQUIRE(e);
        alone[i] = ask(e, &q[i], NULL);
        deq_engine_free(e);
    }
    for (unsigned threads = 1; threads <= 2; threads++) {
        struct deq_engine *e = toy_engine(&layered, threads, SLOTS, NULL);
        REQUIRE(e);
        for (uint64_t batch = 0, r = 0; batch < BATCHES; batch++) {
            struct answer got[SLOTS];
            struct deq_admission id[SLOTS];
            size_t which[SLOTS];
            memset(got, 0, sizeof got);
            for (size_t i = 0; i < SLOTS; i++) {
                which[i] = deq_rng_below(batch, threads, r++, PROBES);
                struct deq_request one = q[which[i]];
                got[i].vocab = V;
                one.ctx = &got[i];
                CHECK(deq_submit(e, &one, &id[i], NULL) == DEQ_OK);
                for (uint64_t steps = deq_rng_below(batch, threads, r++, 9); steps > 0; steps--)
                    deq_step(e);
            }
            (void)deq_cancel(e, id[batch % SLOTS].id);
            run_all(e);
            for (size_t i = 0; i < SLOTS; i++)
                CHECK_MSG(got[i].finish == DEQ_FINISH_CANCELED || same_answer(&got[i], &alone[which[i]]),
                          "threads %u, batch %llu: probe %zu differs", threads, (unsigned long long)batch, which[i]);
        }
        deq_engine_free(e);
    }
}

/* A prompt's blocks beside others': positions of all that wait go together, never more than max_rows of them. */
TEST(fill_reads_ahead_in_one_batch)
{
    uint32_t prompt[PROMPT];
    struct answer a[6] = {{0}};
    struct deq_cell *cell;
    struct deq_engine *e = toy_engine(&layered, 1, 6, &cell);
    REQUIRE(e);
    fill_prompt(prompt, PROMPT, 6);
    for (size_t i = 0; i < 6; i++) {
        struct deq_request q = toy_request(prompt, PROMPT - i, 2, &a[i]);
        CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    }
    deq_step(e);
    CHECK_EQ(deq_engine_stats(e).explicit_rows, 64); /* max_rows: four blocks of 16 */
    deq_step(e);
    CHECK_EQ(deq_engine_stats(e).explicit_rows, 96);
    run_all(e);
    CHECK(deq_toy_largest_batch(cell) == 64);
    for (size_t i = 0; i < 6; i++)
        CHECK(a[i].n == 2 && worst_logprob(&layered, prompt, PROMPT - i, &a[i]) < TOLERANCE);
    deq_engine_free(e);
}

/* Rows behind one that is not a number are dropped before anything reads them; the cell serves others after it. */
TEST(fill_layers_and_a_poisoned_row)
{
    uint32_t good[40], bad[40];
    struct answer x = {0}, broken = {0};
    struct deq_cell *cell;
    struct deq_engine *e = toy_engine(&layered, 2, 4, &cell);
    REQUIRE(e);
    for (size_t i = 0; i < 40; i++) {
        good[i] = (uint32_t)(i % 7);
        bad[i] = i == 25 ? 20 : (uint32_t)(i % 5);
    }
    struct deq_request q = toy_request(good, 40, 20, &x), r = toy_request(bad, 40, 20, &broken);
    q.sampling.bias = &(struct deq_logit_bias){20, -100}; /* never the poison by itself */
    q.sampling.n_bias = 1;
    const struct answer alone = ask(e, &q, NULL);
    deq_toy_poison(cell, 20);
    CHECK(deq_submit(e, &r, NULL, NULL) == DEQ_OK);
    const struct answer beside = ask(e, &q, NULL), again = ask(e, &q, NULL);
    CHECK(broken.ended && broken.finish == DEQ_FINISH_NUMERIC && broken.n == 0);
    CHECK(same_answer(&alone, &beside) && same_answer(&alone, &again));
    deq_engine_free(e);
}

/* No evaluation: the proposal is read out, prompts through whole windows a step; company changes nothing. */
TEST(fill_answers_from_the_proposal)
{
    uint32_t prompt[PROMPT];
    struct answer x = {0}, other = {0};
    struct deq_toy of = layered;
    struct deq_err err = {0};
    struct deq_engine *e = toy_engine(&layered, 2, 4, NULL);
    REQUIRE(e);
    fill_prompt(prompt, PROMPT, 7);
    struct deq_request q = toy_request(prompt, PROMPT, 30, &x), solved = toy_request(prompt, PROMPT, 30, &other);
    q.sampling = (struct deq_sampling){.temperature = 1, .top_p = 1, .seed = 7};
    q.solve.max_iter = 0;
    q.solve.warm_start = DEQ_WARM_PREVIOUS;
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EINVAL && strstr(err.text, "0 answers from where states begin"));
    q.solve.warm_start = DEQ_WARM_ZERO; /* which every token's state is then: one distribution */
    const struct answer flat = ask(e, &q, NULL);
    CHECK(flat.n == 30 && flat.evaluations[29] == 0 && deq_engine_stats(e).rows == 0);
    q.solve.warm_start = DEQ_WARM_PROPOSAL;
    const struct answer a = ask(e, &q, NULL);
    CHECK(deq_engine_stats(e).steps == 0 && deq_engine_stats(e).rows == 0);
    of.coupling = 0; /* the state is then what enters the loop */
    const double worst = worst_logprob(&of, prompt, PROMPT, &a);
    CHECK_MSG(a.n == 30 && worst < 1e-5, "error %g", worst); /* sums of a few floats below 4 */
    CHECK(a.evaluations[29] == 0 && isnan(a.residual[29]) && isnan(a.prompt_residual_max) && a.not_converged == 0);
    CHECK(deq_submit(e, &solved, NULL, NULL) == DEQ_OK);
    const struct answer beside = ask(e, &q, NULL);
    CHECK(!memcmp(a.token, beside.token, sizeof a.token) && !memcmp(a.logprob, beside.logprob, sizeof a.logprob));
    CHECK(other.n == 30 && worst_logprob(&layered, prompt, PROMPT, &other) < TOLERANCE);
    deq_engine_free(e);
}

TEST(fill_refuses_a_proposal_that_nobody_makes)
{
    const uint32_t prompt[2] = {1, 2};
    struct answer a = {0};
    struct deq_err err = {0};
    struct deq_engine *e = toy_engine(&(struct deq_toy){.dim = V, .behind = 0.5f, .max_positions = 50}, 1, 1, NULL);
    REQUIRE(e);
    struct deq_request q = toy_request(prompt, 2, 4, &a);
    q.solve.warm_start = DEQ_WARM_PROPOSAL;
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EINVAL && strstr(err.text, "proposal"));
    q = toy_request(prompt, 2, 49, &a);
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EINVAL && strstr(err.text, "limit of 50 positions"));
    q.max_tokens = 48;
    CHECK(deq_engine_max_positions(e) == 50 && deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(a.n == 48 && a.finish == DEQ_FINISH_LENGTH);
    deq_engine_free(e);
}
