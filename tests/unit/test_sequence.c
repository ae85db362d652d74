/* core/engine/sequence.c: admission, choices, sliding windows, stops, pauses and deadlines. */
#include "core/engine/engine.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/form/kinds.h"
#include "tests/unit/answers.h"
#include "tests/unit/test.h"

/* Text longer than the attention window, where there is one, slides: memory stays, and the last position's logits are
 * those of the same text entered later in another sequence of the same suffix only when the window is full, so we check
 * sizes and determinism here, values in engine_equals_sequence_form. */
TEST_EACH_KIND(engine_slides)
{
    struct deq_tokens p = encode_text(m, "A long story begins");
    struct deq_engine *e = tiny_engine(m, 2, 2);
    REQUIRE(e);
    struct answer a = {0}, b = {0};
    struct deq_request q = tiny_request(m, &p, 400, &a);
    uint64_t most = 0;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    for (int guard = 0; deq_active(e) && guard < 100000; guard++) {
        deq_step(e);
        most = DEQ_MAX(most, deq_engine_stats(e).pages_used);
    }
    CHECK(a.n == 400 && a.finish == DEQ_FINISH_LENGTH);
    /* window 48 and row window 8 need (48 + 8 - 2) / 16 + 2 = 5 pages. Where a page is one position: one to look back
     * at and the row window; where all positions are looked back at: theirs */
    const uint32_t lookback = deq_model_info(m).lookback;
    CHECK_EQ(most, lookback > 400 ? (p.n + 400 - 1 + 15) / 16 : lookback > 16 ? 5 : 1 + 8);
    q.ctx = &b;
    b.vocab = a.vocab;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(same_answer(&a, &b));
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* Without memory for some part of it a request takes nothing: of a form, two choices, traces and a rule that looks
 * back; of the products with a Jacobian. */
TEST(engine_submits_without_memory)
{
    struct deq_model *m = tiny_model();
    REQUIRE(m);
    struct deq_tokens p = encode_text(m, "ROMEO:");
    struct deq_form *f = NULL;
    struct deq_engine *e = tiny_engine(m, 1, 3);
    struct answer x = {0};
    struct choices c = {{{0}}};
    REQUIRE(e && !deq_form_new(m, DEQ_FORM_REGEX, "[a-z ]{3,9}", 11, &f, NULL));
    struct deq_request q[2] = {tiny_request(m, &p, 9, &x), tiny_request(m, &p, 0, &x)};
    q[0].form = f;
    q[0].ignore_eos = false;
    q[0].n = 2;
    q[0].want_trace = true;
    q[0].solve.stop = DEQ_STOP_AT_KL;
    q[0].solve.window = 1;
    q[0].event = record_choice;
    q[0].ctx = &c;
    c.a[0].vocab = c.a[1].vocab = x.vocab;
    q[1].states = DEQ_STATES_LAST;
    q[1].products = 2;
    for (size_t i = 0; i < DEQ_COUNT(q); i++) {
        const uint64_t live = deq_mem_live();
        enum deq_rc rc = DEQ_ENOMEM;
        uint64_t nth = 0;
        while (rc == DEQ_ENOMEM && nth < 100) {
            struct deq_err err = {0};
            deq_mem_fault(++nth, false);
            rc = deq_submit(e, &q[i], NULL, &err);
            deq_mem_fault(0, false);
            const struct deq_engine_stats s = deq_engine_stats(e);
            CHECK(rc == DEQ_OK || (rc == DEQ_ENOMEM && strstr(err.text, "no memory")));
            CHECK(rc == DEQ_OK ||
                  (deq_mem_live() == live && !deq_active(e) && !s.pages_reserved && !s.rows_reserved && !s.pages_used));
        }
        CHECK_MSG(rc == DEQ_OK && nth > (i ? 3 : 8), "%zu: %d after %d", i, (int)rc, (int)nth);
        run_all(e);
        CHECK_EQ(deq_mem_live(), live);
    }
    CHECK(c.a[0].n >= 3 && c.a[1].n >= 3);
    deq_form_free(f);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* All that there is can be taken, and then nothing more: sequences, rows, pages. */
TEST(engine_is_full_when_it_is)
{
    const uint32_t prompt[3] = {1, 2, 3};
    struct answer a[4] = {{0}};
    struct deq_engine *e = toy_engine(&(struct deq_toy){.dim = 24, .rho = 0.5f}, 1, 3, NULL);
    REQUIRE(e);
    struct deq_err err;
    struct deq_request q = toy_request(prompt, 3, 5, &a[0]);
    q.solve.window = 1;
    for (size_t i = 0; i < 3; i++) {
        a[i].vocab = 24;
        q.ctx = &a[i];
        CHECK(deq_submit(e, &q, NULL, &err) == DEQ_OK);
    }
    q.ctx = &a[3];
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EFULL && strstr(err.text, "1 sequences are needed, 3 of 3 are taken"));
    run_all(e);
    /* 64 rows */
    q = toy_request(prompt, 3, 5, &a[0]);
    q.solve.window = 32;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    q.solve.window = 33;
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EFULL && strstr(err.text, "33 rows are needed, 32 of 64 are free"));
    q.solve.window = 32;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    CHECK_EQ(deq_engine_stats(e).rows_reserved, 64u);
    q.solve.window = 1;
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EFULL);
    run_all(e);
    q.n = 3;
    q.solve.window = 22;
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EINVAL && strstr(err.text, "3 choices with windows of 22 rows"));
    deq_engine_free(e);

    /* pages of two texts */
    const struct deq_toy of = {.dim = 24, .rho = 0.5f};
    const struct deq_cell shape = deq_toy_shape(&of, 0, 0);
    const struct deq_vocab vocab = {.size = 24, .eos_id = -1};
    const struct deq_serving serving = {
        .solver = {.method = DEQ_ANDERSON, .memory = 3, .max_iter = 200, .tol = 1e-5f, .beta = 1, .reg = 1e-4f},
        .row_window = 4};
    struct deq_engine_opts opts,
        asked = {.max_sequences = 3, .max_rows = 160, .max_positions = 40, .prefill_block = 16};
    asked.cache_bytes = 2 * shape.page_bytes * 10;
    struct deq_pool *pool;
    struct deq_cell *cell;
    REQUIRE(!deq_pool_new(1, &pool, NULL) && !deq_engine_opts_fill(&shape, &asked, &opts, NULL) &&
            !deq_toy_open(&of, opts.max_rows, deq_engine_pages(&shape, &opts), pool, &cell, NULL) &&
            !deq_engine_open(cell, &vocab, &serving, pool, &opts, &e, NULL));
    q = toy_request(prompt, 3, 37, &a[0]); /* 40 positions: ten pages */
    q.solve.window = 40;
    q.cache = DEQ_CACHE_OFF;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    CHECK_EQ(deq_engine_stats(e).pages_reserved, 10u);
    struct deq_request two = q;
    two.n = 2;
    two.ctx = &a[1];
    CHECK(deq_submit(e, &two, NULL, &err) == DEQ_EFULL && strstr(err.text, "20 cache pages are needed, 10 of 20"));
    q.ctx = &a[1];
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    CHECK_EQ(deq_engine_stats(e).pages_reserved, 20u);
    q.ctx = &a[2];
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EFULL && strstr(err.text, "10 cache pages are needed, 0 of 20"));
    run_all(e);
    two.ctx = &a[0];
    CHECK(deq_submit(e, &two, NULL, NULL) == DEQ_OK);
    run_all(e);
    two.n = 3;
    CHECK(deq_submit(e, &two, NULL, &err) == DEQ_EINVAL && strstr(err.text, "3 choices need 30 cache pages"));
    deq_engine_free(e);
}

