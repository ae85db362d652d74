#include "models/cli/bench/generation.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "models/cli/cli.h"

static const char *const sentences[] = {
    "Once upon a time", "Tom and Jane were playing in the park. They", "The little dog was very",
    "One day, a girl named Lucy found a", "Mum said, \"You must", "There was a big tree in the",
};
enum { SENTENCES = DEQ_COUNT(sentences), PREFILL_TOK = 512, DEPTH_TOK = 100 };

/* --- Prompts --- */

/* n tokens beginning with sentence i, the others behind it as often as it takes; n 0: the sentence alone. */
static enum deq_rc make_prompt(const struct bench_texts *t, size_t i, size_t n, struct deq_tokens *out,
                               struct deq_err *err)
{
    bool words = true;
    out->n = 0;
    do {
        const char *text = sentences[i++ % SENTENCES];
        words = !deq_encode(t->model, text, strlen(text), false, out, NULL) && out->n;
    } while (words && out->n < n);
    const uint32_t vocab = deq_model_info(t->model).vocab_size;
    for (size_t k = 0; !words && k < DEQ_MAX(n, (size_t)8); k++)
        if (!deq_tokens_push(out, (uint32_t)deq_rng_below(4, i, k, vocab)))
            return deq_fail(err, DEQ_ENOMEM, "no memory for a prompt");
    out->n = n ? DEQ_MIN(out->n, n) : out->n;
    return DEQ_OK;
}

/* --- Sequences under way --- */

struct one { /* what is measured */
    size_t streams, prompt_tok; /* prompt_tok 0: sentences as they are */
    struct deq_request request; /* without its prompt */
    /* the run under way */
    struct deq_engine *engine;
    uint64_t sent, begun, tokens;
    /* rounds */
    struct bench_series rate;
    double seconds, steps, rows, positions, explicit_rows, coda_rows, head_rows, screen_rows;
};

static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    struct one *o = ctx;
    o->begun += e->kind == DEQ_EVENT_TOKEN && e->position + 1 == o->request.n_prompt;
    o->tokens += e->kind == DEQ_EVENT_TOKEN;
    return DEQ_CONTINUE;
}

/* prompt_tok and max_tokens are less where the model knows fewer positions. */
static struct one make_one(const struct bench_texts *t, size_t streams, size_t prompt_tok, uint32_t max_tokens,
                           uint32_t window)
{
    const uint32_t most = deq_model_info(t->model).max_positions, positions = most ? most : UINT32_MAX;
    struct one o = {.streams = streams, .request = deq_request_defaults(t->model)};
    o.prompt_tok = DEQ_MIN(prompt_tok, (size_t)positions / (max_tokens ? 2 : 1));
    o.request.max_tokens = DEQ_MIN(max_tokens, positions - (uint32_t)o.prompt_tok);
    o.request.event = on_event;
    o.request.ignore_eos = true;
    o.request.cache = DEQ_CACHE_OFF;
    o.request.solve.window = window;
    return o;
}

static enum deq_rc open_engine(struct one *o, const struct bench_machine *m, const struct bench_texts *t,
                               struct deq_err *err)
{
    const uint32_t prompt = deq_prefill_window(o->request.solve.window, o->request.solve.prefill_window);
    const struct deq_engine_opts opts = {
        .threads = m->threads,
        .max_sequences = (uint32_t)o->streams,
        .max_rows = (uint32_t)DEQ_MAX(o->streams * DEQ_MAX(o->request.solve.window, prompt),
                                      (size_t)DEQ_ROW_WINDOW_MAX),
        .max_positions = (uint32_t)(o->prompt_tok + o->request.max_tokens + 64)};
    o->request.ctx = o;
    o->sent = o->begun = o->tokens = 0;
    return deq_engine_new(t->model, &opts, &o->engine, err);
}

static enum deq_rc submit(struct one *o, const struct bench_texts *t, struct deq_err *err)
{
    struct deq_tokens prompt = {0};
    enum deq_rc rc = make_prompt(t, o->sent, o->prompt_tok, &prompt, err);
    o->request.prompt = prompt.ids;
    o->request.n_prompt = prompt.n;
    o->request.sampling.seed = o->sent++;
    if (!rc)
        rc = deq_submit(o->engine, &o->request, NULL, err);
    deq_tokens_free(&prompt);
    return rc;
}

/* Whether what was done since is whole: some positions, and of a prompt none whose layers before the loop are all that
 * was done of it. */
static bool is_whole(const struct deq_engine_stats *since, const struct deq_engine_stats *now, bool prompt)
{
    const uint64_t positions = now->positions - since->positions;
    return positions && (!prompt || now->explicit_rows - since->explicit_rows <= positions);
}

/* Steps until `seconds` have passed and what was done is whole, or all sequences have ended or gone on for `tokens`
 * each; adds up what was done. */
