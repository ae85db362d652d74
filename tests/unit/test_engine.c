/* core/engine/engine.c: on the toy cell against its closed form, on the tiny trained model against the sequence form of
 * the same equations, and the promise that a request's bits do not depend on its company. */
#include "core/engine/engine.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/cell/toy.h"
#include "core/cell/config.h"
#include "core/cell/transformer.h"
#include "core/cell/transformer_seq.h"
#include "core/math/kern.h"
#include "tests/unit/answers.h"
#include "tests/unit/test.h"

/* A cell of that contraction and coupling, in an engine. */
static struct deq_engine *plain_engine(float rho, float coupling, struct deq_cell **ret_cell)
{
    return toy_engine(&(struct deq_toy){.dim = 24, .rho = rho, .coupling = coupling}, 2, 4, ret_cell);
}

/* logits at position t are z*_t = u_t + c z*_{t-1}: the last token weighs 1, the one before c, ... */
TEST(engine_toy_equilibrium)
{
    uint32_t prompt[300];
    for (size_t i = 0; i < 300; i++)
        prompt[i] = (uint32_t)deq_rng_below(1, 0, i, 24);
    for (int method = 0; method < DEQ_SOLVER_COUNT; method++)
        for (uint32_t w = 1; w <= 64; w *= 4) {
            struct answer a = {0};
            struct deq_engine *e = plain_engine(0.6f, 0.5f, NULL);
            REQUIRE(e);
            struct deq_request q = toy_request(prompt, 300, 0, &a);
            q.want_prompt = true;
            q.solve.solver = (enum deq_solver_method)method;
            q.solve.window = w;
            a.all_logits = DEQ_NEW_ARRAY(float, 300 * 24);
            CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
            run_all(e);
            CHECK(a.ended && a.finish == DEQ_FINISH_LENGTH && a.prompt_positions == 300 && a.not_converged == 0);
            double z[24] = {0}, worst = 0;
            for (size_t t = 0; t < 300; t++)
                for (size_t d = 0; d < 24; d++) {
                    z[d] = 0.5 * z[d] + (prompt[t] == d);
                    worst = fmax(worst, fabs(z[d] - (double)a.all_logits[t * 24 + d]));
                }
            /* residual below 1e-5 of |z| <= 2, contraction 0.6: error <= 1e-5 * 2 / 0.4, and the
             * states before add c/(1-c) of it */
            CHECK_MSG(worst < 2e-4, "%s, window %u: error %g", deq_solver_name((enum deq_solver_method)method), w,
                      worst);
            deq_free(a.all_logits);
            deq_engine_free(e);
        }
}

/* A cell learns of every position that becomes final, once: prompts with and without cached blocks, choices, guesses
 * that fail, ends in the midst. */
TEST(engine_tells_the_cell_what_is_final)
{
    uint32_t prompt[300];
    struct answer a[6] = {{0}};
    struct deq_cell *cell;
    struct deq_engine *e = plain_engine(0.6f, 0.5f, &cell);
    REQUIRE(e);
    for (size_t i = 0; i < 300; i++)
        prompt[i] = (uint32_t)deq_rng_below(3, 0, i, 24);
    for (size_t i = 0; i < 6; i++) {
        struct deq_request q = toy_request(prompt, 40 + 50 * i, i == 4 ? 0 : 20, &a[i]);
        q.sampling.temperature = i % 2;
        q.sampling.seed = i;
        a[i].stop_after = i == 3 ? 5 : 0;
        CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
        run_all(e);
        const uint64_t positions = deq_engine_stats(e).positions, told = deq_toy_commits(cell);
        /* an end in the midst may leave rows behind it that would have been final */
        CHECK_MSG(i >= 3 ? told >= positions && told < positions + 4 : told == positions,
                  "request %zu: %llu told, %llu committed", i, (unsigned long long)told, (unsigned long long)positions);
    }
    deq_engine_free(e);
}

