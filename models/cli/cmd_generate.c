/* deq generate: continues a prompt, streaming as the daemon would. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/utf8.h"
#include "core/deq.h"
#include "models/cli/solve_flags.h"

struct output {
    const struct deq_model *model;
    struct deq_text *text;
    struct deq_buf shown;
    bool json, stopped;
    int64_t prev, end; /* the token that the text ends with; the one that ends it, -1: none does */
    size_t tokens, converged;
    double evaluations, residual_max, first_token_s, started;
    enum deq_finish finish;
};

static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    struct output *o = ctx;
    size_t n = 0, before = o->shown.len;
    if (e->kind == DEQ_EVENT_END) {
        o->finish = e->finish;
        return DEQ_CONTINUE;
    }
    if (e->kind != DEQ_EVENT_TOKEN)
        return DEQ_CONTINUE;
    if (!o->tokens++)
        o->first_token_s = deq_now_s() - o->started;
    o->evaluations += e->evaluations;
    o->converged += e->converged;
    o->residual_max = fmax(o->residual_max, (double)e->residual);
    const bool end = deq_token_is_special(o->model, e->token) && (int64_t)e->token == o->end;
    const char *bytes = end ? NULL : deq_token_text(o->model, o->prev, e->token, &n);
    if (bytes) {
        o->prev = e->token;
        o->stopped = deq_text_push(o->text, bytes, n, &o->shown) >= 0;
    }
    if (!o->json) {
        fwrite(o->shown.data + before, 1, o->shown.len - before, stdout);
        fflush(stdout);
    }
    return o->stopped || ferror(stdout) ? DEQ_STOP : DEQ_CONTINUE; /* nobody gets more of it; main says so */
}

static const char *finish_name(enum deq_finish f)
{
    return f == DEQ_FINISH_LENGTH ? "length" : f == DEQ_FINISH_NUMERIC ? "numeric_error" : "stop";
}

