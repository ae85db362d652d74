/* deq eval: by default the text goes through the row engine as one stream; every token is predicted once, from all the
 * context that the window allows; with --tgt-len it is read as the DEQ authors' evaluation reads it (eval_segments.c).
 * A document's first token is predicted from the token that begins it, or else from the end-of-text token before it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/deq.h"
#include "core/text/corpus.h"
#include "models/cli/eval_segments.h"

struct score {
    const struct deq_tokens *tokens;
    size_t begin; /* of the piece that is read: a model with a limit of positions reads one after the other */
    uint32_t vocab_size;
    double nats;
    size_t scored, not_converged;
    double residual_max;
    double started;
    bool failed;
};

static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    struct score *s = ctx;
    if (e->kind == DEQ_EVENT_END) {
        s->failed = e->finish == DEQ_FINISH_NUMERIC;
        return DEQ_CONTINUE;
    }
    s->residual_max = fmax(s->residual_max, (double)e->residual);
    s->not_converged += !e->converged;
    const size_t next = s->begin + e->position + 1;
    if (next < s->tokens->n) {
        const struct deq_log_normaliser n = deq_log_normaliser(e->logits, s->vocab_size);
        s->nats -= (double)deq_logprob(&n, e->logits[s->tokens->ids[next]]);
        s->scored++;
        if (s->scored % 256 == 0) {
            const double t = deq_now_s() - s->started,
                         left = t / (double)s->scored * (double)(s->tokens->n - 1 - s->scored);
            cli_progress("%zu of %zu tokens  %.4f nats a token  %.0f tok/s  ETA %.0f s", s->scored, s->tokens->n - 1,
                         s->nats / (double)s->scored, (double)s->scored / t, left);
        }
    }
    return DEQ_CONTINUE;
}

struct flags {
    struct solve_flags solve;
    struct segment_flags segments;
    uint64_t limit;
    const char *evaluations;
    bool json;
};

#define AT(field) offsetof(struct flags, field)
static const struct deq_opt flags[] = {
    SOLVE_FLAGS(AT(solve)),
    SEGMENT_FLAGS(AT(segments)),
    {"--limit", DEQ_OPT_U64, AT(limit), 2, 1e12, "1000000000000", NULL, "the first N tokens of the text only"},
    {"--evaluations", DEQ_OPT_ARG, AT(evaluations), 0, 0, NULL, "N,N,...",
     "a table: loss with exactly so many evaluations a position, whatever the residual, in window 1; 0: of where "
     "states begin, a proposal or zero"},
    {"--json", DEQ_OPT_BOOL, AT(json), 0, 0, NULL, NULL, "print one JSON object"},
};

static const struct deq_command command = {
    .usage = "deq eval MODEL_DIR TEXT_FILE [options]",
    .about = "Perplexity of a text, in one stream; of a model with a limit of positions in pieces of that length, each "
             "read afresh. A line that is exactly <|endoftext|> separates documents and counts as one token, but not "
             "as text: bits_per_byte divides by the documents' bytes.",
    .flags = {flags, DEQ_COUNT(flags)},
    .min_args = 2,
    .max_args = 2,
};

/* bos doc eos bos doc eos ..., of a model without a bos after one eos (token 0 of a model without that too would be
 * scored from nothing, so it only starts the stream); at most `limit` tokens. *ret_bytes: of the text that they
 * stand for. */
