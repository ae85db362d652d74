/* The row engine: on the toy cell against its closed form, on the tiny trained model against the sequence form of the same equations, and the promise
 * that a request's bits do not depend on its company. */
#include "core/engine/engine.h"

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/cell/toy.h"
#include "core/cell/transformer.h"
#include "core/cell/transformer_seq.h"
#include "core/engine/sampler.h"
#include "core/math/kern.h"
#include "tests/unit/test.h"

#define TINY "tests/golden/tiny"

enum { MOST = 512 };

/* What a request gave: tokens, log-probability bits, iterations. */
struct answer {
    uint32_t vocab;
    uint32_t token[MOST], evaluations[MOST];
    float logprob[MOST], residual[MOST];
    size_t n, prompt_positions, not_converged;
    enum deq_finish finish;
    bool ended;
    size_t stop_after; /* 0: never */
    float *all_logits; /* [positions, vocab] of PROMPT events, or NULL */
};

static enum deq_verdict record(void *ctx, const struct deq_event *e)
{
    struct answer *a = ctx;
    if (e->kind == DEQ_EVENT_END) {
        a->ended = true;
        a->finish = e->finish;
        return DEQ_CONTINUE;
    }
    a->not_converged += !e->converged;
    if (e->kind == DEQ_EVENT_PROMPT) {
        if (a->all_logits && e->logits)
            memcpy(a->all_logits + e->position * a->vocab, e->logits, a->vocab * sizeof(float));
        a->prompt_positions++;
        return DEQ_CONTINUE;
    }
    a->token[a->n] = e->token;
    a->evaluations[a->n] = e->evaluations;
    a->residual[a->n] = e->residual;
    a->logprob[a->n] = e->logits ? deq_logprob(e->logits, a->vocab, e->token) : 0;
    a->n++;
    return a->stop_after && a->n == a->stop_after ? DEQ_STOP : DEQ_CONTINUE;
}

static bool same(const struct answer *a, const struct answer *b)
{
    return a->n == b->n && a->finish == b->finish && !memcmp(a->token, b->token, a->n * sizeof *a->token) &&
           !memcmp(a->evaluations, b->evaluations, a->n * sizeof *a->evaluations) &&
           !memcmp(a->logprob, b->logprob, a->n * sizeof *a->logprob) && !memcmp(a->residual, b->residual, a->n * sizeof *a->residual);
}

static void run_all(struct deq_engine *e)
{
    for (int guard = 0; deq_active(e) && guard < 200000; guard++)
        deq_step(e);
    CHECK(deq_active(e) == 0);
}

/* --- Toy cell --- */

static struct deq_engine *toy_engine(float rho, float coupling, unsigned max_iter, struct deq_cell **ret_cell)
{
    const struct deq_arch a = {.vocab.size = 24, .vocab.eos_id = -1, .serving.solver = {.method = DEQ_ANDERSON, .memory = 3, .max_iter = max_iter, .tol = 1e-5f, .beta = 1, .reg = 1e-4f},
                               .serving.row_window = 4};
    struct deq_pool *pool;
    struct deq_cell *cell = NULL;
    struct deq_engine *e = NULL;
    const struct deq_cell shape = deq_toy_shape(24, 0, 0);
    const struct deq_engine_opts asked = {.max_sequences = 4, .max_positions = 400};
    struct deq_engine_opts opts;
    CHECK(deq_pool_new(2, &pool, NULL) == DEQ_OK && deq_engine_opts_fill(&shape, &asked, &opts, NULL) == DEQ_OK &&
          deq_toy_open(24, rho, coupling, 64, deq_engine_pages(&shape, &opts), pool, &cell, NULL) == DEQ_OK);
    CHECK(deq_engine_open(cell, &a.vocab, &a.serving, pool, &opts, &e, NULL) == DEQ_OK);
    if (ret_cell)
        *ret_cell = cell;
    return e;
}

static struct deq_request toy_request(const uint32_t *prompt, size_t n, uint32_t max_tokens, struct answer *a)
{
    a->vocab = 24;
    return (struct deq_request){.prompt = prompt, .n_prompt = n, .max_tokens = max_tokens, .want_logits = true, .sampling = {.top_p = 1},
                                .solve = {.solver = DEQ_ANDERSON, .tol = 1e-5f, .max_iter = 200, .window = 4}, .event = record, .ctx = a};
}

/* logits at position t are z*_t = u_t + c z*_{t-1}: the last token weighs 1, the one before c, ... */
TEST(engine_toy_equilibrium)
{
    uint32_t prompt[300];
    for (size_t i = 0; i < 300; i++)
        prompt[i] = (uint32_t)deq_rng_below(1, 0, i, 24);
    for (int method = DEQ_PICARD; method <= DEQ_BROYDEN; method++)
        for (uint32_t w = 1; w <= 64; w *= 4) {
            struct answer a = {0};
            struct deq_engine *e = toy_engine(0.6f, 0.5f, 200, NULL);
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
            /* residual below 1e-5 of |z| <= 2, contraction 0.6: error <= 1e-5 * 2 / 0.4, and the states before add c/(1-c) of it */
            CHECK_MSG(worst < 2e-4, "%s, window %u: error %g", deq_solver_name((enum deq_solver_method)method), w, worst);
            deq_free(a.all_logits);
            deq_engine_free(e);
        }
}

