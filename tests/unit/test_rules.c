/* core/engine/rules.c: by which rule a row has converged, on toy cells whose iterates are known. */
#include "core/base/rng.h"
#include "tests/unit/answers.h"

enum { V = 24, PROMPT = 40, TOKENS = 20 };

static const struct deq_toy plain = {.dim = V, .rho = 0.6f, .coupling = 0.5f};
static const struct deq_toy layered = {.dim = V, .rho = 0.6f, .coupling = 0.4f, .before = 0.5f, .behind = 0.3f};

/* From zero by Picard steps, window 1, drawn at random. */
static struct deq_request stopping_by(enum deq_stop_rule rule, const uint32_t *prompt, struct answer *a)
{
    struct deq_request q = toy_request(prompt, PROMPT, TOKENS, a);
    q.sampling = (struct deq_sampling){.temperature = 1, .top_p = 1, .seed = 9};
    q.solve = (struct deq_solve_params){.solver = DEQ_PICARD, .stop = rule, .tol = deq_stop_rule_tol(rule),
                                        .max_iter = 60, .window = 1};
    return q;
}

static void fill_prompt(uint32_t *prompt)
{
    for (size_t i = 0; i < PROMPT; i++)
        prompt[i] = (uint32_t)deq_rng_below(11, 0, i, V);
}

/* Of plain iteration the change from one evaluation to the next is the residual. */
TEST(rules_latent_of_picard_is_the_residual)
{
    uint32_t prompt[PROMPT];
    struct answer x = {0};
    struct deq_engine *e = toy_engine(&plain, 1, 1, NULL);
    REQUIRE(e);
    fill_prompt(prompt);
    for (uint32_t window = 1; window <= 8; window *= 2) {
        struct deq_request q = stopping_by(DEQ_STOP_AT_RESIDUAL, prompt, &x);
        struct deq_admission cached;
        q.solve.tol = 0.03f;
        q.solve.window = window;
        const struct answer residual = ask(e, &q, NULL);
        q.solve.stop = DEQ_STOP_AT_LATENT;
        const struct answer latent = ask(e, &q, &cached);
        CHECK(cached.cached_tokens == 0 && latent.not_converged == 0); /* a rule is part of a block's name */
        /* with a window, states of positions before move between two evaluations: by less than the tolerance */
        CHECK(window > 1 || same_answer(&residual, &latent));
        CHECK_EQ(latent.n, TOKENS);
    }
    deq_engine_free(e);
}

/* Evaluations at which iterates z_k = (1 - rho^k) t have distributions nearer than tol; t: [V] */
static uint32_t kl_evaluations(const double *t, double tol)
{
    double before[V], now[V];
    for (size_t i = 0; i < V; i++)
        before[i] = -log((double)V);
    for (uint32_t k = 1;; k++) {
        double sum = 0, kl = 0;
        for (size_t i = 0; i < V; i++)
            sum += exp(now[i] = (1 - pow((double)plain.rho, k)) * t[i]);
        for (size_t i = 0; i < V; i++) {
            now[i] -= log(sum);
            kl += exp(before[i]) * (before[i] - now[i]);
            before[i] = now[i];
        }
        if (kl < tol)
            return k;
    }
}

/* The state that a position leaves is the iterate of its last evaluation, one before what is read out. */
TEST(rules_kl_stops_where_distributions_rest)
{
    uint32_t prompt[PROMPT], text[PROMPT + TOKENS];
    double t[V] = {0}, left[V] = {0};
    struct answer x = {0};
    struct deq_engine *e = toy_engine(&plain, 1, 1, NULL);
    REQUIRE(e);
    fill_prompt(prompt);
    const struct deq_request q = stopping_by(DEQ_STOP_AT_KL, prompt, &x);
    const struct answer a = ask(e, &q, NULL);
    memcpy(text, prompt, sizeof prompt);
    memcpy(text + PROMPT, a.token, TOKENS * sizeof *text);
    CHECK(a.n == TOKENS && a.not_converged == 0);
    for (size_t p = 0; p < PROMPT + TOKENS - 1; p++) {
        for (size_t d = 0; d < V; d++)
            t[d] = (text[p] == d) + (double)plain.coupling * left[d];
        const uint32_t k = kl_evaluations(t, 1e-3);
        for (size_t d = 0; d < V; d++)
            left[d] = (1 - pow((double)plain.rho, k - 1)) * t[d];
        if (p + 1 >= PROMPT)
            CHECK_MSG(a.evaluations[p + 1 - PROMPT] == k, "position %zu: %u evaluations, expected %u", p,
                      a.evaluations[p + 1 - PROMPT], k);
    }
    deq_engine_free(e);
}