static enum deq_rc read_tokens(const struct deq_model *model, const char *path, uint64_t limit,
                               struct deq_tokens *tokens, uint64_t *ret_bytes, struct deq_err *err)
{
    const struct deq_model_info info = deq_model_info(model);
    const int64_t bos = info.bos_id, eos = info.eos_id;
    char *text;
    const char *doc;
    size_t len, at = 0, doc_len;
    uint64_t bytes = 0;
    enum deq_rc rc = deq_text_read(path, (size_t)1 << 30, &text, &len, err);
    if (rc)
        return rc;
    bool room = bos >= 0 || eos < 0 || deq_tokens_push(tokens, (uint32_t)eos);
    while (!rc && room && deq_corpus_next(text, len, &at, &doc, &doc_len)) {
        room = bos < 0 || deq_tokens_push(tokens, (uint32_t)bos);
        rc = deq_encode(model, doc, doc_len, false, tokens, err);
        room = room && (eos < 0 || deq_tokens_push(tokens, (uint32_t)eos));
        bytes += doc_len;
    }
    deq_free(text);
    if (!rc && !room)
        rc = deq_fail(err, DEQ_ENOMEM, "no memory for the tokens");
    if (!rc && tokens->n > limit) {
        tokens->n = (size_t)limit;
        bytes = 0;
        for (size_t i = 1; i < tokens->n; i++) {
            size_t k = 0;
            if ((int64_t)tokens->ids[i] != eos && (int64_t)tokens->ids[i] != bos &&
                deq_token_bytes(model, tokens->ids[i], &k))
                bytes += k;
        }
    }
    if (!rc && (tokens->n < 2 || !bytes))
        rc = deq_fail(err, DEQ_EINVAL, "the text is empty");
    *ret_bytes = bytes;
    return rc;
}

/* --- A run, and what it found --- */

struct result {
    size_t tokens, not_converged;
    uint64_t bytes;
    double nll, bits_per_byte, evaluations, steps, residual_max, seconds; /* nats, evaluations, steps a token */
};

/* The text read as p says. */
static enum deq_rc run(const struct deq_model *model, unsigned threads, const struct deq_solve_params *p,
                       const struct deq_tokens *tokens, uint64_t bytes, struct result *ret, struct deq_err *err)
{
    struct deq_engine *engine;
    const struct deq_model_info info = deq_model_info(model);
    struct score s = {.tokens = tokens, .vocab_size = info.vocab_size};
    const size_t n_read = tokens->n - 1; /* the last token is predicted, not read */
    const size_t piece = info.max_positions ? DEQ_MIN(info.max_positions, n_read) : n_read;
    const struct deq_engine_opts opts = {.threads = threads, .max_sequences = 1,
                                         .max_positions = (uint32_t)tokens->n};
    struct deq_request q = deq_request_defaults(model);
    q.solve = *p;
    q.max_tokens = 0;
    q.want_prompt = true;
    q.event = on_event;
    q.ctx = &s;
    enum deq_rc rc = deq_engine_new(model, &opts, &engine, err);
    if (rc)
        return rc;
    s.started = deq_now_s();
    for (; s.begin < n_read && !rc && !s.failed; s.begin += piece) {
        q.prompt = tokens->ids + s.begin;
        q.n_prompt = DEQ_MIN(piece, n_read - s.begin);
        rc = deq_submit(engine, &q, NULL, err);
        while (deq_active(engine))
            deq_step(engine);
    }
    if (!rc) {
        const double seconds = deq_now_s() - s.started, n = (double)s.scored;
        const struct deq_engine_stats st = deq_engine_stats(engine);
        cli_progress_end();
        if (s.failed || s.scored != tokens->n - 1)
            rc = deq_fail(err, DEQ_ENUMERIC, "the solver met values that are not finite");
        else
            *ret = (struct result){s.scored, s.not_converged, bytes, s.nats / n, s.nats / log(2.0) / (double)bytes,
                                   (double)st.rows / (double)st.positions, (double)st.steps / (double)st.positions,
                                   s.residual_max, seconds};
    }
    deq_engine_free(engine);
    return rc;
}

/* As JSON knows it. */
static const char *perplexity_of(const struct result *r, char ret[32])
{
    snprintf(ret, 32, isfinite(exp(r->nll)) ? "%.6f" : "null", exp(r->nll));
    return ret;
}

/* Without an evaluation there is none. */
static const char *residual_of(const struct result *r, const struct deq_solve_params *p, char ret[32])
{
    snprintf(ret, 32, p->max_iter ? "%.6g" : "null", r->residual_max);
    return ret;
}

