/* The authors' evaluation (locuslab/deq DEQ-Sequence and torchdeq: LMOrderedIterator,
 * evaluate), so that numbers compare:
 *
 *     the text's n tokens are cut into B streams of n/B, what is left over is dropped; each stream is read in segments
 *     of T, whose targets are the tokens one further; the first token of a stream is predicted by nobody;
 *     perplexity = exp(mean nats a predicted token)
 *
 * For a word-level model that is word perplexity, <eos> at every line's end included. Streams are independent:
 * threads take them in turn. */
#include "models/cli/eval_segments.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/pool.h"
#include "core/base/text.h"
#include "core/score/plain.h"
#include "core/score/segment.h"
#include "core/text/corpus.h"

struct work {
    const struct deq_tokens *tokens;
    struct deq_segment **segments; /* [threads] one stream each */
    double **nll;                  /* [threads] -> [T] */
    double *nats_of;               /* [streams] summed in order, so that the result does not depend
                                    * on which thread was quicker */
    size_t streams, length, T;     /* length: tokens of a stream */
    bool apart;                    /* segments know nothing of each other */
    pthread_mutex_t lock;
    /* under the lock */
    double nats, started;
    size_t scored, solved, converged;
    uint64_t evaluations;
    float residual_max;
    enum deq_rc rc;
    struct deq_err err;
};

/* One segment's results; false when somebody failed. */
static bool add(struct work *w, size_t stream, enum deq_rc rc, const struct deq_err *err,
                const struct deq_solve_report *r, const double *nll, size_t t)
{
    pthread_mutex_lock(&w->lock);
    if (rc && !w->rc) {
        w->rc = rc;
        w->err = *err;
    }
    if (!rc) {
        double nats = 0;
        for (size_t i = 0; i < t; i++)
            nats += nll[i];
        w->nats_of[stream] += nats;
        w->nats += nats;
        w->scored += t;
        w->solved++;
        w->converged += r->converged;
        w->evaluations += r->evaluations;
        w->residual_max = fmaxf(w->residual_max, r->residual_max);
        const double seconds = deq_now_s() - w->started;
        const size_t all = w->streams * (w->length - 1);
        cli_progress("%zu of %zu tokens  perplexity %.3f  %.0f tok/s  ETA %.0f s", w->scored, all,
                     exp(w->nats / (double)w->scored), (double)w->scored / seconds,
                     seconds / (double)w->scored * (double)(all - w->scored));
    }
    const bool go_on = !w->rc;
    pthread_mutex_unlock(&w->lock);
    return go_on;
}

static void read_streams(void *ctx, unsigned thread, unsigned n_threads)
{
    struct work *w = ctx;
    struct deq_segment *s = w->segments[thread];
    for (size_t b = thread; b < w->streams; b += n_threads) {
        const uint32_t *x = w->tokens->ids + b * w->length;
        s->seq->ops->forget(s->seq);
        for (size_t at = 0; at + 1 < w->length; at += w->T) {
            const size_t t = DEQ_MIN(w->T, w->length - 1 - at);
            struct deq_solve_report r;
            struct deq_err err;
            if (w->apart)
                s->seq->ops->forget(s->seq);
            enum deq_rc rc = deq_segment_solve(s, x + at, t, NULL, &r, &err);
            if (rc) {
                char where[64];
                snprintf(where, sizeof where, "stream %zu, position %zu", b, at);
                deq_fail_prefix(&err, rc, where);
            } else
                deq_seq_loss(s->seq, s->z, x + at + 1, 1, NULL, NULL, w->nll[thread]);
            if (!add(w, b, rc, &err, &r, w->nll[thread], t))
                return;
        }
    }
}

static void print(const struct work *w, size_t memory, const struct deq_solver_opts *o, bool json)
{
    double nats = 0;
    for (size_t b = 0; b < w->streams; b++)
        nats += w->nats_of[b];
    const double nll = nats / (double)w->scored, seconds = deq_now_s() - w->started,
                 evals = (double)w->evaluations / (double)w->solved;
    char perplexity[32], convergence[64] = "fixed steps";
    snprintf(perplexity, sizeof perplexity, isfinite(exp(nll)) ? "%.6f" : json ? "null" : "too large", exp(nll));
    if (o->tol > 0)
        snprintf(convergence, sizeof convergence, "%zu of %zu segments converged", w->converged, w->solved);
    if (json)
        printf("{\"tokens\": %zu, \"nll_per_token\": %.6f, \"perplexity\": %s, \"tgt_len\": %zu, \"mem_len\": %zu, "
               "\"streams\": %zu, \"evaluations_per_segment\": %.3f, \"segments\": %zu, \"converged\": %zu, "
               "\"residual_max\": %.6g, \"seconds\": %.3f, \"tokens_per_second\": %.1f, \"solver\": \"%s\", "
               "\"tol\": %g, \"max_iter\": %u}\n",
               w->scored, nll, perplexity, w->T, memory, w->streams, evals, w->solved, w->converged,
               (double)w->residual_max, seconds, (double)w->scored / seconds, deq_solver_name(o->method),
               (double)o->tol, o->max_iter);
    else
        printf("tokens             %zu in %zu streams, segments of %zu with memory of %zu\n"
               "nats a token       %.4f\nperplexity         %s\n"
               "evaluations        %.2f a segment; %s, largest residual %.2e\n"
               "seconds            %.1f (%.0f tokens/s)\n",
               w->scored, w->streams, w->T, memory, nll, perplexity, evals, convergence, (double)w->residual_max,
               seconds, (double)w->scored / seconds);
}