/* A cell learns of every position that becomes final, once: prompts with and without cached blocks, choices, guesses that fail, ends in the midst. */
TEST(engine_tells_the_cell_what_is_final)
{
    uint32_t prompt[300];
    struct answer a[6] = {{0}};
    struct deq_cell *cell;
    struct deq_engine *e = toy_engine(0.6f, 0.5f, 200, &cell);
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
        CHECK_MSG(i >= 3 ? told >= positions && told < positions + 4 : told == positions, "request %zu: %llu told, %llu committed", i,
                  (unsigned long long)told, (unsigned long long)positions);
    }
    deq_engine_free(e);
}

TEST(engine_budget_and_best)
{
    const uint32_t prompt[3] = {1, 2, 3};
    struct answer a = {0}, b = {0};
    struct deq_engine *e = toy_engine(0.99f, 0, 5, NULL);
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

TEST(engine_nan_stays_home)
{
    uint32_t prompt[40], bad[40];
    for (size_t i = 0; i < 40; i++) {
        prompt[i] = (uint32_t)(i % 7);
        bad[i] = i == 25 ? 20 : (uint32_t)(i % 5);
    }
    struct answer alone = {0}, beside = {0}, broken = {0};
    struct deq_cell *cell;
    struct deq_engine *e = toy_engine(0.5f, 0.3f, 100, &cell);
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
    CHECK(same(&alone, &beside));
    CHECK(deq_engine_stats(e).numeric_errors == 1 && deq_engine_stats(e).pages_used == 0);
    /* pages that the broken sequence left NaN in serve the next one */
    struct answer again = {.vocab = 24};
    q.ctx = &again;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(same(&alone, &again));
    deq_engine_free(e);
}

TEST(engine_refusals)
{
    const uint32_t prompt[3] = {1, 2, 3}, outside[1] = {24};
    struct answer a = {0};
    struct deq_engine *e = toy_engine(0.5f, 0, 50, NULL);
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
    struct deq_engine *e = toy_engine(0.7f, 0.4f, 100, NULL);
    struct deq_request q = toy_request(prompt, 200, 100, &a), r = toy_request(prompt, 3, 50, &b);
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK && deq_submit(e, &r, NULL, NULL) == DEQ_OK);
    const uint64_t calls = deq_mem_calls();
    run_all(e);
    CHECK(deq_mem_calls() == calls);
    deq_engine_free(e);
}

/* --- The tiny trained model --- */

static struct deq_model *tiny(void)
{
    struct deq_err err;
    struct deq_model *m = NULL;
    CHECK_MSG(deq_model_load(TINY, &m, &err) == DEQ_OK, "%s", err.text);
    return m;
}

static struct deq_engine *tiny_engine(const struct deq_model *m, unsigned threads, unsigned sequences)
{
    struct deq_err err;
    struct deq_engine *e = NULL;
    CHECK_MSG(deq_engine_new(m, &(struct deq_engine_opts){.threads = threads, .max_sequences = sequences, .max_rows = DEQ_MAX(64u, 16 * sequences), .max_positions = 500, .prefill_block = 32}, &e,
                             &err) == DEQ_OK,
              "%s", err.text);
    return e;
}

static struct deq_request tiny_request(const struct deq_model *m, const struct deq_tokens *p, uint32_t max_tokens, struct answer *a)
{
    struct deq_request q = deq_request_defaults(m);
    a->vocab = deq_model_info(m).vocab_size;
    q.prompt = p->ids;
    q.n_prompt = p->n;
    q.max_tokens = max_tokens;
    q.want_logits = true;
    q.ignore_eos = true;
    q.event = record;
    q.ctx = a;
    return q;
}

static struct deq_tokens encode(const struct deq_model *m, const char *text)
{
    struct deq_tokens t = {0};
    CHECK(deq_encode(m, text, strlen(text), false, &t, NULL) == DEQ_OK);
    return t;
}

