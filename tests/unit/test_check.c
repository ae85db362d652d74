/* core/engine/check.c: each thing that a request may not ask, refused by name, beside the last that it may. */
#include "core/engine/engine_impl.h"
#include "core/engine/saved.h"
#include "tests/unit/answers.h"

enum { V = 24, POSITIONS = 400, SEQUENCES = 4 };

static const uint32_t prompt[POSITIONS + 1] = {1, 2, V - 1};
static struct deq_engine *e;
static struct deq_request q;
static struct deq_err err;

static struct deq_request plain(void)
{
    static struct answer a;
    struct deq_request of = toy_request(prompt, 3, 1, &a);
    err = (struct deq_err){0};
    return of;
}

/* Of a plain request that was changed so. */
#define TAKEN(...) CHECK_MSG((q = plain(), __VA_ARGS__, !deq_request_check(e, &q, &err)), "%s", err.text)
#define REFUSED(says, ...)                                                                                             \
    CHECK_MSG((q = plain(), __VA_ARGS__, deq_request_check(e, &q, &err) == DEQ_EINVAL) && strstr(err.text, says),      \
              "%s", err.text)

static bool begin(bool layered)
{
    e = toy_engine(&(struct deq_toy){.dim = V, .rho = 0.5f, .coupling = 0.4f, .before = layered ? 0.5f : 0}, 1,
                   SEQUENCES, NULL);
    return e != NULL;
}

TEST(check_lengths_and_tokens)
{
    static const uint32_t beyond[2] = {1, V};
    REQUIRE(begin(false));
    TAKEN(q.n_prompt = 1);
    REFUSED("prompt: at least one token", q.n_prompt = 0);
    TAKEN(q.max_tokens = POSITIONS - 3);
    REFUSED("prompt of 3 tokens plus max_tokens 398 exceeds the limit of 400", q.max_tokens = POSITIONS - 2);
    TAKEN(q.n_prompt = POSITIONS, q.max_tokens = 0);
    REFUSED("prompt of 401", q.n_prompt = POSITIONS + 1, q.max_tokens = 0);
    REFUSED("max_tokens 4294967295", q.max_tokens = UINT32_MAX);
    TAKEN(q.prompt = beyond, q.n_prompt = 1);
    REFUSED("token 24 at 1 is outside the vocabulary of 24", q.prompt = beyond, q.n_prompt = 2);
    TAKEN(q.n = 1, q.max_tokens = 0);
    TAKEN(q.n = SEQUENCES);
    REFUSED("n: 5 choices", q.n = SEQUENCES + 1);
    REFUSED("n: 2 choices need max_tokens", q.n = 2, q.max_tokens = 0);
    deq_engine_free(e);
}

TEST(check_ways_of_solving)
{
    REQUIRE(begin(false));
    TAKEN(q.solve.window = 1);
    TAKEN(q.solve.window = DEQ_ROW_WINDOW_MAX);
    REFUSED("window: 0 is outside", q.solve.window = 0);
    REFUSED("window: 65 is outside", q.solve.window = DEQ_ROW_WINDOW_MAX + 1);
    TAKEN(q.solve.prefill_window = DEQ_ROW_WINDOW_MAX);
    REFUSED("prefill_window: 65", q.solve.prefill_window = DEQ_ROW_WINDOW_MAX + 1);
    TAKEN(q.solve.warm_start = DEQ_WARM_PREVIOUS);
    REFUSED("no predictor", q.solve.warm_start = DEQ_WARM_PREDICTOR);
    REFUSED("no proposal", q.solve.warm_start = DEQ_WARM_PROPOSAL);
    TAKEN(q.solve.stop = DEQ_STOP_AT_KL, q.solve.window = 1);
    TAKEN(q.solve.stop = DEQ_STOP_AT_KL, q.solve.window = q.solve.prefill_window = 1);
    TAKEN(q.solve.stop = DEQ_STOP_AT_LATENT, q.solve.window = q.solve.prefill_window = 2);
    REFUSED("stop kl reads out", q.solve.stop = DEQ_STOP_AT_KL, q.solve.window = 2);
    REFUSED("stop argmax reads out", q.solve.stop = DEQ_STOP_AT_ARGMAX, q.solve.window = 1, q.solve.prefill_window = 2);
    TAKEN(q.solve.max_evaluations = 1, q.solve.window = 1);
    REFUSED("max_evaluations: a budget", q.solve.max_evaluations = 1, q.solve.window = 2);
    TAKEN(q.solve.tol = 0);
    REFUSED("stop: latent, but tol 0", q.solve.stop = DEQ_STOP_AT_LATENT, q.solve.tol = 0);
    REFUSED("stop: latent, but tol 0", q.solve.stop = DEQ_STOP_AT_LATENT, q.solve.tol = NAN);
    TAKEN(q.solve.max_iter = 0);
    REFUSED("max_iter: 0", q.solve.max_iter = 0, q.solve.warm_start = DEQ_WARM_PREVIOUS);
    deq_engine_free(e);
    REQUIRE(begin(true));
    TAKEN(q.solve.warm_start = DEQ_WARM_PROPOSAL);
    TAKEN(q.solve.warm_start = DEQ_WARM_PROPOSAL, q.solve.max_iter = 0);
    REFUSED("no predictor", q.solve.warm_start = DEQ_WARM_PREDICTOR);
    deq_engine_free(e);
}