static void go_on(struct one *o, const struct bench_machine *m, double seconds, uint64_t tokens)
{
    const struct deq_engine_stats a = deq_engine_stats(o->engine);
    const uint64_t end = o->tokens + tokens * o->streams;
    const double t = bench_now(m);
    double passed = 0;
    struct deq_engine_stats b = a;
    while (deq_active(o->engine) && (passed < seconds || !is_whole(&a, &b, !o->request.max_tokens)) &&
           o->tokens < end) {
        deq_step(o->engine);
        passed = bench_now(m) - t;
        if (passed >= seconds)
            b = deq_engine_stats(o->engine);
    }
    b = deq_engine_stats(o->engine);
    o->seconds += passed;
    o->steps += (double)(b.steps - a.steps);
    o->rows += (double)(b.rows - a.rows);
    o->positions += (double)(b.positions - a.positions);
    o->explicit_rows += (double)(b.explicit_rows - a.explicit_rows);
    o->coda_rows += (double)(b.coda_rows - a.coda_rows);
    o->head_rows += (double)(b.head_rows - a.head_rows);
    o->screen_rows += (double)(b.screen_rows - a.screen_rows);
}

/* Figures of one: what it is, then tokens a second and what a position took. */
static enum deq_rc append(json_t *list, struct one *o, json_t *figures, struct deq_err *err)
{
    const double n = o->positions;
    json_t *counts = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "tokens_per_s", bench_series_median(&o->rate),
                               "steps", o->steps / n, "evaluations", o->rows / n, "explicit_rows",
                               o->explicit_rows / n, "coda_rows", o->coda_rows / n, "head_rows", o->head_rows / n,
                               "screen_rows", o->screen_rows / n);
    const bool ok = figures && counts && !json_object_update(figures, counts);
    json_decref(counts);
    return json_array_append_new(list, figures) || !ok ? deq_fail(err, DEQ_ENOMEM, "no memory for figures") : DEQ_OK;
}

static json_t *finished(json_t *list, enum deq_rc rc)
{
    if (!rc)
        return list;
    json_decref(list);
    return NULL;
}

static unsigned rounds(const struct bench_machine *m)
{
    return DEQ_MAX(m->rounds / 3, 1u); /* a sample is long */
}

/* --- Generation --- */

enum { GENERATED_TOK = 512 /* the clock runs for the first half */ };

/* Every stream has solved its prompt before the clock starts. */
static enum deq_rc generate(struct one *o, const struct bench_machine *m, const struct bench_texts *t,
                            struct deq_err *err)
{
    enum deq_rc rc = open_engine(o, m, t, err);
    for (size_t i = 0; i < o->streams && !rc; i++)
        rc = submit(o, t, err);
    while (!rc && o->begun < o->streams && deq_active(o->engine))
        deq_step(o->engine);
    if (!rc) {
        const double seconds = o->seconds;
        const uint64_t tokens = o->tokens;
        go_on(o, m, t->quick ? 0.01 : 0.3, o->request.max_tokens / 2);
        bench_series_add(&o->rate, (double)(o->tokens - tokens) / (o->seconds - seconds));
    }
    deq_engine_free(o->engine);
    o->engine = NULL;
    return rc;
}

enum { STREAM_COUNTS = 6, WINDOWS = 6, GENERATIONS = STREAM_COUNTS * WINDOWS + 4 };

/* Temperature 0.8 on all numbers of streams and windows, or the ends alone; greedy on the ends. */
static size_t generations(const struct bench_texts *t, struct one *one)
{
    const uint32_t own = deq_model_info(t->model).window, windows[WINDOWS] = {1, 2, 4, 8, 16, own};
    const size_t step = t->brief ? STREAM_COUNTS - 1 : 1;
    size_t n = 0;
    for (size_t w = 0; w < WINDOWS; w++) {
        const bool known = w + 1 == WINDOWS && (own & (own - 1)) == 0 && own <= 16;
        for (size_t s = 0; s < STREAM_COUNTS && !known && !(t->brief && w && windows[w] != own); s += step) {
            one[n] = make_one(t, (size_t)1 << s, t->context, GENERATED_TOK, windows[w]);
            one[n++].request.sampling.temperature = 0.8f;
        }
    }
    for (size_t i = 0; i < (own > 1 ? 4 : 2); i++)
        one[n++] = make_one(t, i & 1 ? 32 : 1, t->context, GENERATED_TOK, i & 2 ? own : 1);
    return n;
}

/* All that was asked for. */
static size_t chosen(const struct bench_texts *t, struct one *one)
{
    static const struct cli_counts all_streams = {{1, 2, 4, 8, 16, 32}, 6}, all_windows = {{1, 2, 4, 8, 16}, 5};
    const struct cli_counts *streams = t->streams->n ? t->streams : &all_streams,
                            *windows = t->windows->n ? t->windows : &all_windows;
    size_t n = 0;
    for (int greedy = 0; greedy < 2; greedy++)
        for (size_t w = 0; w < windows->n; w++)
            for (size_t s = 0; s < streams->n; s++) {
                one[n] = make_one(t, streams->each[s], t->context, GENERATED_TOK, windows->each[w]);
                one[n++].request.sampling.temperature = greedy ? 0 : 0.8f;
            }
    return n;
}

