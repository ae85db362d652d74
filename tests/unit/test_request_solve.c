/* server/api/request_solve.c: the deq object, within the server's bounds and the model's ways. */
#include <stdlib.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "server/api/request_impl.h"
#include "tests/unit/requests.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

static const struct refused wrong[] = {
    {ON_COMPLETIONS, "{\"deq\":{\"tol\":0.6}}", NULL, "deq.tol: must be between 1e-05 and 0.5"},
    {ON_COMPLETIONS, "{\"deq\":{\"tol\":\"0.1\"}}", NULL, "deq.tol: expected a number"},
    {ON_COMPLETIONS, "{\"deq\":{\"max_iter\":65}}", NULL, "deq.max_iter: must be between 0 and 64"},
    {ON_COMPLETIONS, "{\"deq\":{\"max_iter\":0}}", NULL,
     "deq.max_iter: 0 answers from the model's proposal, and this model makes none"},
    {ON_COMPLETIONS, "{\"deq\":{\"min_iter\":9,\"max_iter\":8}}", NULL, "deq.min_iter: must be between 0 and 8"},
    {ON_COMPLETIONS, "{\"deq\":{\"window\":17}}", NULL, "deq.window: must be between 1 and 16"},
    {ON_COMPLETIONS, "{\"deq\":{\"prefill_window\":17}}", NULL, "deq.prefill_window: must be between 1 and 16"},
    {ON_COMPLETIONS, "{\"deq\":{\"prefill_window\":0}}", NULL, "deq.prefill_window: must be between 1 and 16"},
    {ON_COMPLETIONS, "{\"deq\":{\"solver\":\"newton\"}}", NULL, "deq.solver: must be picard, anderson or broyden"},
    {ON_COMPLETIONS, "{\"deq\":{\"solver\":3}}", NULL, "deq.solver: expected a string"},
    {ON_COMPLETIONS, "{\"deq\":{\"warm_start\":\"cold\"}}", NULL,
     "deq.warm_start: must be zero, previous, predictor or proposal"},
    {ON_COMPLETIONS, "{\"deq\":{\"warm_start\":\"proposal\"}}", NULL,
     "deq.warm_start: this model makes no proposal"},
    {ON_COMPLETIONS, "{\"deq\":{\"stop\":\"entropy\"}}", NULL,
     "deq.stop: must be residual, latent, kl or argmax"},
    {ON_COMPLETIONS, "{\"deq\":{\"stop\":\"argmax\",\"tol\":0.1}}", NULL,
     "deq.tol: stop argmax has no tolerance"},
    {ON_COMPLETIONS, "{\"deq\":{\"stop\":\"latent\",\"preset\":\"fast\"}}", NULL,
     "deq.preset: presets are tolerances of the model's own rule, and stop is another"},
    {ON_COMPLETIONS, "{\"deq\":{\"window\":2,\"stop\":\"kl\"}}", NULL, "deq.window: must be between 1 and 1"},
    {ON_COMPLETIONS, "{\"deq\":{\"preset\":\"slow\"}}", NULL, "deq.preset: must be fast, balanced or exact"},
    {ON_COMPLETIONS, "{\"deq\":{\"max_evaluations\":0}}", NULL,
     "deq.max_evaluations: must be between 1 and 1000000000"},
    {ON_COMPLETIONS, "{\"deq\":{\"max_evaluations\":1.5}}", NULL, "deq.max_evaluations: expected an integer"},
    {ON_COMPLETIONS, "{\"deq\":{\"memory\":3}}", NULL, "deq.memory: unknown field"},
};

static struct deq_solve_params solve_of(const struct requests *r, const char *body)
{
    struct completion_request q = {0};
    struct request_error err = {0};
    CHECK_MSG(request_completion(&r->context, ON_COMPLETIONS, body, strlen(body), &q, &err), "%s: %s", body,
              err.message);
    const struct deq_solve_params p = q.solve;
    completion_request_free(&q);
    return p;
}

TEST(request_solve_object)
{
    struct requests r;
    REQUIRE(requests_begin(&r));
    check_refused(&r, wrong, DEQ_COUNT(wrong));
    /* the model's own, tests/golden/tiny/config.json */
    struct deq_solve_params p = solve_of(&r, "{}");
    CHECK(p.solver == DEQ_ANDERSON && p.tol == 0.01f && p.max_iter == 32 && p.min_iter == 1 && p.window == 8 &&
          p.prefill_window == 0 && p.warm_start == DEQ_WARM_PREDICTOR);
    p = solve_of(&r, "{\"deq\":{\"solver\":\"broyden\",\"tol\":0.5,\"max_iter\":64,\"min_iter\":64,\"window\":1,"
                     "\"warm_start\":\"zero\"}}");
    CHECK(p.solver == DEQ_BROYDEN && p.tol == 0.5f && p.max_iter == 64 && p.min_iter == 64 && p.window == 1 &&
          p.warm_start == DEQ_WARM_ZERO);
    CHECK_EQ(solve_of(&r, "{\"deq\":{\"preset\":\"fast\"}}").tol, 10 * 0.01f);
    CHECK_EQ(solve_of(&r, "{\"deq\":{\"preset\":\"exact\"}}").tol, 0.01f * 0.01f);
    CHECK_EQ(solve_of(&r, "{\"deq\":{\"tol\":0.2,\"preset\":\"exact\"}}").tol, 0.2f); /* a number is the last word */
    CHECK_EQ(solve_of(&r, "{\"deq\":{\"max_iter\":1}}").min_iter, 1);
    p = solve_of(&r, "{\"deq\":{\"prefill_window\":16,\"window\":2}}");
    CHECK(p.window == 2 && p.prefill_window == 16);
    p = solve_of(&r, "{\"deq\":{\"prefill_window\":3}}");
    CHECK(p.window == 8 && p.prefill_window == 3);
    r.conf.max_window = 4;
    CHECK_EQ(solve_of(&r, "{}").window, 4);
    requests_end(&r);
}