int cmd_generate(int argc, char **argv)
{
    const char *args[2], *max_tokens = "100", *temp = "0", *top_k = "0", *top_p = "1", *min_p = "0", *seed = "0", *stops[16];
    size_t n, n_stops = 0, stop_lens[16];
    struct solve_flags sf = {0};
    bool json = false, ignore_eos = false;
    const struct cli_flag flags[] = {
        {.name = "--max-tokens", .value = "N", .help = "tokens to generate (default: 100)", .text = &max_tokens},
        {.name = "--temperature", .value = "X", .help = "0 is greedy (default: 0)", .text = &temp},
        {.name = "--top-k", .value = "N", .help = "keep the N most probable tokens; 0: all", .text = &top_k},
        {.name = "--top-p", .value = "X", .help = "keep the most probable tokens that hold X of the probability", .text = &top_p},
        {.name = "--min-p", .value = "X", .help = "keep tokens at least X times as probable as the first", .text = &min_p},
        {.name = "--seed", .value = "N", .help = "same seed, same text (default: 0)", .text = &seed},
        {.name = "--stop", .value = "TEXT", .help = "end before this text (repeatable)", .list = stops, .list_max = 16, .list_n = &n_stops},
        {.name = "--ignore-eos", .help = "go on past the end of a text", .on = &ignore_eos},
        SOLVE_FLAGS(sf),
        {.name = "--json", .help = "print one JSON object", .on = &json},
    };
    const struct cli_command c = {.usage = "deq generate MODEL_DIR \"prompt\" [flags]",
                                  .about = "Continues a prompt. Statistics go to standard error.",
                                  .flags = flags, .n_flags = sizeof flags / sizeof *flags, .min_args = 2, .max_args = 2};
    int code = cli_parse(&c, argc, argv, args, &n);
    if (code >= 0)
        return code;
    struct deq_err err;
    struct deq_model *model = NULL;
    struct deq_engine *engine = NULL;
    struct deq_tokens tokens = {0};
    struct output o = {.json = json};
    double x;
    unsigned threads;
    code = CLI_FAIL;
    struct deq_buf prompt; /* as it is shown */
    deq_buf_init(&o.shown, (size_t)64 << 20);
    deq_buf_init(&prompt, (size_t)64 << 20);
    if (deq_model_load(args[0], &model, &err)) {
        cli_fail("generate", err.text);
        goto out;
    }
    struct deq_request q = deq_request_defaults(model);
    code = CLI_USAGE;
    if (!solve_flags_apply(&sf, &q.solve, &threads))
        goto out;
    if (!cli_number("--max-tokens", max_tokens, 1, 1 << 24, &x))
        goto out;
    q.max_tokens = (uint32_t)x;
    if (!cli_number("--temperature", temp, 0, 100, &x))
        goto out;
    q.sampling.temperature = (float)x;
    if (!cli_number("--top-k", top_k, 0, 1 << 24, &x))
        goto out;
    q.sampling.top_k = (uint32_t)x;
    if (!cli_number("--top-p", top_p, 0, 1, &x))
        goto out;
    q.sampling.top_p = (float)x;
    if (!cli_number("--min-p", min_p, 0, 1, &x))
        goto out;
    q.sampling.min_p = (float)x;
    if (!cli_number("--seed", seed, 0, 9007199254740992.0, &x))
        goto out;
    q.sampling.seed = (uint64_t)x;
    code = CLI_FAIL;
    for (size_t i = 0; i < n_stops; i++)
        if (!(stop_lens[i] = strlen(stops[i]))) {
            cli_fail("generate", "--stop: the text is empty");
            goto out;
        }
    const struct deq_model_info info = deq_model_info(model);
    if (deq_encode(model, args[1], strlen(args[1]), false, &tokens, &err) || deq_text_new(stops, stop_lens, n_stops, &o.text, &err)) {
        cli_fail("generate", err.text);
        goto out;
    }
    const uint32_t start = info.eos_id >= 0 ? (uint32_t)info.eos_id : 0; /* an empty prompt: the start of a document */
    o.model = model;
    q.prompt = tokens.n ? tokens.ids : &start;
    q.n_prompt = tokens.n ? tokens.n : 1;
    q.ignore_eos = ignore_eos;
    o.prev = q.prompt[q.n_prompt - 1];
    o.end = ignore_eos ? -1 : info.eos_id;
    q.event = on_event;
    q.ctx = &o;
    const struct deq_engine_opts opts = {.threads = threads, .max_sequences = 1, .max_positions = (uint32_t)(q.n_prompt + q.max_tokens)};
    if (deq_engine_new(model, &opts, &engine, &err) || deq_submit(engine, &q, NULL, &err)) {
        cli_fail("generate", err.text);
        goto out;
    }
    /* an argument may be any bytes, and end within a character that the text goes on with */
    const size_t len = strlen(args[1]), whole = json ? len : deq_utf8_complete(args[1], len);
    deq_utf8_sanitize(&prompt, args[1], whole);
    deq_text_begin(o.text, args[1] + whole, len - whole);
    if (!json)
        fwrite(prompt.data, 1, prompt.len, stdout);
    o.started = deq_now_s();
    while (deq_active(engine))
        deq_step(engine);
    const double seconds = deq_now_s() - o.started;
    const size_t before = o.shown.len;
    if (!o.stopped)
        deq_text_end(o.text, &o.shown);
    const struct deq_engine_stats st = deq_engine_stats(engine);
    const double per = o.tokens ? (double)o.tokens : 1;
    if (json) {
        json_t *r = json_pack("{s:s%, s:s%, s:s, s:i, s:i, s:f, s:f, s:f, s:b, s:f, s:f, s:f}", "prompt", prompt.data ? prompt.data : "",
                              prompt.len, "text", o.shown.data ? o.shown.data : "", o.shown.len, "finish_reason", finish_name(o.finish), "prompt_tokens",
                              (int)q.n_prompt, "completion_tokens", (int)o.tokens, "evaluations_per_token", o.evaluations / per,
                              "steps_per_token", (double)st.steps / (double)st.positions, "residual_max", o.residual_max, "converged",
                              o.converged == o.tokens, "seconds", seconds, "time_to_first_token_seconds", o.first_token_s,
                              "tokens_per_second", per / seconds);
        if (cli_print_json("generate", r, JSON_REAL_PRECISION(9)))
            goto out;
    } else {
        fwrite(o.shown.data + before, 1, o.shown.len - before, stdout);
        putchar('\n');
        fprintf(stderr, "%zu tokens (%s), %.1f tokens/s, %.2f steps and %.2f evaluations a token, largest residual %.1e\n", o.tokens,
                finish_name(o.finish), per / seconds, (double)st.steps / (double)st.positions, o.evaluations / per, o.residual_max);
    }
    if (o.finish == DEQ_FINISH_NUMERIC)
        cli_fail("generate", "the solver met values that are not finite");
    else
        code = CLI_OK;
out:
    deq_engine_free(engine);
    deq_text_free(o.text);
    deq_buf_free(&o.shown);
    deq_buf_free(&prompt);
    deq_tokens_free(&tokens);
    deq_model_free(model);
    return code;
}
