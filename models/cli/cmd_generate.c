/* deq generate: continues a prompt, streaming as the daemon would. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/stdio.h"
#include "core/base/utf8.h"
#include "core/deq.h"
#include "models/cli/solve_flags.h"

struct output {
    const struct deq_model *model;
    struct deq_text *text;
    struct deq_buf prompt, shown; /* prompt: as it is shown */
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
        (void)deq_stdio_flush();
    }
    return o->stopped || ferror(stdout) ? DEQ_STOP : DEQ_CONTINUE; /* nobody gets more of it; main says so */
}

struct flags {
    uint32_t max_tokens, top_k;
    float temperature, top_p, min_p;
    uint64_t seed;
    struct deq_args stops;
    struct solve_flags solve;
    bool ignore_eos, json;
};

#define AT(field) offsetof(struct flags, field)
static const struct deq_opt flags[] = {
    {"--max-tokens", DEQ_OPT_U32, AT(max_tokens), 1, 1 << 24, "100", NULL, "tokens to generate"},
    {"--temperature", DEQ_OPT_FLOAT, AT(temperature), 0, 100, "0", NULL, "0 is greedy"},
    {"--top-k", DEQ_OPT_U32, AT(top_k), 0, 1 << 24, "0", NULL, "keep the N most probable tokens; 0: all"},
    {"--top-p", DEQ_OPT_FLOAT, AT(top_p), 0, 1, "1", NULL,
     "keep the most probable tokens that hold X of the probability"},
    {"--min-p", DEQ_OPT_FLOAT, AT(min_p), 0, 1, "0", NULL, "keep tokens at least X times as probable as the first"},
    {"--seed", DEQ_OPT_U64, AT(seed), 0, 9007199254740992.0, "0", NULL, "same seed, same text"},
    {"--stop", DEQ_OPT_ARGS, AT(stops), 0, 16, NULL, "TEXT", "end before this text (repeatable)"},
    {"--ignore-eos", DEQ_OPT_BOOL, AT(ignore_eos), 0, 0, NULL, NULL, "go on past the end of a text"},
    SOLVE_FLAGS(AT(solve)),
    {"--json", DEQ_OPT_BOOL, AT(json), 0, 0, NULL, NULL, "print one JSON object"},
};

static const struct deq_command command = {.usage = "deq generate MODEL_DIR \"prompt\" [options]",
                                           .about = "Continues a prompt. Statistics go to standard error.",
                                           .flags = {flags, DEQ_COUNT(flags)}, .min_args = 2, .max_args = 2};

/* The stop strings as the library takes them: an empty one would end every text before it began. */
static enum deq_rc new_text(const struct deq_args *stops, struct deq_text **ret, struct deq_err *err)
{
    size_t lens[DEQ_ARGS_MAX];
    for (size_t i = 0; i < stops->n; i++)
        if (!(lens[i] = strlen(stops->item[i])))
            return deq_fail(err, DEQ_EINVAL, "--stop: the text is empty");
    return deq_text_new(stops->item, lens, stops->n, ret, err);
}

static enum deq_rc ask(const struct flags *f, const struct deq_model_info *i, struct deq_request *q,
                       struct deq_err *err)
{
    q->max_tokens = f->max_tokens;
    q->sampling.temperature = f->temperature;
    q->sampling.top_k = f->top_k;
    q->sampling.top_p = f->top_p;
    q->sampling.min_p = f->min_p;
    q->sampling.seed = f->seed;
    q->ignore_eos = f->ignore_eos;
    solve_flags_apply(&f->solve, i, &q->solve);
    if (q->solve.max_iter || q->solve.warm_start == DEQ_WARM_PROPOSAL)
        return DEQ_OK;
    return i->has_proposal ? deq_fail(err, DEQ_EINVAL, "--max-iter: 0 answers from the model's proposal, not from %s",
                                      deq_warm_name(q->solve.warm_start))
                           : deq_fail(err, DEQ_EINVAL, "--max-iter: 0 answers from a model's proposal, and this %s "
                                      "makes none", i->model_type);
}

/* An argument may be any bytes, and end within a character that the text goes on with. */
static void begin(struct output *o, const char *prompt)
{
    const size_t len = strlen(prompt), whole = o->json ? len : deq_utf8_complete(prompt, len);
    deq_utf8_sanitize(&o->prompt, prompt, whole);
    deq_text_begin(o->text, prompt + whole, len - whole);
    if (!o->json)
        fwrite(o->prompt.data, 1, o->prompt.len, stdout);
}

