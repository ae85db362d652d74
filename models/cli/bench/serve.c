/* deq bench serve: loads a completions endpoint that streams server-sent events, and measures it.
 *
 * The metrics are those of `vllm bench serve`, so that figures of both can stand side by side:
 *   TTFT  start -> first chunk with a choice
 *   ITL   every gap between such chunks, the closing one without text included
 *   E2EL  start -> last such chunk
 *   TPOT  (E2EL - TTFT) / (output tokens - 1), of requests with more than one token
 * over successful requests only: status 200, at least one chunk, data: [DONE] last. Percentiles interpolate linearly,
 * std divides by n. max_output_tokens_per_s counts chunks, as there; output tokens come from the usage chunk. Latencies
 * count from the *scheduled* arrival in open loop, where vLLM's count from the sending (see load.h). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/deq.h"
#include "models/cli/bench/bench.h"
#include "models/cli/bench/load.h"
#include "models/cli/bench/prompts.h"
#include "models/cli/cli.h"

struct wanted {
    bool json, has_goodput;
    struct bench_goodput goodput;
    double percentiles[BENCH_PERCENTILES_MAX]; /* ascending */
    size_t n_percentiles;
};

/* --- Report --- */

enum { TTFT, TPOT, ITL, E2EL, N_METRICS };
static const struct {
    const char *key, *head, *name;
} metrics[N_METRICS] = {{"ttft", "Time to first token", "TTFT"},
                        {"tpot", "Time per output token (without the first)", "TPOT"},
                        {"itl", "Inter-token latency", "ITL"},
                        {"e2el", "End-to-end latency", "E2EL"}};

struct figures {
    double *x[N_METRICS]; /* ms, sorted */
    size_t n[N_METRICS];
    size_t input, output, good, peak_open, peak_second;
    double evaluations, residual_max; /* NaN: the server told none */
    double refusal_mean_ms, refusal_max_ms;
};

static bool measure(const struct bench *b, const struct wanted *w, struct figures *f)
{
    size_t chunks = 0, n = 0;
    double solved = 0, evaluations = 0, first = INFINITY, refusals = 0;
    for (size_t i = 0; i < b->sent; i++)
        chunks += b->call[i].success ? b->call[i].n_chunks : 0;
    double *starts = DEQ_NEW_ARRAY(double, b->sent), *ends = DEQ_NEW_ARRAY(double, b->sent),
           *times = DEQ_NEW_ARRAY(double, chunks);
    bool ok = starts && ends && times;
    for (size_t m = 0; m < N_METRICS; m++)
        ok = (f->x[m] = DEQ_NEW_ARRAY(double, m == ITL ? chunks : b->sent)) && ok;
    f->residual_max = NAN;
    chunks = 0;
    for (size_t i = 0; ok && i < b->sent; i++) {
        const struct bench_call *c = &b->call[i];
        if (c->refused) {
            refusals += c->end - c->start;
            f->refusal_max_ms = fmax(f->refusal_max_ms, 1e3 * (c->end - c->start));
        }
        if (!c->success)
            continue;
        const size_t tokens = c->output_tokens ? c->output_tokens : c->text_chunks;
        const double ttft = 1e3 * (c->chunk[0] - c->start), e2el = 1e3 * (c->chunk[c->n_chunks - 1] - c->start);
        /* 0 for goodput, as in vLLM; of no weight in the mean */
        const double tpot = tokens > 1 ? (e2el - ttft) / (double)(tokens - 1) : 0;
        f->x[TTFT][f->n[TTFT]++] = ttft;
        f->x[E2EL][f->n[E2EL]++] = e2el;
        if (tokens > 1)
            f->x[TPOT][f->n[TPOT]++] = tpot;
        for (size_t k = 0; k < c->n_chunks; k++) {
            times[chunks++] = c->chunk[k];
            if (k)
                f->x[ITL][f->n[ITL]++] = 1e3 * (c->chunk[k] - c->chunk[k - 1]);
        }
        f->good += ttft <= w->goodput.ttft_ms && tpot <= w->goodput.tpot_ms && e2el <= w->goodput.e2el_ms;
        f->input += c->input_tokens ? c->input_tokens : b->set.input_len;
        f->output += tokens;
        if (!isnan(c->iters_mean)) {
            solved += (double)tokens;
            evaluations += c->iters_mean * (double)tokens;
            f->residual_max = fmax(f->residual_max, c->residual_max);
        }
        starts[n] = c->start;
        ends[n++] = c->chunk[c->n_chunks - 1];
        first = fmin(first, c->start);
    }
    if (ok) {
        for (size_t m = 0; m < N_METRICS; m++)
            bench_sort(f->x[m], f->n[m]);
        bench_sort(times, chunks);
        f->peak_open = bench_peak_open(starts, ends, n);
        f->peak_second = bench_peak_second(times, chunks, first);
        f->evaluations = solved > 0 ? evaluations / solved : NAN;
        f->refusal_mean_ms = b->refused ? 1e3 * refusals / (double)b->refused : 0;
    }
    deq_free(starts);
    deq_free(ends);
    deq_free(times);
    return ok;
}