/* With a budget the window is 1, whatever is asked for; a prompt has its own or the model's. */
TEST(request_budget_settles_windows)
{
    static const struct {
        const char *more;
        uint32_t prefill;
    } t[] = {{"", 8}, {",\"window\":1", 8}, {",\"window\":16", 8}, {",\"window\":2,\"prefill_window\":4", 4},
             {",\"stop\":\"kl\"", 1}};
    struct requests r;
    REQUIRE(requests_begin(&r));
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        char body[100];
        snprintf(body, sizeof body, "{\"deq\":{\"max_evaluations\":50%s}}", t[i].more);
        const struct deq_solve_params p = solve_of(&r, body);
        CHECK_MSG(p.max_evaluations == 50 && p.window == 1 && p.prefill_window == t[i].prefill, "%s: %u", t[i].more,
                  p.prefill_window);
    }
    CHECK(solve_of(&r, "{\"deq\":{\"window\":2}}").max_evaluations == 0);
    requests_end(&r);
}

/* The tiny model once more, as one that takes a fixed number of steps. */
static bool fixed_model(struct deq_model **ret)
{
    static const char *const files[] = {"model.safetensors", "tokenizer.json"}, was[] = "0.01", now[] = "   0";
    char *config = NULL, *at, from[4096];
    size_t n;
    struct deq_err err;
    bool ok = scratch_begin() && !deq_io_read("tests/golden/tiny/config.json", 1 << 16, &config, &n, &err);
    ok = ok && (at = strstr(config, was)) && memcpy(at, now, sizeof now - 1) && (at = strstr(config, "window\": 8")) &&
         memcpy(at, "window\": 1", 10) && (at = strstr(config, "\"predictor\"")) && memcpy(at, "\"zero\"     ", 11);
    if (ok)
        scratch_put("config.json", config);
    for (size_t i = 0; ok && i < DEQ_COUNT(files); i++) {
        char path[64];
        snprintf(path, sizeof path, "tests/golden/tiny/%s", files[i]);
        ok = realpath(path, from) && !symlink(from, scratch_path(files[i]));
    }
    ok = ok && !deq_model_load(scratch_dir(), NULL, ret, &err);
    CHECK_MSG(ok, "%s", err.text);
    deq_free(config);
    scratch_end("config.json", "model.safetensors", "tokenizer.json", NULL);
    return ok;
}

TEST(request_solve_of_fixed_steps)
{
    static const struct refused unfit[] = {
        {ON_COMPLETIONS, "{\"deq\":{\"tol\":0.1}}", NULL,
         "deq.tol: this model takes a fixed number of steps (max_iter)"},
        {ON_COMPLETIONS, "{\"deq\":{\"window\":2}}", NULL, "deq.window: must be between 1 and 1"},
        {ON_COMPLETIONS, "{\"deq\":{\"prefill_window\":2}}", NULL, "deq.prefill_window: must be between 1 and 1"},
        {ON_COMPLETIONS, "{\"deq\":{\"warm_start\":\"previous\"}}", NULL,
         "deq.warm_start: this model takes a fixed number of steps, from zero or its proposal"},
    };
    struct requests r;
    REQUIRE(requests_begin(&r));
    deq_model_free(r.model);
    r.model = NULL;
    if (fixed_model(&r.model)) {
        r.context.model = r.model;
        check_refused(&r, unfit, DEQ_COUNT(unfit));
        CHECK_EQ(solve_of(&r, "{\"deq\":{\"warm_start\":\"zero\",\"max_iter\":5}}").tol, 0.0f);
        CHECK_EQ(solve_of(&r, "{\"deq\":{\"stop\":\"residual\",\"preset\":\"fast\"}}").tol, 0.0f);
        CHECK(solve_of(&r, "{\"deq\":{\"stop\":\"latent\"}}").tol > 0); /* another rule has its own tolerance */
    }
    requests_end(&r);
}

TEST(request_presets_keep_to_bounds)
{
    const struct conf c = {.tol_min = 1e-3f, .tol_max = 0.05f};
    const struct deq_model_info i = {.tol = 0.01f, .tol_fast = 0.1f, .tol_exact = 1e-4f}, fixed = {.tol_fast = 0.1f};
    CHECK_EQ(request_preset_tol(&c, &i, 0), 0.05f);
    CHECK_EQ(request_preset_tol(&c, &i, 1), 0.01f);
    CHECK_EQ(request_preset_tol(&c, &i, 2), 1e-3f);
    CHECK_EQ(request_preset_tol(&c, &fixed, 0), 0.0f); /* a fixed number of steps stays one */
}
