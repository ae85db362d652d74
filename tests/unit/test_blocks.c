/* core/engine/blocks.c: a hit gives the bits of a fresh solve, and tells what that reached; what is not exact is not
 * taken for it. */
#include "core/base/mem.h"
#include "tests/unit/answers.h"
#include "tests/unit/test.h"

/* A prompt's whole blocks do not depend on what follows them: the first positions of two prompts with a common
 * beginning get the same bits. */
TEST_EACH_KIND(engine_prefix_is_canonical)
{
    struct deq_tokens p = encode_text(m, "What shall I say more than I have inferred? Remember whom you are to cope "
                                         "withal; a sort of vagabonds, rascals, and runaways");
    const uint32_t V = deq_model_info(m).vocab_size;
    float *first = DEQ_NEW_ARRAY(float, p.n * V), *second = DEQ_NEW_ARRAY(float, p.n * V);
    const size_t lengths[2] = {p.n, 45};
    CHECK(p.n > 50);
    for (size_t i = 0; i < 2; i++) {
        struct answer a = {.all_logits = i ? second : first};
        struct deq_engine *e = tiny_engine(m, 2, 1);
        REQUIRE(e);
        struct deq_request q = tiny_request(m, &p, 0, &a);
        q.n_prompt = lengths[i];
        q.want_prompt = true;
        CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
        run_all(e);
        deq_engine_free(e);
    }
    CHECK(!memcmp(first, second, 45 * V * sizeof(float)));
    deq_free(first);
    deq_free(second);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* What is looked for, found, and found of generated text. */
TEST(engine_prefix_is_counted)
{
    enum { BLOCK = 16, PROMPT = 40, TOKENS = 24 };
    uint32_t text[PROMPT + TOKENS];
    struct answer x = {0};
    struct deq_admission a;
    struct deq_engine *e = toy_engine(&(struct deq_toy){.dim = 24, .rho = 0.5f, .coupling = 0.4f}, 1, 2, NULL);
    REQUIRE(e);
    for (size_t i = 0; i < PROMPT; i++)
        text[i] = (uint32_t)(i * i % 24);
    struct deq_request q = toy_request(text, PROMPT, TOKENS, &x);
    const struct answer first = ask(e, &q, NULL), second = ask(e, &q, &a);
    struct deq_engine_stats s = deq_engine_stats(e);
    CHECK(same_answer(&first, &second) && a.cached_tokens == 2 * BLOCK && !a.approximate);
    CHECK(s.prefix_queries_tok == 2 * PROMPT && s.prefix_hits_tok == 2 * BLOCK && !s.prefix_approximate_tok);
    memcpy(text + PROMPT, second.token, sizeof second.token[0] * TOKENS);
    q.n_prompt = PROMPT + TOKENS;
    q.cache = DEQ_CACHE_APPROXIMATE;
    (void)ask(e, &q, &a);
    s = deq_engine_stats(e);
    CHECK(a.cached_tokens == 3 * BLOCK && a.approximate);
    CHECK(s.prefix_queries_tok == 3 * PROMPT + TOKENS && s.prefix_hits_tok == 5 * BLOCK &&
          s.prefix_approximate_tok == BLOCK);
    q.n_prompt = BLOCK; /* of which nothing can be taken */
    (void)ask(e, &q, &a);
    CHECK(a.cached_tokens == 0 && deq_engine_stats(e).prefix_queries_tok == 3 * PROMPT + TOKENS);
    deq_engine_free(e);
}

/* A hit gives the bits of a fresh solve: whatever the prompt's length, behind one block or several, also when attention
 * no longer reaches the first. */
TEST_EACH_KIND(engine_prefix_hit_is_bitwise_equal)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    CHECK(p.n > 80);
    for (size_t n = 33; n <= p.n; n += 11) {
        struct deq_engine *fresh = tiny_engine(m, 1, 1), *warm = tiny_engine(m, 2, 2);
        struct deq_request q = tiny_request(m, &p, 20, &x);
        struct deq_admission first, second, third;
        q.sampling = (struct deq_sampling){.temperature = 0.9f, .top_p = 1, .seed = n};
        q.n_prompt = n;
        const struct answer alone = ask(fresh, &q, NULL);
        struct deq_request before = q; /* another text with the same first block or blocks */
        before.n_prompt = DEQ_MIN(n + 5, p.n);
        before.sampling.seed++;
        (void)ask(warm, &before, &first);
        const struct answer hit = ask(warm, &q, &second), again = ask(warm, &q, &third);
        CHECK(first.cached_tokens == 0 && second.cached_tokens == (n - 1) / 32 * 32 &&
              third.cached_tokens == second.cached_tokens && !third.approximate);
        CHECK_MSG(same_answer(&alone, &hit) && same_answer(&alone, &again),
                  "prompt of %zu tokens: a hit changes the answer", n);
        q.cache_salt = "somebody else's";
        q.cache_salt_len = strlen(q.cache_salt);
        const struct answer salted = ask(warm, &q, &second);
        CHECK(second.cached_tokens == 0 && same_answer(&alone, &salted));
        q.cache_salt = NULL;
        q.cache_salt_len = 0;
        q.solve.tol *= 0.5f; /* other settings, other bits: nothing is shared */
        (void)ask(warm, &q, &second);
        CHECK(second.cached_tokens == 0);
        const struct deq_engine_stats s = deq_engine_stats(warm);
        CHECK(s.pages_used == 0 && s.pages_reserved == 0 && s.prefix_entries > 0);
        deq_engine_free(fresh);
        deq_engine_free(warm);
    }
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* A position of a cached block that was committed above the tolerance is told by whoever begins behind it, and by all
 * of its choices, at every budget: at some of them only cached positions missed. A fixed number of steps, tolerance 0,
 * is all that was asked. */
TEST_EACH_KIND(engine_prefix_hit_tells_what_was_not_reached)
{
    enum { FIXED = 2, BUDGETS = 20 };
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_engine *e = tiny_engine(m, 1, 2);
    REQUIRE(e);
    struct deq_request q = tiny_request(m, &p, 2, &x);
    q.n_prompt = 70;
    q.solve.window = 1;
    q.solve.warm_start = DEQ_WARM_ZERO; /* as a fixed number of steps asks */
    size_t missed = 0;
    for (uint32_t budget = FIXED; budget < BUDGETS; budget++) {
        struct deq_admission a;
        struct choices two = {{{.vocab = x.vocab}, {.vocab = x.vocab}}};
        q.solve.tol = budget == FIXED ? 0 : 1e-3f;
        q.solve.max_iter = budget;
        const struct answer fresh = ask(e, &q, &a);
        CHECK(a.cached_tokens == 0 && fresh.prompt_residual_max > 0);
        CHECK(budget != FIXED || fresh.prompt_converged);
        missed += !fresh.prompt_converged;
        const struct answer hit = ask(e, &q, &a);
        CHECK(a.cached_tokens == 64 && same_answer(&fresh, &hit));
        struct deq_request both = q;
        both.n = 2;
        both.event = record_choice;
        both.ctx = &two;
        CHECK(deq_submit(e, &both, &a, NULL) == DEQ_OK);
        run_all(e);
        CHECK(a.cached_tokens == 64 && same_answer(&fresh, &two.a[0]) && same_answer(&fresh, &two.a[1]));
    }
    CHECK(missed > 0 && missed < BUDGETS - FIXED - 1);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* What generation produced serves a later prompt only where that asks for it, and then it is said. */
TEST_EACH_KIND(engine_prefix_of_generation)
{
    struct deq_tokens p = encode_text(m, "First Citizen: Before we proceed");
    struct answer x = {0};
    struct deq_engine *e = tiny_engine(m, 1, 6);
    REQUIRE(e);
    struct deq_request q = tiny_request(m, &p, 100, &x);
    const struct answer first = ask(e, &q, NULL);
    for (size_t i = 0; i < first.n; i++) /* the next turn: prompt, answer, something new */
        CHECK(deq_tokens_push(&p, first.token[i]));
    CHECK(deq_tokens_push(&p, 40) && deq_tokens_push(&p, 41));
    struct deq_request turn = tiny_request(m, &p, 20, &x);
    struct deq_admission a;
    turn.cache = DEQ_CACHE_OFF;
    const struct answer off = ask(e, &turn, &a);
    CHECK(a.cached_tokens == 0);
    turn.cache = DEQ_CACHE_APPROXIMATE;
    const struct answer near = ask(e, &turn, &a);
    CHECK_MSG(a.cached_tokens >= 64 && a.approximate, "%zu cached", a.cached_tokens);
    CHECK(near.n == off.n && deq_engine_stats(e).prefix_approximate_tok > 0);
    /* neither the blocks of generation nor those solved behind them are taken for exact */
    turn.cache = DEQ_CACHE_EXACT;
    const struct answer exact = ask(e, &turn, &a);
    CHECK(!a.approximate && a.cached_tokens <= (size_t)32 && same_answer(&exact, &off));
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* What a deadline committed above its tolerance is nobody else's prefix. */
TEST_EACH_KIND(engine_deadline_leaves_nothing_in_the_cache)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_engine *e = tiny_engine(m, 1, 6), *fresh = tiny_engine(m, 1, 1);
    REQUIRE(e);
    struct deq_admission a;
    struct deq_request q = tiny_request(m, &p, 4, &x);
    q.solve.tol = 1e-6f;
    q.solve.window = 1;
    q.n_prompt = 64;
    struct answer cut = {.vocab = x.vocab};
    struct deq_request first = q;
    first.ctx = &cut;
    CHECK(deq_submit(e, &first, &a, NULL) == DEQ_OK);
    while (deq_engine_stats(e).positions < 63)
        deq_step(e);
    CHECK(deq_expire(e, a.id) == DEQ_OK);
    run_all(e);
    CHECK(cut.n == 1 && cut.not_converged == 1);
    q.n_prompt = 70;
    const struct answer alone = ask(fresh, &q, NULL), after = ask(e, &q, &a);
    CHECK_MSG(a.cached_tokens == 32 && same_answer(&alone, &after), "%zu cached", a.cached_tokens);
    deq_engine_free(e);
    deq_engine_free(fresh);
    deq_tokens_free(&p);
    deq_model_free(m);
}