/* A fixed number of steps is taken from a fixed start, a row at a time. */
TEST(engine_fixed_steps)
{
    const uint32_t prompt[3] = {1, 2, 3};
    struct answer a = {0};
    struct deq_admission id;
    struct deq_engine *e = toy_engine(&(struct deq_toy){.dim = 24, .rho = 0.5f}, 1, 2, NULL);
    REQUIRE(e);
    struct deq_request q = toy_request(prompt, 3, 4, &a);
    q.solve.tol = 0;
    q.solve.max_iter = 3;
    CHECK_EQ(deq_submit(e, &q, NULL, NULL), DEQ_EINVAL);
    q.solve.window = 1;
    q.solve.prefill_window = 2;
    CHECK_EQ(deq_submit(e, &q, NULL, NULL), DEQ_EINVAL);
    q.solve.prefill_window = 1;
    q.solve.warm_start = DEQ_WARM_PREVIOUS;
    CHECK_EQ(deq_submit(e, &q, NULL, NULL), DEQ_EINVAL);
    q.solve.warm_start = DEQ_WARM_ZERO;
    CHECK_EQ(deq_submit(e, &q, &id, NULL), DEQ_OK);
    CHECK_EQ(deq_set_tol(e, id.id, 0.1f), DEQ_EINVAL);
    run_all(e);
    CHECK(a.n == 4 && a.not_converged == 0 && a.finish == DEQ_FINISH_LENGTH);
    for (size_t i = 0; i < a.n; i++)
        CHECK_EQ(a.evaluations[i], 3u);
    q.solve.tol = 1e-3f;
    q.solve.stop = DEQ_STOP_AT_ARGMAX;
    a = (struct answer){.vocab = 24};
    CHECK_EQ(deq_submit(e, &q, &id, NULL), DEQ_OK);
    CHECK_EQ(deq_set_tol(e, id.id, 0.1f), DEQ_EINVAL); /* which has none */
    run_all(e);
    q.solve.stop = DEQ_STOP_AT_RESIDUAL;
    a = (struct answer){.vocab = 24};
    CHECK_EQ(deq_submit(e, &q, &id, NULL), DEQ_OK);
    CHECK(deq_set_tol(e, id.id, INFINITY) == DEQ_EINVAL && deq_set_tol(e, id.id, NAN) == DEQ_EINVAL &&
          deq_set_tol(e, id.id, 2) == DEQ_OK && deq_set_tol(e, 0, 2) == DEQ_ENOTFOUND);
    run_all(e);
    deq_engine_free(e);
}