/* JSON has no other numbers: "inf" as vLLM writes it, null for what was not told. */
static json_t *real(double x)
{
    return isfinite(x) ? json_real(x) : isnan(x) ? json_null() : json_string("inf");
}

/* Keys as vLLM's result file has them; ours come after. */
static bool print_json(const struct bench *b, const struct wanted *w, const struct figures *f)
{
    const struct bench_settings *s = &b->set;
    const double d = b->duration;
    json_t *r = json_pack("{s:s, s:I, s:o, s:o, s:o, s:I, s:f, s:I, s:I, s:I, s:I}", "model_id", b->model,
                          "num_prompts", (json_int_t)s->n, "request_rate", real(s->rate),
                          "burstiness", real(s->burstiness),
                          "max_concurrency", s->concurrency ? json_integer((json_int_t)s->concurrency) : json_null(),
                          "seed", (json_int_t)s->seed, "duration", d, "completed", (json_int_t)b->ok,
                          "failed", (json_int_t)b->failed, "total_input_tokens", (json_int_t)f->input,
                          "total_output_tokens", (json_int_t)f->output);
    json_t *more = json_pack("{s:f, s:o, s:f, s:f, s:f, s:I, s:I, s:I, s:f, s:f, s:o, s:o}",
                             "request_throughput", (double)b->ok / d,
                             "request_goodput", w->has_goodput ? json_real((double)f->good / d) : json_null(),
                             "output_throughput", (double)f->output / d,
                             "total_token_throughput", (double)(f->input + f->output) / d,
                             "max_output_tokens_per_s", (double)f->peak_second,
                             "max_concurrent_requests", (json_int_t)f->peak_open,
                             "unfinished", (json_int_t)(s->n - b->ok - b->failed), "rejected", (json_int_t)b->refused,
                             "refusal_mean_ms", f->refusal_mean_ms, "refusal_max_ms", f->refusal_max_ms,
                             "evaluations_per_token", real(f->evaluations), "residual_max", real(f->residual_max));
    json_t *kinds = json_object();
    bool ok = r && more && kinds && !json_object_update(r, more);
    for (size_t k = 0; ok && k < b->n_kinds; k++)
        ok = !json_object_set_new(kinds, b->kind[k].name, json_integer((json_int_t)b->kind[k].n));
    ok = ok && !json_object_set(r, "errors_by_kind", kinds);
    for (size_t m = 0; ok && m < N_METRICS; m++) {
        char key[64];
        double mean, std;
        bench_mean_std(f->x[m], f->n[m], &mean, &std);
        const double median = bench_percentile(f->x[m], f->n[m], 50);
        snprintf(key, sizeof key, "mean_%s_ms", metrics[m].key);
        ok = !json_object_set_new(r, key, json_real(mean));
        snprintf(key, sizeof key, "median_%s_ms", metrics[m].key);
        ok = ok && !json_object_set_new(r, key, json_real(median));
        snprintf(key, sizeof key, "std_%s_ms", metrics[m].key);
        ok = ok && !json_object_set_new(r, key, json_real(std));
        for (size_t k = 0; ok && k < w->n_percentiles; k++) {
            snprintf(key, sizeof key, "p%g_%s_ms", w->percentiles[k], metrics[m].key);
            ok = !json_object_set_new(r, key, json_real(bench_percentile(f->x[m], f->n[m], w->percentiles[k])));
        }
    }
    char *text = deq_json_text(ok ? r : NULL, JSON_REAL_PRECISION(9));
    ok = text && puts(text) != EOF;
    free(text); /* jansson's */
    json_decref(kinds);
    json_decref(more);
    json_decref(r);
    return ok;
}