TEST(engine_budget_and_best)
{
    const uint32_t prompt[3] = {1, 2, 3};
    struct answer a = {0}, b = {0};
    struct deq_engine *e = plain_engine(0.99f, 0, NULL);
    REQUIRE(e);
    struct deq_request q = toy_request(prompt, 3, 4, &a);
    q.solve.solver = DEQ_PICARD;
    q.solve.max_iter = 5;
    q.solve.window = 1;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(a.n == 4 && a.not_converged == 4);
    for (size_t i = 0; i < a.n; i++)
        CHECK_MSG(a.evaluations[i] == 5, "%u evaluations", a.evaluations[i]);
    q.solve.max_iter = 1;
    q.ctx = &b;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(b.n == 4 && b.evaluations[0] == 1);
    const struct deq_engine_stats s = deq_engine_stats(e);
    CHECK(s.nonconverged == 12 && s.pages_used == 0 && s.rows_open == 0 && s.sequences == 0);
    deq_engine_free(e);
}

/* Of a text that converges nowhere no position takes more than two budgets, however wide the windows. */
TEST(engine_rows_rest_behind_a_front)
{
    uint32_t prompt[12];
    struct answer a = {0};
    struct deq_engine *e = plain_engine(0.99f, 0.5f, NULL);
    REQUIRE(e);
    for (size_t i = 0; i < 12; i++)
        prompt[i] = (uint32_t)deq_rng_below(3, 0, i, 24);
    struct deq_request q = toy_request(prompt, 12, 6, &a);
    q.solve.solver = DEQ_PICARD;
    q.solve.max_iter = 5;
    q.solve.window = q.solve.prefill_window = 8;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    const struct deq_engine_stats s = deq_engine_stats(e);
    CHECK(a.n == 6 && s.nonconverged >= 17 && s.restarts == 0);
    CHECK_MSG(s.rows > 5 * s.positions && s.rows < 10 * s.positions, "%llu evaluations of %llu positions",
              (unsigned long long)s.rows, (unsigned long long)s.positions);
    for (size_t i = 0; i < a.n; i++)
        CHECK_MSG(a.evaluations[i] >= 5 && a.evaluations[i] < 10, "%u evaluations", a.evaluations[i]);
    deq_engine_free(e);
}

/* A budget of n is n iterates: where each is better than the last, so is what one evaluation more commits. Where the
 * second is worse, of a cell whose Picard steps diverge, a further evaluation goes back to the first. */
TEST(engine_budget_wastes_no_evaluation)
{
    const uint32_t prompt[3] = {1, 2, 3};
    for (int diverges = 0; diverges <= 1; diverges++) {
        float r[5] = {0};
        struct deq_engine *e = plain_engine(diverges ? -1.2f : 0.9f, 0, NULL);
        REQUIRE(e);
        for (uint32_t n = 1; n <= 4; n++) {
            struct answer a = {0};
            struct deq_request q = toy_request(prompt, 3, 1, &a);
            q.solve = (struct deq_solve_params){.solver = DEQ_PICARD, .tol = 1e-5f, .max_iter = n, .window = 1};
            a = ask(e, &q, NULL);
            CHECK(a.n == 1 && a.evaluations[0] == n && a.not_converged == 1);
            r[n] = a.residual[0];
        }
        CHECK_MSG(diverges ? r[2] > r[1] && r[3] == r[1] && r[4] == r[1] : r[1] > r[2] && r[2] > r[3] && r[3] > r[4],
                  "residuals %g %g %g %g", (double)r[1], (double)r[2], (double)r[3], (double)r[4]);
        deq_engine_free(e);
    }
}