static void print(const struct result *r, const struct deq_solve_params *p, enum deq_class numeric, bool json)
{
    char perplexity[32], residual[32];
    residual_of(r, p, residual);
    if (json)
        printf("{\"tokens\": %zu, \"bytes\": %llu, \"nll_per_token\": %.6f, \"perplexity\": %s, "
               "\"bits_per_byte\": %.6f, \"evaluations_per_token\": %.4f, \"steps_per_token\": %.4f, "
               "\"residual_max\": %s, \"not_converged\": %zu, \"seconds\": %.3f, \"tokens_per_second\": %.1f, "
               "\"tol\": %g, \"max_iter\": %u, \"solver\": \"%s\", \"window\": %u, \"warm_start\": \"%s\", "
               "\"numeric_class\": \"%s\"}\n",
               r->tokens, (unsigned long long)r->bytes, r->nll, perplexity_of(r, perplexity), r->bits_per_byte,
               r->evaluations, r->steps, residual, r->not_converged, r->seconds,
               (double)r->tokens / r->seconds, (double)p->tol, p->max_iter, deq_solver_name(p->solver),
               deq_prefill_window(p->window, p->prefill_window), deq_warm_name(p->warm_start),
               deq_class_name(numeric));
    else
        printf("tokens               %zu (%llu bytes)\nnats a token         %.4f\n"
               "perplexity           %.3f\nbits a byte          %.4f\n"
               "evaluations a token  %.2f (%.2f steps)\nlargest residual     %s (%zu above tol)\n"
               "seconds              %.1f (%.0f tokens/s)\nnumeric class        %s\n",
               r->tokens, (unsigned long long)r->bytes, r->nll, exp(r->nll), r->bits_per_byte, r->evaluations,
               r->steps, residual, r->not_converged, r->seconds, (double)r->tokens / r->seconds,
               deq_class_name(numeric));
}

/* --- Loss against a fixed number of evaluations --- */

/* What the number of evaluations leaves nothing to say of; NULL: nothing of it was given. */
static const char *against_budgets(const struct flags *f)
{
    const struct solve_flags *s = &f->solve;
    return s->tol >= 0           ? "--tol"
           : s->preset >= 0      ? "--preset"
           : s->max_iter != UINT32_MAX ? "--max-iter"
           : s->window           ? "--window"
           : s->prefill_window   ? "--prefill-window"
           : f->segments.tgt_len ? "--tgt-len"
                                 : NULL;
}

static void print_budgets_json(const struct result *r, const struct cli_counts *b, const struct deq_solve_params *p,
                               enum deq_class numeric)
{
    char perplexity[32];
    printf("{\"tokens\": %zu, \"bytes\": %llu, \"numeric_class\": \"%s\", \"solver\": \"%s\", \"warm_start\": \"%s\", "
           "\"budgets\": [", r->tokens, (unsigned long long)r->bytes, deq_class_name(numeric),
           deq_solver_name(p->solver), deq_warm_name(p->warm_start));
    for (size_t i = 0; i < b->n; i++)
        printf("%s{\"evaluations\": %u, \"nll_per_token\": %.6f, \"bits_per_byte\": %.6f, \"perplexity\": %s, "
               "\"tokens_per_second\": %.1f}", i ? ", " : "", b->each[i], r[i].nll, r[i].bits_per_byte,
               perplexity_of(&r[i], perplexity), (double)r[i].tokens / r[i].seconds);
    printf("]}\n");
}