/* From zero the best word is the same at every evaluation: five times that of the one before, so six evaluations,
 * whether the pick tells it (greedy) or the logits do. With a budget of less the rule is missed, and told so. */
TEST(rules_argmax_stops_when_the_best_word_rests)
{
    uint32_t prompt[PROMPT];
    struct answer x = {0};
    struct deq_engine *e = toy_engine(&plain, 1, 1, NULL);
    REQUIRE(e);
    fill_prompt(prompt);
    struct deq_request q = stopping_by(DEQ_STOP_AT_ARGMAX, prompt, &x);
    for (int greedy = 0; greedy < 2; greedy++) {
        q.sampling.temperature = 1 - (float)greedy;
        q.want_logits = !greedy;
        q.solve.max_iter = 60;
        const struct answer a = ask(e, &q, NULL);
        CHECK(a.n == TOKENS && a.not_converged == 0);
        for (size_t i = 0; i < a.n; i++)
            CHECK_EQ(a.evaluations[i], 6);
        q.solve.max_iter = 5;
        const struct answer b = ask(e, &q, NULL);
        CHECK(b.n == TOKENS && b.not_converged == TOKENS && b.evaluations[0] == 5);
    }
    /* where the best word changes on the way, it takes longer */
    q.solve.max_iter = 60;
    q.solve.warm_start = DEQ_WARM_PREVIOUS;
    const struct answer c = ask(e, &q, NULL);
    uint32_t most = 0;
    for (size_t i = 0; i < c.n; i++)
        most = DEQ_MAX(most, c.evaluations[i]);
    CHECK_MSG(c.not_converged == 0 && most > 6, "at most %u", most);
    deq_engine_free(e);
}

/* Rules are a row's own: the same bits beside others, as one of several choices, over layers around the loop. */
TEST(rules_are_kept_in_company)
{
    uint32_t prompt[PROMPT];
    struct answer x = {0}, alone[DEQ_STOP_RULES], beside[DEQ_STOP_RULES];
    struct deq_request q[DEQ_STOP_RULES];
    struct deq_engine *e = toy_engine(&layered, 2, 8, NULL);
    REQUIRE(e);
    fill_prompt(prompt);
    memset(beside, 0, sizeof beside);
    for (int rule = 0; rule < DEQ_STOP_RULES; rule++) {
        q[rule] = stopping_by((enum deq_stop_rule)rule, prompt, &x);
        q[rule].cache = DEQ_CACHE_OFF;
        q[rule].solve.warm_start = DEQ_WARM_PREVIOUS;
        alone[rule] = ask(e, &q[rule], NULL);
    }
    for (int rule = 0; rule < DEQ_STOP_RULES; rule++) {
        beside[rule].vocab = V;
        q[rule].ctx = &beside[rule];
        CHECK(deq_submit(e, &q[rule], NULL, NULL) == DEQ_OK);
        deq_step(e);
    }
    struct choices c = {{{0}}};
    for (size_t i = 0; i < CHOICES; i++)
        c.a[i].vocab = V;
    struct deq_request several = q[DEQ_STOP_AT_KL];
    several.n = 3;
    several.event = record_choice;
    several.ctx = &c;
    CHECK(deq_submit(e, &several, NULL, NULL) == DEQ_OK);
    run_all(e);
    for (int rule = 0; rule < DEQ_STOP_RULES; rule++)
        CHECK_MSG(same_answer(&alone[rule], &beside[rule]), "rule %s", deq_stop_rule_name((enum deq_stop_rule)rule));
    CHECK(same_answer(&alone[DEQ_STOP_AT_KL], &c.a[0]) && c.a[2].n == TOKENS);
    deq_engine_free(e);
}

TEST(rules_refusals)
{
    uint32_t prompt[PROMPT];
    struct answer x = {0};
    struct deq_err err = {0};
    struct deq_engine *e = toy_engine(&plain, 1, 1, NULL);
    REQUIRE(e);
    fill_prompt(prompt);
    struct deq_request q = stopping_by(DEQ_STOP_AT_KL, prompt, &x);
    q.solve.window = 2;
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EINVAL && strstr(err.text, "stop kl reads out every evaluation"));
    q = stopping_by(DEQ_STOP_AT_LATENT, prompt, &x);
    q.solve.tol = 0;
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EINVAL && strstr(err.text, "stop: latent, but tol 0"));
    deq_engine_free(e);
}