TEST(check_sampling)
{
    static const struct deq_logit_bias bias[2] = {{V - 1, 1}, {V, 1}};
    static const uint32_t stops[2] = {V - 1, V};
    static const float outside[] = {-0.01f, 1.01f, NAN};
    REQUIRE(begin(false));
    TAKEN(q.sampling.temperature = 9);
    REFUSED("sampling: temperature", q.sampling.temperature = -0.01f);
    REFUSED("sampling: temperature", q.sampling.temperature = NAN);
    TAKEN(q.sampling.top_p = 0, q.sampling.min_p = 0);
    TAKEN(q.sampling.top_p = 1, q.sampling.min_p = 1);
    TAKEN(q.sampling.top_p = 0.5f, q.sampling.min_p = 0.5f);
    for (size_t i = 0; i < DEQ_COUNT(outside); i++) {
        REFUSED("top_p and min_p in 0..1", q.sampling.top_p = outside[i]);
        REFUSED("top_p and min_p in 0..1", q.sampling.min_p = outside[i]);
    }
    TAKEN(q.sampling.bias = bias, q.sampling.n_bias = 1);
    REFUSED("bias: token 24", q.sampling.bias = bias, q.sampling.n_bias = 2);
    TAKEN(q.sampling.stop_ids = stops, q.sampling.n_stop_ids = 1);
    REFUSED("stop_ids: token 24", q.sampling.stop_ids = stops, q.sampling.n_stop_ids = 2);
    deq_engine_free(e);
}

TEST(check_what_is_shown)
{
    REQUIRE(begin(false));
    TAKEN(q.states = DEQ_STATES_LAST, q.max_tokens = 0);
    REFUSED("states: of a prompt that is continued by no tokens", q.states = DEQ_STATES_LAST);
    TAKEN(q.states = DEQ_STATES_ALL, q.max_tokens = 0, q.products = 1);
    REFUSED("products: of a Jacobian", q.products = 1);
    REFUSED("products: of a Jacobian", q.states = DEQ_STATES_LAST, q.max_tokens = 0, q.products = 1,
            q.solve.max_iter = 0);
    deq_engine_free(e);
}

/* A state of two tokens, as this engine's cell has them, and one for the five of a prompt behind it. */
TEST(check_saved_states)
{
    static uint32_t tokens[5] = {3, 4};
    REQUIRE(begin(false));
    const struct deq_state two = {.n_tokens = 2,
                                  .tokens = tokens,
                                  .filled = true,
                                  .state_dim = V,
                                  .page_tok = e->cell->page_tok,
                                  .page_bytes = e->cell->page_bytes};
    struct deq_state s = two, keep = two, *const all = &keep;
    keep.n_tokens = 5;
    keep.filled = false;
    TAKEN(q.state = &s);
    TAKEN(q.state = &s, q.keep = all);
    TAKEN(q.state = &s, q.n_prompt = 0);
    TAKEN(q.state = &s, q.max_tokens = 0);
    TAKEN(q.state = &s, q.states = DEQ_STATES_LAST, q.max_tokens = 0);
    REFUSED("max_tokens: 0 asks for nothing behind", q.state = &s, q.n_prompt = 0, q.max_tokens = 0);
    TAKEN(q.state = &s, q.max_tokens = POSITIONS - 5);
    REFUSED("prompt of 5 tokens plus", q.state = &s, q.max_tokens = POSITIONS - 4);
    REFUSED("nothing is told of a state's own", q.state = &s, q.want_prompt = true);
    REFUSED("nothing is told of a state's own", q.state = &s, q.states = DEQ_STATES_ALL, q.max_tokens = 0);
    REFUSED("keep: is of 5 tokens, the prompt has 3", q.keep = all);
    TAKEN(q.keep = all, q.n_prompt = 5, q.states = DEQ_STATES_ALL, q.want_prompt = true, q.max_tokens = 0);
    REFUSED("state: nothing is in it", s.filled = false, q.state = &s);
    s = two;
    REFUSED("state: is of another model", s.page_tok++, q.state = &s);
    s = two;
    REFUSED("state: is of another model", s.state_dim++, q.state = &s);
    s = two;
    REFUSED("state: is of another model", s.page_bytes++, q.state = &s);
    s = two;
    REFUSED("keep: is of another model", keep.page_bytes++, q.state = &s, q.keep = all);
    deq_engine_free(e);
}