static void print_table(const struct bench *b, const struct wanted *w, const struct figures *f)
{
    const double d = b->duration;
    /* cppcheck-suppress invalidPrintfArgType_uint; set.n is a size_t */
    printf("%-44s %zu of %zu\n", "Successful requests", b->ok, b->set.n);
    printf("%-44s %zu, of these refused (429) %zu\n", "Failed requests", b->failed, b->refused);
    if (b->set.n > b->ok + b->failed)
        printf("%-44s %zu\n", "Unfinished requests", b->set.n - b->ok - b->failed);
    printf("%-44s %.2f\n%-44s %zu\n%-44s %zu\n", "Duration (s)", d, "Input tokens", f->input, "Output tokens",
           f->output);
    printf("%-44s %.2f\n", "Request throughput (requests/s)", (double)b->ok / d);
    if (w->has_goodput)
        printf("%-44s %.2f\n", "Request goodput (requests/s)", (double)f->good / d);
    printf("%-44s %.1f\n%-44s %.1f\n", "Output token throughput (tokens/s)", (double)f->output / d,
           "Total token throughput (tokens/s)", (double)(f->input + f->output) / d);
    printf("%-44s %zu\n%-44s %zu\n", "Most output tokens in a second", f->peak_second, "Most concurrent requests",
           f->peak_open);
    if (!isnan(f->evaluations))
        printf("%-44s %.2f\n%-44s %.1e\n", "Evaluations a token", f->evaluations, "Largest residual", f->residual_max);
    if (b->refused)
        printf("%-44s %.2f, at most %.2f\n", "Latency of refusals (ms), mean", f->refusal_mean_ms, f->refusal_max_ms);
    for (size_t m = 0; m < N_METRICS; m++) {
        double mean, std;
        bench_mean_std(f->x[m], f->n[m], &mean, &std);
        printf("%s, %s (ms)\n  mean %.2f  median %.2f  std %.2f", metrics[m].head, metrics[m].name, mean,
               bench_percentile(f->x[m], f->n[m], 50), std);
        for (size_t k = 0; k < w->n_percentiles; k++)
            printf("  p%g %.2f", w->percentiles[k], bench_percentile(f->x[m], f->n[m], w->percentiles[k]));
        putchar('\n');
    }
}

/* --- Flags --- */

static bool set_url(struct bench *b, const char *text)
{
    size_t n = strlen(text);
    while (n && text[n - 1] == '/')
        n--;
    if (n > 3 && !memcmp(text + n - 3, "/v1", 3))
        n -= 3;
    if ((strncmp(text, "http://", 7) && strncmp(text, "https://", 8)) || n < 8 || n >= sizeof b->url)
        return false;
    snprintf(b->url, sizeof b->url, "%.*s", (int)n, text);
    return true;
}

static bool good_key(const char *key)
{
    for (const char *k = key; k && *k; k++)
        if (*k <= ' ' || *k > '~' || k - key >= 512)
            return false;
    return true;
}

struct flags {
    struct bench_settings set;
    const char *goodput, *percentiles;
    bool json;
};

#define AT(field) offsetof(struct flags, field)
static const struct deq_opt flags[] = {
    {"--num-prompts", DEQ_OPT_U64, AT(set.n), 1, BENCH_PROMPTS_MAX, "200", NULL, "requests to send"},
    {"--request-rate", DEQ_OPT_DOUBLE, AT(set.rate), 1e-6, INFINITY, "inf", NULL,
     "arrivals a second; inf: all at once"},
    {"--burstiness", DEQ_OPT_DOUBLE, AT(set.burstiness), 1e-6, INFINITY, "1", NULL,
     "gamma shape of the gaps: 1 is Poisson, less comes in bursts, inf is even"},
    {"--max-concurrency", DEQ_OPT_U64, AT(set.concurrency), 1, BENCH_PROMPTS_MAX, NULL, NULL,
     "at most N open; latencies then count from the sending"},
    {"--input-len", DEQ_OPT_U64, AT(set.input_len), 1, BENCH_LEN_MAX, "32", NULL, "tokens of a prompt"},
    {"--output-len", DEQ_OPT_U64, AT(set.output_len), 1, BENCH_LEN_MAX, "64", NULL, "max_tokens, with ignore_eos"},
    {"--text", DEQ_OPT_ARG, AT(set.text), 0, 0, NULL, "FILE",
     "cut prompts from this text, else they are random token ids"},
    {"--temperature", DEQ_OPT_DOUBLE, AT(set.temperature), 0, 100, "0", NULL, "0 is greedy"},
    {"--window", DEQ_OPT_U32, AT(set.window), 1, DEQ_ROW_WINDOW_MAX, NULL, NULL, "the request's deq.window"},
    {"--tol", DEQ_OPT_DOUBLE, AT(set.tol), 1e-7, 10, NULL, NULL, "the request's deq.tol"},
    {"--api-key", DEQ_OPT_ARG, AT(set.api_key), 0, 0, NULL, "KEY",
     "bearer token; better in the environment as DEQ_API_KEY"},
    {"--model", DEQ_OPT_ARG, AT(set.model), 0, 0, NULL, "NAME", "else the first of /v1/models"},
    {"--seed", DEQ_OPT_U64, AT(set.seed), 0, 9007199254740992.0, "0", NULL, "same seed, same prompts and arrivals"},
    {"--timeout-ms", DEQ_OPT_U32, AT(set.timeout_ms), 1, 86400000, "600000", NULL, "for one request, whole"},
    {"--goodput", DEQ_OPT_ARG, AT(goodput), 0, 0, NULL, "LIMITS",
     "\"ttft:MS tpot:MS e2el:MS\", any of them: requests a second within all"},
    {"--percentiles", DEQ_OPT_ARG, AT(percentiles), 0, 0, "50,90,95,99", "LIST", "ascending"},
    {"--json", DEQ_OPT_BOOL, AT(json), 0, 0, NULL, NULL, "print one JSON object, with vLLM's keys"},
};