/* Each budget is a run of its own: a position is solved behind others that were given as much. */
static enum deq_rc run_budgets(const struct deq_model *model, const struct flags *f, const struct cli_counts *b,
                               const struct deq_tokens *tokens, uint64_t bytes, struct deq_err *err)
{
    const struct deq_model_info info = deq_model_info(model);
    struct deq_solve_params p = deq_request_defaults(model).solve;
    struct result r[CLI_COUNTS_MAX] = {{0}};
    solve_flags_apply(&f->solve, &info, &p);
    p.window = 1;
    p.prefill_window = 0;
    for (size_t i = 0; i < b->n; i++)
        if (!b->each[i] && !deq_warm_is_fixed(p.warm_start))
            return deq_fail(err, DEQ_EINVAL, "--evaluations: 0 reads out where states begin, which is a proposal's or "
                            "zero, not %s's: leave it out, or add --warm-start zero", deq_warm_name(p.warm_start));
    if (!f->json)
        printf("%zu tokens (%llu bytes), %s, %s from %s\nevaluations  nats a token  bits a byte   perplexity  "
               "tokens/s\n", tokens->n - 1, (unsigned long long)bytes, deq_class_name(info.numeric),
               deq_solver_name(p.solver), deq_warm_name(p.warm_start));
    for (size_t i = 0; i < b->n; i++) {
        p.max_iter = p.min_iter = b->each[i];
        const enum deq_rc rc = run(model, solve_flags_threads(&f->solve), &p, tokens, bytes, &r[i], err);
        if (rc)
            return rc;
        if (!f->json)
            printf("%11u  %12.4f  %11.4f  %11.3f  %8.0f\n", b->each[i], r[i].nll, r[i].bits_per_byte, exp(r[i].nll),
                   (double)r[i].tokens / r[i].seconds);
        fflush(stdout);
    }
    if (f->json)
        print_budgets_json(r, b, &p, info.numeric);
    return DEQ_OK;
}

static enum deq_rc run_once(const struct deq_model *model, const struct flags *f, const struct deq_tokens *tokens,
                            uint64_t bytes, struct deq_err *err)
{
    const struct deq_model_info info = deq_model_info(model);
    struct deq_solve_params p = deq_request_defaults(model).solve;
    struct result r;
    solve_flags_apply(&f->solve, &info, &p);
    const enum deq_rc rc = run(model, solve_flags_threads(&f->solve), &p, tokens, bytes, &r, err);
    if (!rc)
        print(&r, &p, info.numeric, f->json);
    return rc;
}

int cmd_eval(int argc, char **argv)
{
    const char *args[2];
    size_t n;
    struct flags f = {.solve = SOLVE_FLAGS_NONE, .segments = SEGMENT_FLAGS_NONE};
    int code = cli_parse("eval", &command, argc, argv, &f, args, &n);
    if (code >= 0)
        return code;
    struct cli_counts budgets = {.n = 0};
    if (f.evaluations && !cli_counts("eval", "--evaluations", f.evaluations, &budgets))
        return CLI_USAGE;
    if (f.evaluations && against_budgets(&f))
        return cli_usage("eval", "%s: goes not with --evaluations", against_budgets(&f));
    if (f.segments.tgt_len && f.solve.numeric > DEQ_CLASS_FLOAT32)
        return cli_usage("eval", "--class: segments are computed in float32");
    if (f.segments.tgt_len)
        return eval_segments(args[0], args[1], &f.segments, &f.solve, f.limit, f.json);
    if (f.segments.mem_len != UINT32_MAX || f.segments.streams)
        return cli_usage("eval", "%s: goes with --tgt-len",
                         f.segments.mem_len != UINT32_MAX ? "--mem-len" : "--streams");
    struct deq_err err;
    struct deq_model *model = NULL;
    struct deq_tokens tokens = {0};
    uint64_t bytes;
    enum deq_rc rc = solve_flags_load(&f.solve, args[0], &model, &err);
    if (!rc)
        rc = read_tokens(model, args[1], f.limit, &tokens, &bytes, &err);
    if (!rc)
        rc = budgets.n ? run_budgets(model, &f, &budgets, &tokens, bytes, &err)
                       : run_once(model, &f, &tokens, bytes, &err);
    code = rc ? cli_fail("eval", err.text) : CLI_OK;
    deq_tokens_free(&tokens);
    deq_model_free(model);
    return code;
}