static enum deq_rc load(const char *dir, const char *text_path, struct deq_plain *m, struct deq_tokens *tokens,
                        struct deq_err *err)
{
    char *text = NULL;
    size_t len;
    uint64_t bytes;
    enum deq_rc rc = deq_plain_open(dir, true, m, err);
    if (!rc)
        rc = deq_text_read(text_path, (size_t)1 << 30, &text, &len, err);
    if (!rc)
        rc = deq_corpus_encode(m->tokenizer, deq_vocab_bos(&m->arch->vocab), m->arch->vocab.eos_id, text, len, tokens,
                               &bytes, err);
    for (size_t i = 0; i < tokens->n && !rc; i++)
        if (tokens->ids[i] >= m->arch->vocab.size)
            rc = deq_fail(err, DEQ_EFORMAT, "%s: the tokenizer gives token %u, vocab_size is %u", dir, tokens->ids[i],
                          m->arch->vocab.size);
    deq_free(text);
    return rc;
}

/* The segments of every thread, and the sums. */
static enum deq_rc make(struct work *w, const struct deq_plain *m, size_t memory, const struct deq_solver_opts *o,
                        unsigned threads, struct deq_err *err)
{
    w->segments = DEQ_NEW_ARRAY(struct deq_segment *, threads);
    w->nll = DEQ_NEW_ARRAY(double *, threads);
    w->nats_of = DEQ_NEW_ARRAY(double, w->streams);
    if (!w->segments || !w->nll || !w->nats_of)
        return deq_fail(err, DEQ_ENOMEM, "no memory for %u threads", threads);
    enum deq_rc rc = DEQ_OK;
    for (unsigned i = 0; i < threads && !rc; i++) {
        w->nll[i] = DEQ_NEW_ARRAY(double, w->T);
        rc = w->nll[i] ? deq_segment_new(m->arch, m->weights, 1, DEQ_MIN(w->T, w->length - 1), memory, o,
                                         &w->segments[i], err)
                       : deq_fail(err, DEQ_ENOMEM, "no memory for segments of %zu", w->T);
    }
    return rc;
}

static void unmake(struct work *w, unsigned threads)
{
    for (unsigned i = 0; i < threads; i++) {
        if (w->segments)
            deq_segment_free(w->segments[i]);
        if (w->nll)
            deq_free(w->nll[i]);
    }
    deq_free(w->segments);
    deq_free(w->nll);
    deq_free(w->nats_of);
}

static enum deq_rc run(struct work *w, const struct deq_plain *m, size_t memory, const struct deq_solver_opts *o,
                       unsigned threads, struct deq_err *err)
{
    struct deq_pool *pool = NULL;
    enum deq_rc rc = make(w, m, memory, o, threads, err);
    if (!rc)
        rc = deq_pool_new(threads, &pool, err);
    if (!rc) {
        w->started = deq_now_s();
        deq_pool_run(pool, read_streams, w);
        cli_progress_end();
        rc = w->rc;
        *err = w->err;
    }
    deq_pool_free(pool);
    return rc;
}

int eval_segments(const char *dir, const char *text_path, const struct segment_flags *f, const struct solve_flags *sf,
                  uint64_t limit, bool json)
{
    struct deq_plain m = {0};
    struct deq_tokens tokens = {0};
    struct deq_err err;
    struct work w = {.T = f->tgt_len,
                     .apart = !f->mem_len,
                     .streams = f->streams ? f->streams : 16,
                     .tokens = &tokens,
                     .lock = PTHREAD_MUTEX_INITIALIZER};
    if (sf->window || sf->prefill_window || sf->warm >= 0)
        return cli_usage("eval", "%s: has no meaning with --tgt-len: a segment is solved jointly, from zero",
                         sf->window ? "--window" : sf->prefill_window ? "--prefill-window" : "--warm-start");
    const unsigned threads = (unsigned)DEQ_MIN((size_t)solve_flags_threads(sf), w.streams);
    enum deq_rc rc = load(dir, text_path, &m, &tokens, &err);
    w.length = DEQ_MIN(tokens.n, limit) / w.streams;
    if (!rc && w.length < 2)
        rc = deq_fail(&err, DEQ_EINVAL, "%zu tokens are too few for %zu streams (--streams)", DEQ_MIN(tokens.n, limit),
                      w.streams);
    if (!rc) {
        const struct deq_arch *a = m.arch;
        struct deq_solve_params p = {.solver = a->serving.solver.method, .tol = a->serving.solver.tol,
                                     .max_iter = a->serving.solver.max_iter};
        struct deq_solver_opts o = a->serving.solver;
        const struct deq_model_info named = {.tol = p.tol, .tol_fast = deq_serving_tol_fast(&a->serving),
                                             .tol_exact = deq_serving_tol_exact(&a->serving)};
        solve_flags_apply(sf, &named, &p);
        o.method = p.solver;
        o.tol = p.tol;
        o.max_iter = p.max_iter;
        o.min_iter = DEQ_MIN(o.min_iter, o.max_iter);
        const size_t memory = f->mem_len == UINT32_MAX ? a->segment_memory : f->mem_len;
        rc = run(&w, &m, memory, &o, threads, &err);
        if (!rc)
            print(&w, memory, &o, json);
    }
    const int code = rc ? cli_fail("eval", err.text) : CLI_OK;
    unmake(&w, threads);
    deq_tokens_free(&tokens);
    deq_plain_close(&m);
    return code;
}