TEST(engine_nan_stays_home)
{
    uint32_t prompt[40], bad[40];
    for (size_t i = 0; i < 40; i++) {
        prompt[i] = (uint32_t)(i % 7);
        bad[i] = i == 25 ? 20 : (uint32_t)(i % 5);
    }
    struct answer alone = {0}, beside = {0}, broken = {0};
    struct deq_cell *cell;
    struct deq_engine *e = plain_engine(0.5f, 0.3f, &cell);
    REQUIRE(e);
    struct deq_request q = toy_request(prompt, 40, 20, &alone);
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    deq_toy_poison(cell, 20);
    struct deq_request r = toy_request(bad, 40, 20, &broken);
    q.ctx = &beside;
    beside.vocab = 24;
    CHECK(deq_submit(e, &r, NULL, NULL) == DEQ_OK && deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(broken.ended && broken.finish == DEQ_FINISH_NUMERIC && broken.n == 0);
    CHECK(same_answer(&alone, &beside));
    CHECK(deq_engine_stats(e).numeric_errors == 1 && deq_engine_stats(e).pages_used == 0);
    /* pages that the broken sequence left NaN in serve the next one */
    struct answer again = {.vocab = 24};
    q.ctx = &again;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(same_answer(&alone, &again));
    deq_engine_free(e);
}

TEST(engine_refusals)
{
    const uint32_t prompt[3] = {1, 2, 3}, outside[1] = {24};
    struct answer a = {0};
    struct deq_engine *e = plain_engine(0.5f, 0, NULL);
    REQUIRE(e);
    struct deq_err err;
    struct deq_admission admission;
    struct deq_request q = toy_request(prompt, 3, 398, &a);
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EINVAL && strstr(err.text, "398") && strstr(err.text, "400"));
    q = toy_request(prompt, 0, 1, &a);
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EINVAL);
    q = toy_request(outside, 1, 1, &a);
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EINVAL && strstr(err.text, "24"));
    q = toy_request(prompt, 3, 1, &a);
    q.solve.window = 65;
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EINVAL && strstr(err.text, "window"));
    q = toy_request(prompt, 3, 1, &a);
    q.solve.prefill_window = 65;
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EINVAL && strstr(err.text, "prefill_window: 65"));
    q = toy_request(prompt, 3, 1, &a);
    q.solve.warm_start = DEQ_WARM_PREDICTOR;
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EINVAL && strstr(err.text, "predictor"));
    q = toy_request(prompt, 3, 1, &a);
    q.solve.tol = NAN;
    CHECK(deq_submit(e, &q, NULL, &err) == DEQ_EINVAL);
    /* rows: 64 in all; a window of 64 leaves none */
    q = toy_request(prompt, 3, 10, &a);
    q.solve.window = 64;
    CHECK(deq_submit(e, &q, &admission, &err) == DEQ_OK);
    struct answer b = {0};
    struct deq_request q2 = toy_request(prompt, 3, 1, &b);
    CHECK(deq_submit(e, &q2, NULL, &err) == DEQ_EFULL);
    deq_step(e);
    CHECK(deq_cancel(e, admission.id) == DEQ_OK && a.ended && a.finish == DEQ_FINISH_CANCELED);
    CHECK(deq_cancel(e, admission.id) == DEQ_ENOTFOUND);
    CHECK(deq_submit(e, &q2, NULL, &err) == DEQ_OK);
    run_all(e);
    CHECK(b.ended && b.n == 1 && deq_engine_stats(e).pages_used == 0);
    deq_engine_free(e);
}

TEST(engine_step_allocates_nothing)
{
    uint32_t prompt[200];
    for (size_t i = 0; i < 200; i++)
        prompt[i] = (uint32_t)(i % 24);
    struct answer a = {0}, b = {0};
    struct deq_engine *e = plain_engine(0.7f, 0.4f, NULL);
    REQUIRE(e);
    struct deq_request q = toy_request(prompt, 200, 100, &a), r = toy_request(prompt, 3, 50, &b);
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK && deq_submit(e, &r, NULL, NULL) == DEQ_OK);
    const uint64_t calls = deq_mem_calls();
    run_all(e);
    CHECK(deq_mem_calls() == calls);
    deq_engine_free(e);
}