/* Choices from a prompt of one token: what stands before them is its page alone. */
TEST_EACH_KIND(engine_choices_of_a_short_prompt)
{
    struct deq_tokens p = encode_text(m, "O");
    struct answer x = {0};
    struct deq_request q = tiny_request(m, &p, 12, &x);
    q.n_prompt = 1;
    q.sampling = (struct deq_sampling){.temperature = 1, .top_p = 1, .seed = 5};
    q.solve.window = 1;
    q.solve.tol = 1e-5f;
    q.cache = DEQ_CACHE_OFF;
    struct deq_engine *e = tiny_engine(m, 1, 4);
    REQUIRE(e);
    const struct answer alone = ask(e, &q, NULL);
    struct choices c = {{{0}}};
    for (size_t i = 0; i < CHOICES; i++)
        c.a[i].vocab = x.vocab;
    q.n = 3;
    q.event = record_choice;
    q.ctx = &c;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(same_answer(&alone, &c.a[0]) && c.a[1].n == 12 && c.a[2].n == 12);
    /* choice 1's text, read as a prompt, has the same log-probabilities */
    uint32_t text[13] = {p.ids[0]};
    memcpy(text + 1, c.a[1].token, 12 * sizeof *text);
    struct deq_request read = tiny_request(m, &p, 1, &x);
    read.solve = q.solve;
    read.cache = DEQ_CACHE_OFF;
    read.prompt = text;
    read.n_prompt = 12;
    read.sampling.bias = &(struct deq_logit_bias){text[12], 100}; /* the same word again */
    read.sampling.n_bias = 1;
    const struct answer again = ask(e, &read, NULL);
    CHECK(again.token[0] == text[12] && fabsf(again.logprob[0] - c.a[1].logprob[11]) < 1e-2f);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

TEST(engine_stops_when_told)
{
    struct deq_model *m = tiny_model();
    REQUIRE(m);
    struct deq_tokens p = encode_text(m, "ROMEO:");
    struct deq_engine *e = tiny_engine(m, 1, 1);
    REQUIRE(e);
    struct answer a = {.stop_after = 5};
    struct deq_request q = tiny_request(m, &p, 50, &a);
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(a.n == 5 && a.finish == DEQ_FINISH_STOP);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* n choices from one solve of the prompt: choice k has the bits that it has with any other n, and the prompt's
 * positions are solved once. */
TEST_EACH_KIND(engine_choices)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    for (size_t n_prompt = 60; n_prompt < 70; n_prompt += 4) { /* ends inside a page and at its end */
        struct choices got[2];
        uint64_t positions[2];
        memset(got, 0, sizeof got);
        for (uint32_t round = 0; round < 2; round++) {
            struct deq_engine *e = tiny_engine(m, 1 + round, 6);
            REQUIRE(e);
            struct deq_request q = tiny_request(m, &p, 30, &x);
            q.n_prompt = n_prompt;
            q.sampling = (struct deq_sampling){.temperature = 1, .top_p = 1, .seed = 5};
            q.event = record_choice;
            q.ctx = &got[round];
            q.n = round ? CHOICES : 2;
            for (size_t i = 0; i < CHOICES; i++)
                got[round].a[i].vocab = deq_model_info(m).vocab_size;
            got[round].a[1].stop_after = 3; /* one leaves early */
            CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
            run_all(e);
            const struct deq_engine_stats s = deq_engine_stats(e);
            positions[round] = s.positions;
            CHECK(s.pages_used == 0 && s.pages_reserved == 0 && s.rows_open == 0);
            deq_engine_free(e);
        }
        struct deq_engine *e = tiny_engine(m, 1, 1);
        REQUIRE(e);
        struct deq_request q = tiny_request(m, &p, 30, &x);
        q.n_prompt = n_prompt;
        q.sampling = (struct deq_sampling){.temperature = 1, .top_p = 1, .seed = 5};
        const struct answer alone = ask(e, &q, NULL);
        deq_engine_free(e);
        CHECK(same_answer(&alone, &got[0].a[0]) && same_answer(&alone, &got[1].a[0]) &&
              same_answer(&got[0].a[1], &got[1].a[1]));
        CHECK(got[1].a[1].n == 3 && got[1].a[1].finish == DEQ_FINISH_STOP);
        for (size_t i = 0; i < CHOICES; i++)
            for (size_t k = i + 1; k < CHOICES && i != 1; k++)
                CHECK(k == 1 || memcmp(got[1].a[i].token, got[1].a[k].token, sizeof got[1].a[i].token));
        CHECK_MSG(positions[0] == n_prompt + 29 + 2 && positions[1] == n_prompt + 4 * 29 + 2, "%llu and %llu positions",
                  (unsigned long long)positions[0], (unsigned long long)positions[1]);
    }
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* Choices that end with their first token do not take the others along; a deadline at the end of the
 * prompt gives each its token. */
TEST_EACH_KIND(engine_choices_of_one_token)
{
    struct deq_tokens p = encode_text(m, "ROMEO: ");
    struct answer x = {0};
    struct deq_engine *e = tiny_engine(m, 1, 6);
    REQUIRE(e);
    for (int round = 0; round < 2; round++) {
        struct choices got;
        struct deq_admission id;
        memset(&got, 0, sizeof got);
        struct deq_request q = tiny_request(m, &p, round ? 50 : 1, &x);
        q.event = record_choice;
        q.ctx = &got;
        q.n = CHOICES;
        q.solve.tol = 1e-6f;
        q.solve.window = 1; /* positions one by one, so that the last one can be caught alone */
        for (size_t i = 0; i < CHOICES; i++)
            got.a[i].vocab = x.vocab;
        CHECK(deq_submit(e, &q, &id, NULL) == DEQ_OK);
        if (round) { /* all but the last position of the prompt are solved when time is up */
            const uint64_t before = deq_engine_stats(e).positions;
            while (deq_engine_stats(e).positions - before < p.n - 1)
                deq_step(e);
            CHECK(deq_expire(e, id.id) == DEQ_OK);
        }
        run_all(e);
        for (size_t i = 0; i < CHOICES; i++)
            CHECK_MSG(got.a[i].ended && got.a[i].n == 1 &&
                          got.a[i].finish == (round ? DEQ_FINISH_DEADLINE : DEQ_FINISH_LENGTH),
                      "round %d, choice %zu: %zu tokens, %d", round, i, got.a[i].n, (int)got.a[i].finish);
    }
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

TEST_EACH_KIND(engine_pause_and_deadline)
{
    struct deq_tokens p = encode_text(m, "GLOUCESTER: Now is the winter"), other = encode_text(m, "O");
    struct answer x = {0}, a = {0}, b = {0}, c = {0};
    struct deq_engine *e = tiny_engine(m, 1, 3);
    REQUIRE(e);
    struct deq_admission id, id2;
    struct deq_request q = tiny_request(m, &p, 60, &x);
    const struct answer alone = ask(e, &q, NULL);
    a.vocab = b.vocab = c.vocab = x.vocab;
    q.ctx = &a;
    struct deq_request q2 = tiny_request(m, &other, 40, &b);
    CHECK(deq_submit(e, &q, &id, NULL) == DEQ_OK && deq_submit(e, &q2, NULL, NULL) == DEQ_OK);
    for (int i = 0; i < 30; i++) { /* stop and go, while another one runs */
        CHECK(deq_pause(e, id.id, i % 3 != 0) == DEQ_OK);
        deq_step(e);
    }
    CHECK(deq_pause(e, id.id, true) == DEQ_OK);
    const size_t stands = a.n;
    while (deq_runnable(e))
        deq_step(e);
    CHECK(b.ended && !a.ended && a.n == stands && deq_active(e) == 1);
    deq_step(e); /* nothing to do */
    CHECK(a.n == stands && deq_pause(e, id.id, false) == DEQ_OK && deq_runnable(e));
    run_all(e);
    CHECK(same_answer(&a, &alone));
    /* a deadline in the text: one more token from the iterate at hand; in the prompt: nothing */
    q.ctx = &c;
    q.solve.tol = 1e-6f; /* many evaluations a token, one token at a time, so that it comes between two */
    q.solve.window = 1;
    CHECK(deq_submit(e, &q, &id, NULL) == DEQ_OK);
    while (c.n < 5)
        deq_step(e);
    deq_step(e);
    const size_t had = c.n;
    CHECK(deq_expire(e, id.id) == DEQ_OK);
    deq_step(e);
    CHECK_MSG(c.ended && c.finish == DEQ_FINISH_DEADLINE && c.n == had + 1 && c.not_converged == 1,
              "%d, %zu tokens, had %zu, %zu above tol", (int)c.finish, c.n, had, c.not_converged);
    struct answer d = {.vocab = x.vocab};
    q.ctx = &d;
    CHECK(deq_submit(e, &q, &id2, NULL) == DEQ_OK);
    deq_step(e);
    CHECK(deq_expire(e, id2.id) == DEQ_OK && d.ended && d.finish == DEQ_FINISH_DEADLINE && d.n == 0);
    /* at once where nothing is written, and where it stands still */
    struct answer prompt_only = {.vocab = x.vocab}, still = {.vocab = x.vocab};
    struct deq_request last = q;
    last.ctx = &prompt_only;
    last.max_tokens = 0;
    CHECK(deq_submit(e, &last, &id, NULL) == DEQ_OK);
    while (deq_engine_stats(e).rows_open == 0 || deq_engine_stats(e).positions % 2)
        deq_step(e);
    CHECK(deq_expire(e, id.id) == DEQ_OK && prompt_only.ended && prompt_only.finish == DEQ_FINISH_DEADLINE);
    q.ctx = &still;
    CHECK(deq_submit(e, &q, &id, NULL) == DEQ_OK);
    while (!still.n)
        deq_step(e);
    CHECK(deq_pause(e, id.id, true) == DEQ_OK && deq_expire(e, id.id) == DEQ_OK && still.ended &&
          still.finish == DEQ_FINISH_DEADLINE);
    CHECK(deq_expire(e, id2.id) == DEQ_ENOTFOUND && deq_pause(e, id2.id, true) == DEQ_ENOTFOUND && !deq_active(e));
    CHECK(deq_engine_stats(e).pages_used == 0 && deq_engine_stats(e).rows_open == 0);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_tokens_free(&other);
    deq_model_free(m);
}

/* A prompt's window is one of its own: its width decides the prompt's bits and the names of its blocks, the other
 * window does not. */
TEST_EACH_KIND(engine_prefill_window)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_admission a;
    struct deq_engine *e = tiny_engine(m, 2, 2);
    REQUIRE(e);
    struct deq_request q = tiny_request(m, &p, 20, &x);
    q.n_prompt = 70;
    q.solve.window = 8;
    (void)ask(e, &q, &a);
    q.solve.prefill_window = 8; /* filled by and by: other bits */
    const struct answer first = ask(e, &q, &a);
    CHECK(a.cached_tokens == 0);
    q.solve.window = 2;
    const struct answer other = ask(e, &q, &a);
    CHECK(a.cached_tokens == 64 && other.logprob[0] == first.logprob[0]);
    q.solve.prefill_window = 3;
    const struct answer fresh = ask(e, &q, &a);
    CHECK(a.cached_tokens == 0);
    const struct answer hit = ask(e, &q, &a);
    CHECK(a.cached_tokens == 64 && same_answer(&fresh, &hit));
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* A wide prompt's rows are free for others as soon as it was read; choices that wait for it lend it theirs. */
TEST(engine_prefill_window_gives_rows_back)
{
    struct deq_model *m = tiny_model();
    REQUIRE(m);
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct choices c = {{{0}}};
    struct answer other = {0};
    struct deq_engine *e = tiny_engine(m, 1, 4);
    REQUIRE(e);
    const uint32_t rows = (uint32_t)deq_engine_stats(e).max_rows;
    CHECK_EQ(rows, 64);
    struct deq_request wide = tiny_request(m, &p, 20, &c.a[0]), q = tiny_request(m, &p, 20, &other);
    wide.n = 3;
    wide.event = record_choice;
    wide.ctx = &c;
    c.a[1].vocab = c.a[2].vocab = c.a[0].vocab;
    wide.solve.window = 4;
    wide.solve.prefill_window = rows;
    CHECK(deq_submit(e, &wide, NULL, NULL) == DEQ_OK);
    CHECK_EQ(deq_engine_stats(e).rows_reserved, rows);
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_EFULL);
    while (!c.a[0].n)
        deq_step(e);
    CHECK_EQ(deq_engine_stats(e).rows_reserved, 3 * 4);
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(c.a[2].n == 20 && other.n == 20 && deq_engine_stats(e).rows_reserved == 0);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* A text's budget is spent to the last evaluation: what it paid for whole is the text without one, then comes one token
 * of what the last position had by then. The prompt costs nothing. */
TEST_EACH_KIND(engine_text_has_a_budget)
{
    struct deq_tokens p = encode_text(m, "GLOUCESTER: Now");
    struct answer x = {0};
    struct deq_engine *e = tiny_engine(m, 1, 2);
    struct deq_request q = tiny_request(m, &p, 20, &x);
    q.solve.tol = 1e-3f;
    q.solve.window = 1;
    q.solve.prefill_window = 4;
    const struct answer whole = ask(e, &q, NULL);
    uint64_t all = 0;
    for (size_t i = 1; i < whole.n; i++)
        all += whole.evaluations[i];
    for (uint64_t budget = 1; budget < all; budget += all / 9 + 1) {
        q.solve.max_evaluations = budget;
        const struct answer a = ask(e, &q, NULL);
        uint64_t spent = 0;
        for (size_t i = 1; i < a.n; i++)
            spent += a.evaluations[i];
        CHECK(a.finish == (a.n == whole.n ? DEQ_FINISH_LENGTH : DEQ_FINISH_BUDGET) && spent == budget && a.n >= 2);
        CHECK(!memcmp(a.token, whole.token, (a.n - 1) * sizeof *a.token));
        CHECK(a.not_converged <= 1 && (a.not_converged || a.token[a.n - 1] == whole.token[a.n - 1]));
    }
    q.solve.max_evaluations = all;
    const struct answer enough = ask(e, &q, NULL);
    CHECK(same_answer(&enough, &whole) && enough.finish == DEQ_FINISH_LENGTH);
    q.solve.window = 2;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_EINVAL);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* A text's tolerance may change under way: fewer evaluations, and it is told. Its prompt is solved as asked, and nobody
 * else finds anything of it in the prefix cache. */
TEST_EACH_KIND(engine_tolerance_changes)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_admission id;
    struct deq_engine *e = tiny_engine(m, 1, 2);
    struct deq_request q = tiny_request(m, &p, 60, &x);
    q.solve.tol = 1e-4f;
    q.solve.window = 1;
    q.solve.prefill_window = 8;
    q.cache = DEQ_CACHE_OFF;
    const struct answer asked = ask(e, &q, NULL);
    q.cache = DEQ_CACHE_EXACT;
    struct answer a = {.vocab = x.vocab};
    q.ctx = &a;
    CHECK(deq_submit(e, &q, &id, NULL) == DEQ_OK);
    CHECK(deq_set_tol(e, id.id, 0) == DEQ_EINVAL && deq_set_tol(e, id.id + 1, 0.1f) == DEQ_ENOTFOUND);
    CHECK(deq_set_tol(e, id.id, 0.2f) == DEQ_OK);
    while (a.n < 30)
        deq_step(e);
    CHECK(deq_set_tol(e, id.id, q.solve.tol) == DEQ_OK);
    run_all(e);
    uint32_t before = 0, opened = 0;
    for (size_t i = 1; i < 30; i++) {
        before += asked.evaluations[i];
        opened += a.evaluations[i];
        CHECK(a.residual[i] < 0.2f);
    }
    for (size_t i = 31; i < 60; i++)
        CHECK(a.residual[i] < 1e-4f);
    CHECK_MSG(opened < before, "%u evaluations at 0.2, %u at 1e-4", opened, before);
    CHECK(a.tol_max == 0.2f && asked.tol_max == 1e-4f && a.not_converged == 0);
    CHECK(a.prompt_residual_max == asked.prompt_residual_max && a.evaluations[0] == asked.evaluations[0]);
    /* a prompt that goes on with that text finds no block of it, though it would take any */
    uint32_t longer[512];
    struct deq_request further = q;
    memcpy(longer, p.ids, p.n * sizeof *longer);
    memcpy(longer + p.n, a.token, 60 * sizeof *longer);
    further.prompt = longer;
    further.n_prompt = p.n + 60;
    further.cache = DEQ_CACHE_APPROXIMATE;
    (void)ask(e, &further, &id);
    CHECK(id.cached_tokens > 0 && id.cached_tokens <= p.n && !id.approximate);
    const struct answer again = ask(e, &q, &id);
    CHECK(id.cached_tokens > 0 && same_answer(&again, &asked));
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}