json_t *bench_generation(struct bench_machine *m, const struct bench_texts *t, struct deq_err *err)
{
    const bool told = t->streams->n || t->windows->n;
    struct one *one = DEQ_NEW_ARRAY(struct one, told ? 2 * CLI_COUNTS_MAX * CLI_COUNTS_MAX : GENERATIONS);
    json_t *list = json_array();
    enum deq_rc rc = one && list ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory for figures");
    const size_t n = rc ? 0 : told ? chosen(t, one) : generations(t, one);
    for (unsigned r = 0; r < rounds(m); r++)
        for (size_t i = 0; i < n && !rc; i++) {
            cli_progress("%s: generation, round %u of %u, %zu streams, window %u", t->name, r + 1, rounds(m),
                         one[i].streams, one[i].request.solve.window);
            rc = generate(&one[i], m, t, err);
        }
    for (size_t i = 0; i < n && !rc; i++)
        rc = append(list, &one[i],
                    json_pack("{s:I, s:I, s:f}", "streams", (json_int_t)one[i].streams, "window",
                              (json_int_t)one[i].request.solve.window, "temperature",
                              (double)one[i].request.sampling.temperature),
                    err);
    deq_free(one);
    return finished(list, rc);
}

/* --- Prompts --- */

json_t *bench_prefill(struct bench_machine *m, const struct bench_texts *t, struct deq_err *err)
{
    enum { N = 7 };
    struct one one[N];
    json_t *list = json_array();
    enum deq_rc rc = list ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory for figures");
    for (size_t i = 0; i < N; i++) {
        one[i] = make_one(t, 1, t->quick ? 64 : PREFILL_TOK, 0, 1u << i);
        one[i].request.solve.prefill_window = 1u << i;
    }
    for (unsigned r = 0; r < rounds(m); r++)
        for (size_t i = 0; i < N && !rc; i++) {
            cli_progress("%s: prompts, round %u of %u, window %u", t->name, r + 1, rounds(m), 1u << i);
            const double seconds = one[i].seconds, positions = one[i].positions;
            rc = open_engine(&one[i], m, t, err);
            if (!rc && !(rc = submit(&one[i], t, err))) {
                go_on(&one[i], m, t->quick ? 0.01 : 2, 1);
                bench_series_add(&one[i].rate, (one[i].positions - positions) / (one[i].seconds - seconds));
            }
            deq_engine_free(one[i].engine);
            one[i].engine = NULL;
        }
    for (size_t i = 0; i < N && !rc; i++)
        rc = append(list, &one[i],
                    json_pack("{s:I, s:I}", "prompt", (json_int_t)one[i].prompt_tok, "window", (json_int_t)1 << i),
                    err);
    return finished(list, rc);
}

/* --- Evaluations a token --- */

/* All sentences one after the other, greedy; with their prompts. */
static enum deq_rc continue_all(struct one *o, const struct bench_machine *m, const struct bench_texts *t,
                                struct deq_err *err)
{
    enum deq_rc rc = open_engine(o, m, t, err);
    for (size_t i = 0; i < (t->quick ? 1 : SENTENCES) && !rc; i++) {
        rc = submit(o, t, err);
        if (!rc)
            go_on(o, m, INFINITY, UINT32_MAX);
    }
    bench_series_add(&o->rate, (double)o->tokens / o->seconds);
    deq_engine_free(o->engine);
    o->engine = NULL;
    return rc;
}

json_t *bench_depth(struct bench_machine *m, const struct bench_texts *t, struct deq_err *err)
{
    static const float tols[] = {1e-1f, 3e-2f, 1e-2f, 1e-3f};
    const struct deq_model_info info = deq_model_info(t->model);
    const bool starts[DEQ_WARM_COUNT] = {true, true, info.has_predictor, info.has_proposal};
    json_t *list = json_array();
    enum deq_rc rc = list ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory for figures");
    for (int warm = DEQ_WARM_ZERO; warm < DEQ_WARM_COUNT; warm++)
        for (size_t i = 0; i < DEQ_COUNT(tols) && starts[warm]; i++)
            for (uint32_t w = 1; w <= 16 && !rc; w *= 2) {
                struct one o = make_one(t, 1, 0, t->quick ? 4 : DEPTH_TOK, w);
                o.request.solve.prefill_window = 0;
                o.request.solve.tol = tols[i];
                o.request.solve.warm_start = (enum deq_warm)warm;
                o.request.solve.max_iter = 64;
                const char *start = deq_warm_name((enum deq_warm)warm);
                cli_progress("%s: depth, start %s, tol %g, window %u", t->name, start, (double)tols[i], w);
                rc = continue_all(&o, m, t, err);
                if (!rc)
                    rc = append(list, &o, json_pack("{s:s, s:f, s:I}", "start", start, "tol", (double)tols[i], "window",
                                                    (json_int_t)w), err);
            }
    return finished(list, rc);
}