/* Rows over a paged cache and whole sequences with OpenBLAS compute the same equilibrium: logits agree to rounding at a tight tolerance. */
TEST(engine_equals_sequence_form)
{
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, "First Citizen: We are accounted poor citizens, the patricians good. What authority surfeits on would relieve us");
    const uint32_t V = deq_model_info(m).vocab_size;
    const size_t T = 40; /* within the attention window of 48 */
    CHECK(p.n >= T);
    struct deq_arch arch;
    struct deq_weights *w;
    struct deq_seq *s;
    CHECK(deq_config_load(TINY "/config.json", &arch, NULL) == DEQ_OK && deq_weights_load(TINY "/model.safetensors", &arch, &w, NULL, NULL) == DEQ_OK);
    CHECK(deq_seq_new(&arch, 1, T, 0, 1, false, &s, NULL) == DEQ_OK);
    float *z = DEQ_NEW_ARRAY(float, T * arch.vocab.d_model), *nll = DEQ_NEW_ARRAY(float, T);
    deq_seq_begin(s, w, p.ids, 0, 0, 0);
    for (int i = 0; i < 300; i++)
        deq_seq_forward(s, 0, z, z);
    for (uint32_t w_rows = 1; w_rows <= 16; w_rows *= 4) {
        struct answer a = {0};
        struct deq_engine *e = tiny_engine(m, 2, 1);
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
            deq_seq_loss(s, z, targets, T, NULL, NULL, nll);
            for (size_t t = 0; t < T; t++)
                worst = fmax(worst, fabs((double)nll[t] + (double)deq_logprob(a.all_logits + t * V, V, target)));
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
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* Windows and starts change the number of evaluations, not the text: at a tight tolerance the text is that of window 1 from zero. */
TEST(engine_wavefront_text)
{
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, "KING RICHARD: What is the");
    struct answer base = {0};
    struct deq_engine *e = tiny_engine(m, 2, 1);
    double steps_base = 0;
    for (uint32_t w = 1; w <= 8; w *= 2)
        for (int warm = DEQ_WARM_ZERO; warm <= DEQ_WARM_PREDICTOR; warm++) {
            struct answer a = {0};
            struct deq_request q = tiny_request(m, &p, 120, &a);
            q.solve.window = w;
            q.solve.tol = 1e-5f;
            q.solve.max_iter = 200;
            q.solve.warm_start = (enum deq_warm)warm;
            const uint64_t before = deq_engine_stats(e).steps;
            CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
            run_all(e);
            const double steps = (double)(deq_engine_stats(e).steps - before);
            if (w == 1 && warm == DEQ_WARM_ZERO) {
                base = a;
                steps_base = steps;
            }
            CHECK_MSG(a.n == 120 && !memcmp(a.token, base.token, sizeof(uint32_t) * 120), "window %u, start %s", w,
                      deq_warm_name((enum deq_warm)warm));
            /* the point of the wavefront: far fewer evaluations a token (measured: about a third) */
            if (w == 8)
                CHECK_MSG(steps < 0.6 * steps_base, "%g steps, window 1 takes %g", steps, steps_base);
        }
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* 200 random batches: other prompts, lengths, solvers, arrivals, cancels, slots; 1 and 2 threads; every answer bitwise what it is alone. */
TEST(engine_batch_invariance)
{
    enum { PROBES = 6, BATCHES = 200, SLOTS = 9 };
    static const char *const texts[PROBES] = {"First Citizen:", "My lord, I", "To be or not to be, that is the question, whether it is nobler in the mind to suffer",
                                              "O", "The king is dead. Long live the king, and all his men who", "ROMEO: But soft, what light"};
    struct deq_model *m = tiny();
    struct deq_tokens p[PROBES];
    struct answer alone[PROBES];
    struct deq_request q[PROBES];
    memset(alone, 0, sizeof alone);
    for (size_t i = 0; i < PROBES; i++) {
        p[i] = encode(m, texts[i]);
        q[i] = tiny_request(m, &p[i], 12 + 7 * (uint32_t)i, &alone[i]);
        q[i].sampling = (struct deq_sampling){.temperature = i % 2 ? 0.9f : 0, .top_p = i == 3 ? 0.8f : 1, .top_k = i == 5 ? 20 : 0, .seed = 77 + i};
        q[i].solve.window = (uint32_t[]){1, 4, 8, 16, 3, 8}[i];
        q[i].solve.solver = (enum deq_solver_method)(i % 3);
        struct deq_engine *e = tiny_engine(m, 1, 1);
        CHECK(deq_submit(e, &q[i], NULL, NULL) == DEQ_OK);
        run_all(e);
        deq_engine_free(e);
        CHECK(alone[i].n == 12 + 7 * i);
    }
    struct deq_engine *engine[2] = {tiny_engine(m, 1, SLOTS), tiny_engine(m, 2, SLOTS)};
    int different = 0, finished = 0;
    for (int batch = 0; batch < BATCHES; batch++) {
        struct deq_engine *e = engine[batch % 8 == 7]; /* two threads more seldom: beside other load their barriers are most of the time */
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
                different += !same(&got[i], &alone[which[i]]);
            }
        CHECK(deq_engine_stats(e).pages_used == 0 && deq_engine_stats(e).rows_open == 0);
    }
    CHECK_MSG(different == 0, "%d of %d answers differ from the ones given alone", different, finished);
    CHECK(finished > BATCHES * SLOTS / 2);
    for (size_t i = 0; i < PROBES; i++)
        deq_tokens_free(&p[i]);
    deq_engine_free(engine[0]);
    deq_engine_free(engine[1]);
    deq_model_free(m);
}

/* All CPU levels give the same bits, so an answer does not depend on the machine. */
static void hash_answer(struct deq_hash *h, const struct answer *a)
{
    *h = deq_siphash(h, a->token, a->n * sizeof *a->token);
    *h = deq_siphash(h, a->evaluations, a->n * sizeof *a->evaluations);
    *h = deq_siphash(h, a->logprob, a->n * sizeof *a->logprob);
    *h = deq_siphash(h, a->residual, a->n * sizeof *a->residual);
}