/* What is left of the text, and the statistics; the exit code. */
static int end(struct output *o, size_t n_prompt, const struct deq_engine_stats *st, double seconds)
{
    const size_t before = o->shown.len;
    const double per = o->tokens ? (double)o->tokens : 1, steps = (double)st->steps / (double)st->positions;
    if (!o->stopped)
        deq_text_end(o->text, &o->shown);
    if (o->json)
        return cli_print_json("generate",
                              json_pack("{s:s%, s:s%, s:s, s:i, s:i, s:f, s:f, s:o, s:b, s:f, s:f, s:f}",
                                        "prompt", o->prompt.data ? o->prompt.data : "", o->prompt.len,
                                        "text", o->shown.data ? o->shown.data : "", o->shown.len,
                                        "finish_reason", deq_finish_name(o->finish), "prompt_tokens", (int)n_prompt,
                                        "completion_tokens", (int)o->tokens,
                                        "evaluations_per_token", o->evaluations / per, "steps_per_token", steps,
                                        "residual_max", o->evaluations > 0 ? json_real(o->residual_max) : json_null(),
                                        "converged", o->converged == o->tokens,
                                        "seconds", seconds, "time_to_first_token_seconds", o->first_token_s,
                                        "tokens_per_second", per / seconds),
                              JSON_REAL_PRECISION(9));
    fwrite(o->shown.data + before, 1, o->shown.len - before, stdout);
    putchar('\n');
    (void)deq_stdio_flush(); /* the line's end before what follows, also where both go to one file */
    fprintf(stderr, "%zu tokens (%s), %.1f tokens/s, %.2f steps and %.2f evaluations a token", o->tokens,
            deq_finish_name(o->finish), per / seconds, steps, o->evaluations / per);
    if (o->evaluations > 0)
        fprintf(stderr, ", largest residual %.1e", o->residual_max);
    fputc('\n', stderr);
    return CLI_OK;
}

/* Solves q and prints; o receives the events. The exit code. */
static int run(const struct deq_model *model, struct deq_request *q, const char *prompt, unsigned threads,
               struct output *o)
{
    struct deq_engine *engine = NULL;
    struct deq_err err;
    const struct deq_engine_opts opts = {.threads = threads,
                                         .max_sequences = 1,
                                         .max_positions = (uint32_t)(q->n_prompt + q->max_tokens)};
    int code = CLI_FAIL;
    if (deq_engine_new(model, &opts, &engine, &err) || deq_submit(engine, q, NULL, &err)) {
        cli_fail("generate", err.text);
    } else {
        begin(o, prompt);
        o->started = deq_now_s();
        while (deq_active(engine))
            deq_step(engine);
        const double seconds = deq_now_s() - o->started;
        const struct deq_engine_stats st = deq_engine_stats(engine);
        code = end(o, q->n_prompt, &st, seconds);
        if (!code && o->finish == DEQ_FINISH_NUMERIC)
            code = cli_fail("generate", "the solver met values that are not finite");
    }
    deq_engine_free(engine);
    return code;
}

int cmd_generate(int argc, char **argv)
{
    const char *args[2];
    size_t n;
    struct flags f = {.solve = SOLVE_FLAGS_NONE};
    int code = cli_parse("generate", &command, argc, argv, &f, args, &n);
    if (code >= 0)
        return code;
    struct deq_err err;
    struct deq_model *model = NULL;
    struct deq_tokens tokens = {0};
    struct output o = {.json = f.json};
    deq_buf_init(&o.shown, (size_t)64 << 20);
    deq_buf_init(&o.prompt, (size_t)64 << 20);
    enum deq_rc rc = new_text(&f.stops, &o.text, &err);
    if (!rc)
        rc = solve_flags_load(&f.solve, args[0], &model, &err);
    if (!rc)
        rc = deq_encode(model, args[1], strlen(args[1]), false, &tokens, &err);
    if (!rc && !deq_begin_text(model, &tokens))
        rc = deq_fail(&err, DEQ_ENOMEM, "no memory for the prompt");
    if (!rc) {
        const struct deq_model_info info = deq_model_info(model);
        /* an empty prompt: the start of a document */
        const uint32_t start = info.start_id >= 0 ? (uint32_t)info.start_id : 0;
        struct deq_request q = deq_request_defaults(model);
        rc = ask(&f, &info, &q, &err);
        q.prompt = tokens.n ? tokens.ids : &start;
        q.n_prompt = tokens.n ? tokens.n : 1;
        if (info.max_positions > q.n_prompt) /* the text ends there */
            q.max_tokens = DEQ_MIN(q.max_tokens, info.max_positions - (uint32_t)q.n_prompt);
        q.event = on_event;
        q.ctx = &o;
        o.model = model;
        o.prev = q.prompt[q.n_prompt - 1];
        o.end = f.ignore_eos ? -1 : info.eos_id;
        if (!rc)
            code = run(model, &q, args[1], solve_flags_threads(&f.solve), &o);
    }
    if (rc)
        code = cli_fail("generate", err.text);
    deq_text_free(o.text);
    deq_buf_free(&o.shown);
    deq_buf_free(&o.prompt);
    deq_tokens_free(&tokens);
    deq_model_free(model);
    return code;
}