/* Rows over a paged cache and whole sequences with OpenBLAS compute the same equilibrium: logits agree to
 * rounding at a tight tolerance. */
TEST(engine_equals_sequence_form)
{
    struct deq_model *m = tiny_model();
    REQUIRE(m);
    struct deq_tokens p = encode_text(m, "First Citizen: We are accounted poor citizens, the patricians good. What "
                                         "authority surfeits on would relieve us");
    const uint32_t V = deq_model_info(m).vocab_size;
    const size_t T = 40; /* within the attention window of 48 */
    CHECK(p.n >= T);
    struct deq_arch *arch;
    struct deq_weights *w;
    struct deq_seq *s;
    REQUIRE(!deq_config_load(TINY "/config.json", &arch, NULL) &&
            !deq_weights_load(TINY "/model.safetensors", arch, false, &w, NULL) &&
            !deq_seq_new(arch, &(struct deq_seq_shape){.b = 1, .t = T, .n_tapes = 1}, &s, NULL));
    float *z = DEQ_NEW_ARRAY(float, T * s->state_dim);
    double *nll = DEQ_NEW_ARRAY(double, T);
    s->ops->begin(s, w, p.ids, NULL);
    for (int i = 0; i < 300; i++)
        s->ops->forward(s, 0, z, z);
    for (uint32_t w_rows = 1; w_rows <= 16; w_rows *= 4) {
        struct answer a = {0};
        struct deq_engine *e = tiny_engine(m, 2, 1);
        REQUIRE(e);
        struct deq_request q = tiny_request(m, &p, 0, &a);
        q.n_prompt = T;
        q.want_prompt = true;
        q.solve.tol = 2e-6f;
        q.solve.max_iter = 300;
        q.solve.window = w_rows;
        a.all_logits = DEQ_NEW_ARRAY(float, T * V);
        CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
        run_all(e);
        double worst = 0;
        for (uint32_t target = 0; target < V; target += 17) {
            uint32_t targets[64];
            for (size_t t = 0; t < T; t++)
                targets[t] = target;
            deq_seq_loss(s, z, targets, 1, NULL, NULL, nll);
            for (size_t t = 0; t < T; t++) {
                const struct deq_log_normaliser n = deq_log_normaliser(a.all_logits + t * V, V);
                worst = fmax(worst, fabs(nll[t] + (double)deq_logprob(&n, a.all_logits[t * V + target])));
            }
        }
        /* residuals of 2e-6 at |z| near 6, over a contraction of about 0.9, times weights of size 1: about 1e-4 */
        CHECK_MSG(worst < 5e-4, "window %u: log-probabilities differ by %g", w_rows, worst);
        deq_free(a.all_logits);
        deq_engine_free(e);
    }
    deq_free(z);
    deq_free(nll);
    deq_seq_free(s);
    deq_weights_free(w);
    deq_free(arch);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* States that PROMPT events had: [n, D], and evaluations. */
struct states {
    size_t D, n;
    float *z;
    uint32_t evaluations[MOST];
    bool logits;
};

static enum deq_verdict record_state(void *ctx, const struct deq_event *e)
{
    struct states *s = ctx;
    if (e->kind == DEQ_EVENT_END)
        return DEQ_CONTINUE;
    memcpy(s->z + s->n * s->D, e->state, s->D * sizeof(float));
    s->logits = s->logits || e->logits;
    s->evaluations[s->n++] = e->evaluations;
    return DEQ_CONTINUE;
}

/* States of all positions of a prompt, or of the last: no product with the head is made for them, they are the same in
 * company, and behind cached blocks the last is what it is without. */
TEST_EACH_KIND(engine_shows_states)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    const size_t D = deq_model_info(m).state_dim;
    struct states all = {.D = D, .z = DEQ_NEW_ARRAY(float, p.n * D)}, last = all, second = all;
    last.z = DEQ_NEW_ARRAY(float, D);
    second.z = DEQ_NEW_ARRAY(float, p.n * D);
    struct answer beside = {0};
    struct deq_engine *e = tiny_engine(m, 2, 2);
    REQUIRE(e && all.z && last.z && second.z);
    struct deq_request q = tiny_request(m, &p, 0, &beside), other = tiny_request(m, &p, 30, &beside);
    struct deq_admission a;
    q.event = record_state;
    q.ctx = &all;
    q.states = DEQ_STATES_ALL;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(all.n == p.n && !all.logits);
    CHECK_EQ(deq_engine_stats(e).head_rows, 0u);
    q.ctx = &second;
    CHECK(deq_submit(e, &other, NULL, NULL) == DEQ_OK && deq_submit(e, &q, &a, NULL) == DEQ_OK && !a.cached_tokens);
    run_all(e);
    CHECK(second.n == p.n && !memcmp(all.z, second.z, p.n * D * sizeof(float)) &&
          !memcmp(all.evaluations, second.evaluations, p.n * sizeof *all.evaluations));
    q.ctx = &last;
    q.states = DEQ_STATES_LAST;
    CHECK(deq_submit(e, &q, &a, NULL) == DEQ_OK && a.cached_tokens > 0);
    run_all(e);
    CHECK(last.n == 1 && !memcmp(last.z, all.z + (p.n - 1) * D, D * sizeof(float)) &&
          last.evaluations[0] == all.evaluations[p.n - 1]);
    q.max_tokens = 1;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_EINVAL);
    deq_engine_free(e);
    deq_free(all.z);
    deq_free(second.z);
    deq_free(last.z);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* Windows and starts change the number of evaluations, not the text: at a tight tolerance the text is
 * that of window 1 from zero. The last start is the predictor's, or a proposal. */
