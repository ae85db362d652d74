/* deq eval: by default the text goes through the row engine as one stream; every token is predicted once, from all the context that the window
 * allows; with --tgt-len it is read as the DEQ authors' evaluation reads it (eval_segments.c). A document's first token is predicted from the end-of-text token before it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/data/corpus.h"
#include "core/deq.h"
#include "models/cli/eval_segments.h"

struct score {
    const struct deq_tokens *tokens;
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
    if (e->position + 1 < s->tokens->n) {
        s->nats -= (double)deq_logprob(e->logits, s->vocab_size, s->tokens->ids[e->position + 1]);
        s->scored++;
        if (s->scored % 256 == 0) {
            const double t = deq_now_s() - s->started, left = t / (double)s->scored * (double)(s->tokens->n - 1 - s->scored);
            cli_progress("%zu of %zu tokens  %.4f nats a token  %.0f tok/s  ETA %.0f s", s->scored, s->tokens->n - 1,
                         s->nats / (double)s->scored, (double)s->scored / t, left);
        }
    }
    return DEQ_CONTINUE;
}

int cmd_eval(int argc, char **argv)
{
    const char *args[2];
    size_t n;
    struct solve_flags sf = {0};
    struct segment_flags gf = {0};
    bool json = false;
    const struct cli_flag flags[] = {SOLVE_FLAGS(sf), SEGMENT_FLAGS(gf), {.name = "--json", .help = "print one JSON object", .on = &json}};
    const struct cli_command c = {
        .usage = "deq eval MODEL_DIR TEXT_FILE [flags]",
        .about = "Perplexity of a text, in one stream. A line that is exactly <|endoftext|> separates documents and counts as one token, but not\n"
                 "as text: bits_per_byte divides by the documents' bytes.",
        .flags = flags, .n_flags = sizeof flags / sizeof *flags, .min_args = 2, .max_args = 2};
    int code = cli_parse(&c, argc, argv, args, &n);
    if (code >= 0)
        return code;
    if (gf.tgt_len)
        return eval_segments(args[0], args[1], &gf, &sf, json);
    double limit = 1e12;
    if (gf.mem_len || gf.streams) {
        fprintf(stderr, "%s: goes with --tgt-len\n", gf.mem_len ? "--mem-len" : "--streams");
        return CLI_USAGE;
    }
    if (gf.limit && !cli_number("--limit", gf.limit, 2, 1e12, &limit))
        return CLI_USAGE;
    struct deq_err err;
    struct deq_model *model = NULL;
    struct deq_engine *engine = NULL;
    struct deq_tokens tokens = {0};
    char *text = NULL;
    size_t len;
    unsigned threads;
    code = CLI_FAIL;
    if (deq_model_load(args[0], &model, &err) || deq_text_read(args[1], (size_t)1 << 30, &text, &len, &err)) {
        cli_fail("eval", err.text);
        goto out;
    }
    const struct deq_model_info info = deq_model_info(model);
    struct deq_request q = deq_request_defaults(model);
    if (!solve_flags_apply(&sf, &q.solve, &threads)) {
        code = CLI_USAGE;
        goto out;
    }
    /* doc eos doc eos ..., after one eos (token 0 of a model without one would be scored from nothing, so it only starts the stream) */
    uint64_t bytes = 0;
    size_t at = 0, doc_len;
    const char *doc;
    bool encoded = true, room = info.eos_id < 0 || deq_tokens_push(&tokens, (uint32_t)info.eos_id);
    while (encoded && room && deq_corpus_next(text, len, &at, &doc, &doc_len)) {
        encoded = deq_encode(model, doc, doc_len, false, &tokens, &err) == DEQ_OK;
        room = info.eos_id < 0 || deq_tokens_push(&tokens, (uint32_t)info.eos_id);
        bytes += doc_len;
    }
    if (!encoded || !room) {
        cli_fail("eval", encoded ? "no memory for the tokens" : err.text);
        goto out;
    }
    if (tokens.n > limit) {
        tokens.n = (size_t)limit;
        bytes = 0;
        for (size_t i = 1; i < tokens.n; i++) {
            size_t k = 0;
            if ((int64_t)tokens.ids[i] != info.eos_id && deq_token_bytes(model, tokens.ids[i], &k))
                bytes += k;
        }
    }
    if (tokens.n < 2 || !bytes) {
        cli_fail("eval", "the text is empty");
        goto out;
    }
    struct score s = {.tokens = &tokens, .vocab_size = info.vocab_size};
    const struct deq_engine_opts opts = {.threads = threads, .max_sequences = 1, .max_positions = (uint32_t)tokens.n};
    q.prompt = tokens.ids;
    q.n_prompt = tokens.n - 1; /* the last token is predicted, not read */
    q.max_tokens = 0;
    q.want_prompt = true;
    q.event = on_event;
    q.ctx = &s;
    if (deq_engine_new(model, &opts, &engine, &err) || deq_submit(engine, &q, NULL, &err)) {
        cli_fail("eval", err.text);
        goto out;
    }
    s.started = deq_now_s();
    while (deq_active(engine))
        deq_step(engine);
    const double seconds = deq_now_s() - s.started;
    cli_progress_end();
    if (s.failed || s.scored != tokens.n - 1) {
        cli_fail("eval", "the solver met values that are not finite");
        goto out;
    }
    const struct deq_engine_stats st = deq_engine_stats(engine);
    const double nll = s.nats / (double)s.scored, bits = s.nats / log(2.0) / (double)bytes;
    const double evals = (double)st.rows / (double)st.positions, steps = (double)st.steps / (double)st.positions;
    char perplexity[32];
    snprintf(perplexity, sizeof perplexity, isfinite(exp(nll)) ? "%.6f" : "null", exp(nll));
    if (json)
        printf("{\"tokens\": %zu, \"bytes\": %llu, \"nll_per_token\": %.6f, \"perplexity\": %s, \"bits_per_byte\": %.6f, "
               "\"evaluations_per_token\": %.4f, \"steps_per_token\": %.4f, \"residual_max\": %.6g, \"not_converged\": %zu, "
               "\"seconds\": %.3f, \"tokens_per_second\": %.1f, \"tol\": %g, \"max_iter\": %u, \"solver\": \"%s\", \"window\": %u, "
               "\"warm_start\": \"%s\"}\n",
               s.scored, (unsigned long long)bytes, nll, perplexity, bits, evals, steps, s.residual_max, s.not_converged, seconds,
               (double)s.scored / seconds, (double)q.solve.tol, q.solve.max_iter, deq_solver_name(q.solve.solver), q.solve.window,
               deq_warm_name(q.solve.warm_start));
    else
        printf("tokens             %zu (%llu bytes)\nnats a token       %.4f\nperplexity         %.3f\nbits a byte        %.4f\n"
               "evaluations a token %.2f (%.2f steps)\nlargest residual   %.2e (%zu above tol)\nseconds            %.1f (%.0f tokens/s)\n",
               s.scored, (unsigned long long)bytes, nll, exp(nll), bits, evals, steps, s.residual_max, s.not_converged, seconds,
               (double)s.scored / seconds);
    code = CLI_OK;
out:
    deq_engine_free(engine);
    deq_tokens_free(&tokens);
    deq_free(text);
    deq_model_free(model);
    return code;
}