/* The tiny model: greedy, at a temperature, ranked. */
static void hash_tiny(struct deq_hash *h)
{
    static const struct deq_sampling ways[] = {{.top_p = 1}, {.temperature = 1, .top_p = 1, .seed = 5}, {.temperature = 0.8f, .top_p = 0.9f, .top_k = 30, .seed = 6}};
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, "GLOUCESTER: Now is the winter");
    for (size_t i = 0; i < DEQ_COUNT(ways); i++) {
        struct answer a = {0};
        struct deq_request q = tiny_request(m, &p, 40, &a);
        q.sampling = ways[i];
        struct deq_engine *e = tiny_engine(m, 1, 1);
        CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
        run_all(e);
        CHECK(a.n == 40);
        hash_answer(h, &a);
        deq_engine_free(e);
    }
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* A vocabulary in clusters, random weights: adaptive softmax, with and without the whole distribution. */
static void hash_clusters(struct deq_hash *h)
{
    struct deq_arch a = {.vocab.size = 90, .vocab.n_cutoffs = 2, .vocab.cutoffs = {10, 40}, .vocab.div_val = 2, .vocab.d_embed = 24, .vocab.head_bias = true, .vocab.d_model = 24, .n_head = 2,
                         .d_head = 12, .d_inner = 40, .n_block = 1, .attn_window = 32, .norm = DEQ_NORM_POST, .norm_affine = true, .norm_eps = 1e-5f,
                         .vocab.eos_id = -1, .serving.solver = deq_solver_defaults(), .serving.row_window = 4};
    struct deq_weights *w = NULL;
    struct deq_transformer *t = NULL;
    struct deq_pool *pool = NULL;
    struct deq_cell *cell = NULL;
    struct deq_engine *e = NULL;
    struct deq_engine_opts o;
    const struct deq_cell shape = deq_transformer_shape(&a, 0, 0, 1);
    uint32_t prompt[20];
    CHECK(deq_weights_new(&a, &w, NULL) == DEQ_OK);
    for (size_t i = 0; i < w->n; i++) /* uniform: no library function of the C library in it */
        w->data[i] = (float)(deq_rng_uniform(11, 0, i) - 0.5);
    for (size_t i = 0; i < DEQ_COUNT(prompt); i++)
        prompt[i] = (uint32_t)deq_rng_below(11, 1, i, a.vocab.size);
    CHECK(deq_transformer_new(w, false, &t, NULL) == DEQ_OK && deq_pool_new(1, &pool, NULL) == DEQ_OK &&
          deq_engine_opts_fill(&shape, &(struct deq_engine_opts){.max_sequences = 2}, &o, NULL) == DEQ_OK &&
          deq_transformer_open(t, o.max_rows, deq_engine_pages(&shape, &o), pool, &cell, NULL) == DEQ_OK &&
          deq_engine_open(cell, &a.vocab, &a.serving, pool, &o, &e, NULL) == DEQ_OK);
    for (int whole = 0; whole < 2; whole++) {
        struct answer got = {.vocab = a.vocab.size};
        struct deq_request q = {.prompt = prompt, .n_prompt = DEQ_COUNT(prompt), .max_tokens = 60, .want_logits = whole,
                                .sampling = {.temperature = 1, .top_p = 1, .seed = 3}, .event = record, .ctx = &got,
                                .solve = {.solver = DEQ_ANDERSON, .tol = 1e-3f, .max_iter = 30, .window = 4}};
        CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
        run_all(e);
        CHECK(got.n == 60);
        hash_answer(h, &got);
    }
    deq_engine_free(e);
    deq_transformer_free(t);
    deq_weights_free(w);
}

/* The same bits at every level; and on every machine, compiler and C library: those that this test was written with. */
TEST(engine_cpu_levels)
{
    const char *const was = deq_kern()->name, *const levels[] = {"ref", "avx2", "avx512"};
    for (size_t i = 0; i < 3; i++) {
        struct deq_hash h = {{1, 2}};
        if (!deq_kern_force(levels[i])) {
            SKIP("this machine has no %s", levels[i]);
            continue;
        }
        hash_tiny(&h);
        hash_clusters(&h);
        CHECK_MSG(h.h[0] == 0x9485df28ad5a9f95u, "%s: %016llx", levels[i], (unsigned long long)h.h[0]);
    }
    CHECK(deq_kern_force(was));
}