TEST_EACH_KIND(engine_wavefront_text)
{
    struct deq_tokens p = encode_text(m, "KING RICHARD: What is the");
    struct answer base = {0};
    struct deq_engine *e = tiny_engine(m, 2, 1);
    REQUIRE(e);
    const enum deq_warm starts[] = {DEQ_WARM_ZERO, DEQ_WARM_PREVIOUS,
                                    deq_model_info(m).has_predictor ? DEQ_WARM_PREDICTOR : DEQ_WARM_PROPOSAL};
    double steps_base = 0;
    for (uint32_t w = 1; w <= 8; w *= 2)
        for (size_t i = 0; i < DEQ_COUNT(starts); i++) {
            const enum deq_warm warm = starts[i];
            struct answer a = {0};
            struct deq_request q = tiny_request(m, &p, 120, &a);
            q.solve.window = w;
            q.solve.tol = 1e-5f;
            q.solve.max_iter = 200;
            q.solve.warm_start = warm;
            const uint64_t before = deq_engine_stats(e).steps;
            CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
            run_all(e);
            const double steps = (double)(deq_engine_stats(e).steps - before);
            if (w == 1 && warm == DEQ_WARM_ZERO) {
                base = a;
                steps_base = steps;
            }
            CHECK_MSG(a.n == 120 && !memcmp(a.token, base.token, sizeof(uint32_t) * 120), "window %u, start %s", w,
                      deq_warm_name(warm));
            /* the point of the wavefront: far fewer evaluations a token (measured: about a third) */
            if (w == 8)
                CHECK_MSG(steps < 0.6 * steps_base, "%g steps, window 1 takes %g", steps, steps_base);
        }
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* 200 random batches: other prompts, lengths, solvers, arrivals, cancels, slots; 1, 2, 3 and 8 threads; every answer
 * bitwise what it is alone. */
TEST_EACH_KIND(engine_batch_invariance)
{
    enum { PROBES = 6, BATCHES = 200, SLOTS = 9 };
    static const char *const texts[PROBES] =
        {"First Citizen:",
         "My lord, I",
         "To be or not to be, that is the question, whether it is nobler in the mind to suffer",
         "O",
         "The king is dead. Long live the king, and all his men who",
         "ROMEO: But soft, what light"};
    struct deq_tokens p[PROBES];
    struct answer alone[PROBES];
    struct deq_request q[PROBES];
    memset(alone, 0, sizeof alone);
    for (size_t i = 0; i < PROBES; i++) {
        p[i] = encode_text(m, texts[i]);
        q[i] = tiny_request(m, &p[i], 8 + 3 * (uint32_t)i, &alone[i]);
        q[i].sampling = (struct deq_sampling){.temperature = i % 2 ? 0.9f : 0, .top_p = i == 3 ? 0.8f : 1,
                                              .top_k = i == 5 ? 20 : 0, .seed = 77 + i};
        q[i].solve.window = (uint32_t[]){1, 4, 8, 16, 3, 8}[i];
        q[i].solve.prefill_window = (uint32_t[]){0, 8, 1, 0, 16, 2}[i];
        q[i].solve.solver = (enum deq_solver_method)(i % 3);
        struct deq_engine *e = tiny_engine(m, 1, 1);
        REQUIRE(e);
        CHECK(deq_submit(e, &q[i], NULL, NULL) == DEQ_OK);
        run_all(e);
        deq_engine_free(e);
        CHECK_EQ(alone[i].n, 8 + 3 * i);
    }
    struct deq_engine *engine[4] = {tiny_engine(m, 1, SLOTS), tiny_engine(m, 2, SLOTS), tiny_engine(m, 3, SLOTS),
                                    tiny_engine(m, 8, SLOTS)};
    int different = 0, finished = 0;
    for (int batch = 0; batch < BATCHES; batch++) {
        /* more threads more seldom: beside other load their barriers are most of the time */
        struct deq_engine *e = engine[batch % 8 < 7 ? 0 : batch % 64 < 63 ? 1 : 2 + batch / 64 % 2];
        struct answer got[SLOTS];
        struct deq_admission id[SLOTS] = {{0}};
        size_t which[SLOTS], next = 0;
        memset(got, 0, sizeof got);
        uint64_t r = 0;
#define RANDOM(n) deq_rng_below((uint64_t)batch, 5, r++, (n))
        while (next < SLOTS || deq_active(e)) {
            while (next < SLOTS && (deq_active(e) == 0 || RANDOM(4) == 0)) { /* arrivals at random steps */
                which[next] = RANDOM(PROBES);
                struct deq_request one = q[which[next]];
                got[next].vocab = alone[0].vocab;
                one.ctx = &got[next];
                CHECK(deq_submit(e, &one, &id[next], NULL) == DEQ_OK);
                next++;
            }
            if (RANDOM(60) == 0) { /* somebody leaves */
                const size_t victim = RANDOM(SLOTS);
                if (victim < next)
                    (void)deq_cancel(e, id[victim].id);
            }
            deq_step(e);
        }
        for (size_t i = 0; i < SLOTS; i++)
            if (got[i].finish != DEQ_FINISH_CANCELED) {
                finished++;
                different += !same_answer(&got[i], &alone[which[i]]);
            }
        CHECK(deq_engine_stats(e).pages_used == 0 && deq_engine_stats(e).rows_open == 0);
    }
    CHECK_MSG(different == 0, "%d of %d answers differ from the ones given alone", different, finished);
    CHECK(finished > BATCHES * SLOTS / 2);
    for (size_t i = 0; i < PROBES; i++)
        deq_tokens_free(&p[i]);
    for (size_t i = 0; i < DEQ_COUNT(engine); i++)
        deq_engine_free(engine[i]);
    deq_model_free(m);
}

TEST_IN_INTEGERS(engine_batch_invariance)