static const struct deq_command command = {
    .usage = "deq bench serve URL [options]",
    .about = "Sends completions to a server at a given rate and measures the streams, with the definitions of "
             "`vllm bench serve`. Ctrl-C prints what was measured so far. Exit status 0 when requests succeeded and "
             "none failed but by 429.",
    .flags = {flags, DEQ_COUNT(flags)},
    .min_args = 1,
    .max_args = 1,
};

/* What the table cannot say. -1 to go on, else the exit code. */
static int check_flags(const struct flags *f, struct wanted *w)
{
    if (!good_key(f->set.api_key))
        return cli_usage("bench", "--api-key: must be at most 512 printable characters without spaces");
    if (f->set.model && !deq_utf8_valid(f->set.model, strlen(f->set.model)))
        return cli_usage("bench", "--model: is not UTF-8");
    if (f->goodput && !bench_goodput_parse(f->goodput, &w->goodput))
        return cli_usage("bench",
                         "--goodput: \"%s\" is not like \"ttft:200 tpot:20 e2el:5000\" "
                         "(milliseconds; any of the three)",
                         f->goodput);
    if (!bench_percentiles_parse(f->percentiles, w->percentiles, BENCH_PERCENTILES_MAX, &w->n_percentiles))
        return cli_usage("bench", "--percentiles: \"%s\" is not like 50,90,99.9 (ascending, 0 to 100, at most %d)",
                         f->percentiles, BENCH_PERCENTILES_MAX);
    return -1;
}

int bench_serve(int argc, char **argv)
{
    const char *url;
    size_t n_args;
    struct flags flag = {.set.api_key = getenv("DEQ_API_KEY")};
    int code = cli_parse("bench", &command, argc, argv, &flag, &url, &n_args);
    if (code >= 0)
        return code;
    struct bench b = {.epoll = -1, .set = flag.set};
    struct wanted w = {.json = flag.json, .has_goodput = flag.goodput, .goodput = {INFINITY, INFINITY, INFINITY}};
    if (b.set.api_key && !*b.set.api_key)
        b.set.api_key = NULL;
    if (!set_url(&b, url))
        return cli_usage("bench", "URL: \"%s\" is not like http://127.0.0.1:8080", url);
    if ((code = check_flags(&flag, &w)) >= 0)
        return code;
    struct figures f = {0};
    if (!bench_load_start())
        return cli_fail("bench", "libcurl does not start");
    code = CLI_FAIL;
    if (!bench_load_prepare(&b) || !bench_prompts_make(&b)) {
        cli_fail("bench", b.err.text);
        goto out;
    }
    bench_load_run(&b);
    if (!measure(&b, &w, &f)) {
        cli_fail("bench", "out of memory");
        goto out;
    }
    for (size_t k = 0; k < b.n_kinds; k++)
        fprintf(stderr, "%s, %zu times; the first: %s\n", b.kind[k].name, b.kind[k].n, b.kind[k].first.text);
    if (!w.json)
        print_table(&b, &w, &f);
    const bool printed = !w.json || print_json(&b, &w, &f);
    if (b.err.code || !printed)
        cli_fail("bench", b.err.code ? b.err.text : "the JSON could not be made or written");
    else if (b.ok && b.failed == b.refused)
        code = CLI_OK;
out:
    for (size_t m = 0; m < N_METRICS; m++)
        deq_free(f.x[m]);
    bench_load_free(&b);
    bench_load_stop();
    return code;
}