/* A prompt's whole blocks do not depend on what follows them: the first positions of two prompts with a common beginning get the same bits. */
TEST(engine_prefix_is_canonical)
{
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, "What shall I say more than I have inferred? Remember whom you are to cope withal; a sort of vagabonds, rascals, and runaways");
    const uint32_t V = deq_model_info(m).vocab_size;
    float *first = DEQ_NEW_ARRAY(float, p.n * V), *second = DEQ_NEW_ARRAY(float, p.n * V);
    const size_t lengths[2] = {p.n, 45};
    CHECK(p.n > 50);
    for (size_t i = 0; i < 2; i++) {
        struct answer a = {.all_logits = i ? second : first};
        struct deq_engine *e = tiny_engine(m, 2, 1);
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

/* Text longer than the attention window slides: memory stays, and the last position's logits are those of the same text entered later in another sequence of the
 * same suffix only when the window is full, so we check sizes and determinism here, values in engine_equals_sequence_form. */
TEST(engine_slides)
{
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, "A long story begins");
    struct deq_engine *e = tiny_engine(m, 2, 2);
    struct answer a = {0}, b = {0};
    struct deq_request q = tiny_request(m, &p, 400, &a);
    uint64_t most = 0;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    for (int guard = 0; deq_active(e) && guard < 100000; guard++) {
        deq_step(e);
        most = DEQ_MAX(most, deq_engine_stats(e).pages_used);
    }
    CHECK(a.n == 400 && a.finish == DEQ_FINISH_LENGTH);
    /* 400 positions would be 25 pages; window 48 and row window 8 need (48 + 8 - 2) / 16 + 2 = 5 */
    CHECK_MSG(most == 5, "%llu pages", (unsigned long long)most);
    q.ctx = &b;
    b.vocab = a.vocab;
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(same(&a, &b));
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

TEST(engine_stops_when_told)
{
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, "ROMEO:");
    struct deq_engine *e = tiny_engine(m, 1, 1);
    struct answer a = {.stop_after = 5};
    struct deq_request q = tiny_request(m, &p, 50, &a);
    CHECK(deq_submit(e, &q, NULL, NULL) == DEQ_OK);
    run_all(e);
    CHECK(a.n == 5 && a.finish == DEQ_FINISH_STOP);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* --- Prefix cache, choices, pauses, deadlines --- */

#define LONG_TEXT "What shall I say more than I have inferred? Remember whom you are to cope withal; a sort of vagabonds, rascals, and runaways, a scum of Bretons"

static struct answer ask(struct deq_engine *e, const struct deq_request *q, struct deq_admission *ret)
{
    struct answer a = {.vocab = ((struct answer *)q->ctx)->vocab};
    struct deq_request one = *q;
    struct deq_admission unused;
    one.ctx = &a;
    CHECK(deq_submit(e, &one, ret ? ret : &unused, NULL) == DEQ_OK);
    run_all(e);
    CHECK(a.ended);
    return a;
}

/* A hit gives the bits of a fresh solve: whatever the prompt's length, behind one block or several, also when attention no longer reaches the first. */
TEST(engine_prefix_hit_is_bitwise_equal)
{
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, LONG_TEXT);
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
        CHECK(first.cached_tokens == 0 && second.cached_tokens == (n - 1) / 32 * 32 && third.cached_tokens == second.cached_tokens && !third.approximate);
        CHECK_MSG(same(&alone, &hit) && same(&alone, &again), "prompt of %zu tokens: a hit changes the answer", n);
        q.cache_salt = "somebody else's";
        q.cache_salt_len = strlen(q.cache_salt);
        const struct answer salted = ask(warm, &q, &second);
        CHECK(second.cached_tokens == 0 && same(&alone, &salted));
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

/* What generation produced serves a later prompt only where that asks for it, and then it is said. */
TEST(engine_prefix_of_generation)
{
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, "First Citizen: Before we proceed");
    struct answer x = {0};
    struct deq_engine *e = tiny_engine(m, 1, 6);
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
    turn.cache = DEQ_CACHE_EXACT; /* neither the blocks of generation nor those solved behind them are taken for exact */
    const struct answer exact = ask(e, &turn, &a);
    CHECK(!a.approximate && a.cached_tokens <= (size_t)32 && same(&exact, &off));
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

enum { CHOICES = 5 };

struct choices {
    struct answer a[CHOICES];
};

static enum deq_verdict record_choice(void *ctx, const struct deq_event *e)
{
    return record(&((struct choices *)ctx)->a[e->choice], e);
}

/* n choices from one solve of the prompt: choice k has the bits that it has with any other n, and the prompt's positions are solved once. */
TEST(engine_choices)
{
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, LONG_TEXT);
    struct answer x = {0};
    for (size_t n_prompt = 60; n_prompt < 70; n_prompt += 4) { /* ends inside a page and at its end */
        struct choices got[2];
        uint64_t positions[2];
        memset(got, 0, sizeof got);
        for (uint32_t round = 0; round < 2; round++) {
            struct deq_engine *e = tiny_engine(m, 1 + round, 6);
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
        struct deq_request q = tiny_request(m, &p, 30, &x);
        q.n_prompt = n_prompt;
        q.sampling = (struct deq_sampling){.temperature = 1, .top_p = 1, .seed = 5};
        const struct answer alone = ask(e, &q, NULL);
        deq_engine_free(e);
        CHECK(same(&alone, &got[0].a[0]) && same(&alone, &got[1].a[0]) && same(&got[0].a[1], &got[1].a[1]));
        CHECK(got[1].a[1].n == 3 && got[1].a[1].finish == DEQ_FINISH_STOP);
        for (size_t i = 0; i < CHOICES; i++)
            for (size_t k = i + 1; k < CHOICES && i != 1; k++)
                CHECK(k == 1 || memcmp(got[1].a[i].token, got[1].a[k].token, sizeof got[1].a[i].token));
        CHECK_MSG(positions[0] == n_prompt + 29 + 2 && positions[1] == n_prompt + 4 * 29 + 2, "%llu and %llu positions", (unsigned long long)positions[0],
                  (unsigned long long)positions[1]);
    }
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* Choices that end with their first token do not take the others along; a deadline at the end of the prompt gives each its token. */
TEST(engine_choices_of_one_token)
{
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, "ROMEO: ");
    struct answer x = {0};
    struct deq_engine *e = tiny_engine(m, 1, 6);
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
            CHECK_MSG(got.a[i].ended && got.a[i].n == 1 && got.a[i].finish == (round ? DEQ_FINISH_DEADLINE : DEQ_FINISH_LENGTH), "round %d, choice %zu: %zu tokens, %d",
                      round, i, got.a[i].n, (int)got.a[i].finish);
    }
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* What a deadline committed above its tolerance is nobody else's prefix. */
TEST(engine_deadline_leaves_nothing_in_the_cache)
{
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_engine *e = tiny_engine(m, 1, 6), *fresh = tiny_engine(m, 1, 1);
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
    CHECK_MSG(a.cached_tokens == 32 && same(&alone, &after), "%zu cached", a.cached_tokens);
    deq_engine_free(e);
    deq_engine_free(fresh);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* Penalties, bias and forbidden tokens look back at the text; whether a token of it is final or still a guess makes no difference. */
TEST(engine_adjusted_sampling)
{
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, "ROMEO: ");
    struct answer x = {0};
    const struct deq_logit_bias bias[2] = {{300, 3.5f}, {101, -100}}, force = {77, 100};
    struct deq_engine *e = tiny_engine(m, 1, 1);
    for (int kind = 0; kind < 6; kind++) {
        struct deq_request q = tiny_request(m, &p, 80, &x);
        struct answer base = {0};
        q.sampling.presence_penalty = kind == 0 ? 1.5f : 0;
        q.sampling.frequency_penalty = kind == 1 ? 0.7f : 0;
        q.sampling.repetition_penalty = kind == 2 ? 1.4f : 0;
        q.sampling.bias = kind == 3 ? bias : kind == 4 ? &force : NULL;
        q.sampling.n_bias = kind == 3 ? 2 : kind == 4 ? 1 : 0;
        if (kind == 5)
            q.sampling = (struct deq_sampling){.temperature = 1, .top_p = 0.9f, .seed = 3, .presence_penalty = 0.5f, .frequency_penalty = 0.5f,
                                               .repetition_penalty = 1.1f, .bias = bias, .n_bias = 2};
        q.solve.tol = 1e-4f; /* so tight that no near-tie of two starts decides a pick */
        const struct deq_sampling adjusted = q.sampling;
        q.sampling = (struct deq_sampling){.temperature = adjusted.temperature, .top_p = adjusted.top_p, .seed = adjusted.seed};
        const struct answer plain = ask(e, &q, NULL);
        q.sampling = adjusted;
        for (uint32_t w = 1; w <= 16; w *= 4) {
            q.solve.window = w;
            const struct answer a = ask(e, &q, NULL);
            if (w == 1)
                base = a;
            CHECK_MSG(a.n == 80 && !memcmp(a.token, base.token, 80 * sizeof *a.token), "kind %d, window %u", kind, w);
        }
        CHECK_MSG(memcmp(base.token, plain.token, 80 * sizeof *base.token), "kind %d changes nothing", kind);
        for (size_t i = 0; i < base.n; i++)
            CHECK(kind == 3 ? base.token[i] != 101 : kind != 4 || base.token[i] == 77);
        if (kind == 0) { /* against its definition: the pick is the best of logits - 1.5 on what was said */
            size_t repeats = 0, plain_repeats = 0;
            for (size_t i = 0; i < 80; i++)
                for (size_t k = 0; k < i; k++) {
                    repeats += base.token[i] == base.token[k];
                    plain_repeats += plain.token[i] == plain.token[k];
                }
            CHECK(repeats < plain_repeats);
        }
    }
    struct deq_request q = tiny_request(m, &p, 40, &x);
    q.ignore_eos = false;
    const uint32_t first = ask(e, &q, NULL).token[0];
    q.sampling.stop_ids = &first;
    q.sampling.n_stop_ids = 1;
    q.sampling.min_tokens = 10;
    const struct answer a = ask(e, &q, NULL);
    for (size_t i = 0; i < 10; i++)
        CHECK(a.token[i] != first && a.token[i] != 0);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

TEST(sampler_adjusts_as_documented)
{
    enum { V = 6 };
    const float logits[V] = {1, 2, -1, 4, 5, 6};
    const uint32_t prompt[2] = {0, 5}, text[3] = {1, 1, 2}, guessed[1] = {3};
    uint32_t counts[V] = {0};
    float x[V];
    struct deq_sample_scratch scratch = {.adjusted = x, .counts = counts};
    struct deq_sample_history h = {.prompt = prompt, .n_prompt = 2, .text = text, .n_text = 3, .guessed = guessed, .n_guessed = 1, .eos_id = 4};
    const struct deq_logit_bias bias[3] = {{0, 0.5f}, {5, -100}, {4, 100}};
    struct deq_sampling s = {.presence_penalty = 0.25f, .frequency_penalty = 0.5f, .repetition_penalty = 2, .bias = bias, .n_bias = 1};
    deq_sample_adjust(&s, &h, logits, V, &scratch);
    /* bias; repetition on all that stands anywhere; then 0.5 * count + 0.25 on what was generated */
    const float want[V] = {0.75f, 1 - 1.25f, -2 - 0.75f, 2 - 0.75f, 5, 3};
    for (int i = 0; i < V; i++)
        CHECK_MSG(x[i] == want[i] && counts[i] == 0, "token %d: %g, expected %g", i, (double)x[i], (double)want[i]);
    s = (struct deq_sampling){.bias = bias, .n_bias = 3, .min_tokens = 4};
    deq_sample_adjust(&s, &h, logits, V, &scratch);
    CHECK(x[5] == -INFINITY && x[4] > 1000 && x[0] == 1.5f && x[1] == 2);
    s = (struct deq_sampling){.min_tokens = 5, .stop_ids = prompt, .n_stop_ids = 2};
    deq_sample_adjust(&s, &h, logits, V, &scratch);
    CHECK(x[4] == -INFINITY && x[0] == -INFINITY && x[5] == -INFINITY && x[1] == 2);
    CHECK(!deq_sample_adjusts(&(struct deq_sampling){.repetition_penalty = 1}) && deq_sample_adjusts(&(struct deq_sampling){.min_tokens = 1}));
}

/* Of a vocabulary in clusters: what is drawn has the distribution p^(1/T), and does not depend on which clusters were known before. Greedy: the argmax. */
TEST(sampler_clusters_are_the_whole_distribution)
{
    enum { V = 60, DRAWS = 40000 };
    const struct deq_arch a = {.vocab.size = V, .vocab.n_cutoffs = 3, .vocab.cutoffs = {6, 16, 40}};
    const uint32_t all = 14;
    float weights[V];
    struct deq_sample_scratch scratch = {.weights = weights};
    for (unsigned round = 0; round < 8; round++) {
        float logits[V], tail[3];
        double sum = 0, by[4] = {0};
        for (uint32_t i = 0; i < V; i++) { /* log-probabilities, in rounds that differ in where the mass lies */
            const unsigned c = deq_cluster_of(&a.vocab, i);
            logits[i] = 3 * (float)deq_rng_uniform(round, 9, i) + (c == round % 4 ? 2.0f : 0.0f);
            sum += exp((double)logits[i]);
        }
        for (uint32_t i = 0; i < V; i++) {
            logits[i] -= (float)log(sum);
            by[deq_cluster_of(&a.vocab, i)] += exp((double)logits[i]);
        }
        for (int c = 0; c < 3; c++)
            tail[c] = (float)log(by[c + 1]);
        const struct deq_tails whole = {.vocab = &a.vocab, .logprob = tail, .known = all};
        for (int k = 0; k < 4; k++) {
            const struct deq_sampling s = {.temperature = (float[]){0, 0.5f, 1, 2}[k], .top_p = 1, .seed = round};
            const uint32_t n = s.temperature > 0 ? DRAWS : 1;
            uint32_t count[V] = {0}, differ = 0, need = 0;
            for (uint32_t at = 0; at < n; at++) {
                const uint32_t token = deq_sample_clusters(&s, &whole, logits, 0, at, &scratch, &need);
                struct deq_tails t = {.vocab = &a.vocab, .logprob = tail};
                float seen[V]; /* what is not known stands there as something else */
                for (uint32_t i = 0; i < V; i++)
                    seen[i] = i < 6 ? logits[i] : 50;
                uint32_t lazy = deq_sample_clusters(&s, &t, seen, 0, at, &scratch, &need);
                for (int guard = 0; lazy == UINT32_MAX && guard < 4; guard++) {
                    differ += need < 1 || need > 3 || t.known >> need & 1;
                    for (uint32_t i = deq_cluster_begin(&a.vocab, need); i < deq_cluster_begin(&a.vocab, need + 1); i++)
                        seen[i] = logits[i];
                    t.known |= 1u << need;
                    lazy = deq_sample_clusters(&s, &t, seen, 0, at, &scratch, &need);
                }
                differ += lazy != token;
                count[token < V ? token : 0]++;
            }
            CHECK_MSG(!differ, "round %u, temperature %g: %u picks depend on what is known", round, (double)s.temperature, differ);
            if (s.temperature <= 0) {
                CHECK(count[deq_argmax(logits, V)] == 1);
                continue;
            }
            double total = 0, chi2 = 0;
            for (uint32_t i = 0; i < V; i++)
                total += exp((double)logits[i] / (double)s.temperature);
            for (uint32_t i = 0; i < V; i++) {
                const double expected = n * exp((double)logits[i] / (double)s.temperature) / total;
                chi2 += (count[i] - expected) * (count[i] - expected) / expected;
            }
            /* 59 degrees of freedom: 110 is passed once in 15,000 times, and the draws are fixed by their seed */
            CHECK_MSG(chi2 < 110, "round %u, temperature %g: chi-squared %g", round, (double)s.temperature, chi2);
        }
    }
}

TEST(engine_pause_and_deadline)
{
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, "GLOUCESTER: Now is the winter"), other = encode(m, "O");
    struct answer x = {0}, a = {0}, b = {0}, c = {0};
    struct deq_engine *e = tiny_engine(m, 1, 3);
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
    CHECK(same(&a, &alone));
    /* a deadline in the text: one more token from the iterate at hand; in the prompt: nothing */
    q.ctx = &c;
    q.solve.tol = 1e-6f; /* dozens of evaluations a token, so that it comes between two */
    CHECK(deq_submit(e, &q, &id, NULL) == DEQ_OK);
    while (c.n < 5)
        deq_step(e);
    deq_step(e);
    const size_t had = c.n;
    CHECK(deq_expire(e, id.id) == DEQ_OK);
    deq_step(e);
    CHECK_MSG(c.ended && c.finish == DEQ_FINISH_DEADLINE && c.n == had + 1 && c.not_converged == 1, "%d, %zu tokens, had %zu, %zu above tol", (int)c.finish, c.n,
              had, c.not_converged);
    struct answer d = {.vocab = x.vocab};
    q.ctx = &d;
    CHECK(deq_submit(e, &q, &id2, NULL) == DEQ_OK);
    deq_step(e);
    CHECK(deq_expire(e, id2.id) == DEQ_OK && d.ended && d.finish == DEQ_FINISH_DEADLINE && d.n == 0);
    CHECK(deq_expire(e, id2.id) == DEQ_ENOTFOUND && deq_pause(e, id2.id, true) == DEQ_ENOTFOUND && !deq_active(e));
    CHECK(deq_engine_stats(e).pages_used == 0 && deq_engine_stats(e).rows_open == 0);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_tokens_free(&other);
    deq_model_free(m);
}

/* Company of all kinds in a cache that is far too small for it: hits, forks, evictions, pauses, deadlines, cancels; what is not cut short has the bits
 * that it has alone, and pages in = pages out. */
TEST(engine_pages_in_pages_out)
{
    enum { PROBES = 4, ROUNDS = 60, SLOTS = 40 };
    struct deq_model *m = tiny();
    struct deq_tokens p = encode(m, LONG_TEXT);
    struct answer alone[PROBES], x = {0};
    struct deq_request q[PROBES];
    for (size_t i = 0; i < PROBES; i++) {
        q[i] = tiny_request(m, &p, 10 + 5 * (uint32_t)i, &x);
        q[i].n_prompt = 40 + 25 * i;
        q[i].sampling = (struct deq_sampling){.temperature = i % 2 ? 0.9f : 0, .top_p = 1, .seed = i, .presence_penalty = i == 3 ? 1 : 0};
        struct deq_engine *e = tiny_engine(m, 1, 1);
        alone[i] = ask(e, &q[i], NULL);
        deq_engine_free(e);
    }
    const uint64_t per_token = deq_model_info(m).cache_bytes_per_token;
    struct deq_engine *e = NULL;
    CHECK(deq_engine_new(m, &(struct deq_engine_opts){.threads = 1, .max_sequences = 6, .max_positions = 200, .prefill_block = 32,
                                                      .cache_bytes = per_token * 16 * 22}, &e, NULL) == DEQ_OK);
    size_t different = 0, whole = 0, full = 0;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        struct choices *got = DEQ_NEW_ARRAY(struct choices, SLOTS);
        struct deq_admission id[SLOTS] = {{0}};
        size_t which[SLOTS], next = 0;
        uint64_t r = 0;
#define DRAW(n) deq_rng_below(round, 9, r++, (n))
        while (next < SLOTS || deq_active(e)) {
            if (next < SLOTS && DRAW(3) == 0) {
                which[next] = DRAW(PROBES);
                struct deq_request one = q[which[next]];
                one.event = record_choice;
                one.ctx = &got[next];
                one.n = 1 + (uint32_t)DRAW(3);
                one.cache = DRAW(4) == 0 ? DEQ_CACHE_OFF : DEQ_CACHE_EXACT;
                for (size_t k = 0; k < CHOICES; k++)
                    got[next].a[k].vocab = x.vocab;
                const enum deq_rc rc = deq_submit(e, &one, &id[next], NULL);
                CHECK(rc == DEQ_OK || rc == DEQ_EFULL);
                full += rc == DEQ_EFULL;
                next += rc == DEQ_OK;
            }
            const size_t victim = DRAW(SLOTS), what = DRAW(40);
            if (victim < next) {
                if (what == 0)
                    (void)deq_cancel(e, id[victim].id);
                else if (what == 1)
                    (void)deq_expire(e, id[victim].id);
                else if (what < 6)
                    (void)deq_pause(e, id[victim].id, what < 4);
            }
            for (size_t k = 0; k < next && !deq_runnable(e) && deq_active(e); k++)
                (void)deq_pause(e, id[k].id, false);
            deq_step(e);
        }
        for (size_t i = 0; i < SLOTS; i++)
            if (got[i].a[0].finish == DEQ_FINISH_LENGTH) {
                whole++;
                different += !same(&got[i].a[0], &alone[which[i]]);
            }
        const struct deq_engine_stats s = deq_engine_stats(e);
        CHECK(s.pages_used == 0 && s.pages_reserved == 0 && s.rows_open == 0 && s.sequences == 0);
        deq_free(got);
    }
    const struct deq_engine_stats s = deq_engine_stats(e);
    CHECK_MSG(different == 0, "%zu of %zu answers differ from the ones given alone", different, whole);
    CHECK_MSG(whole > ROUNDS * SLOTS / 2 && full > 100 && s.prefix_hits_tok > 1000 && s.prefix_evictions > 100,
              "%zu whole, %zu full, %llu tokens hit, %llu evictions", whole, full, (unsigned long long)s.prefix_hits_tok, (unsigned long long)s.prefix_evictions);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}
