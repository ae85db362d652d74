/* Points measured: weights are loaded once for each numeric class, an engine is opened for each measurement. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/engine/engine.h"
#include "models/cli/tune/tune.h"

enum { PIECE_PROMPT = TUNE_PIECE - TUNE_WRITTEN };

/* --- An engine over one setting --- */

static enum deq_rc open_engine(struct tune_subject *s, const struct deq_serving *set, struct deq_engine **ret,
                               struct deq_err *err)
{
    struct deq_arch *a = s->arch;
    struct deq_engine_opts o = {.threads = s->threads, .max_sequences = 1, .max_positions = (uint32_t)s->tokens.n};
    struct deq_pool *pool;
    struct deq_cell *cell;
    const struct deq_serving own = a->serving;
    a->serving = *set; /* scratch and packing follow the class */
    const struct deq_cell shape = a->kind->shape(a, 0, 0, 1);
    enum deq_rc rc = deq_engine_opts_fill(&shape, &o, &o, err);
    if (!rc && !s->weights[set->numeric])
        rc = deq_weights_load(s->weights_path, a, true, &s->weights[set->numeric], err);
    a->serving = own;
    if (!rc)
        rc = deq_pool_new(o.threads, &pool, err);
    if (rc)
        return rc;
    rc = a->kind->open(s->weights[set->numeric], o.max_rows, deq_engine_pages(&shape, &o), pool, &cell, err);
    if (!rc && (rc = deq_engine_open(cell, &a->vocab, set, pool, &o, ret, err)))
        cell->ops->free(cell);
    if (rc)
        deq_pool_free(pool);
    return rc;
}

/* --- A text read, and pieces of it continued --- */

struct listener {
    struct tune_subject *s;
    size_t scored;
    bool failed;
};

static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    struct listener *l = ctx;
    const struct tune_subject *s = l->s;
    if (e->kind == DEQ_EVENT_END) {
        l->failed = l->failed || e->finish == DEQ_FINISH_NUMERIC;
    } else if (e->kind == DEQ_EVENT_PROMPT && e->position + 1 < s->tokens.n) {
        const struct deq_log_normaliser n = deq_log_normaliser(e->logits, s->arch->vocab.size);
        s->nats[l->scored++] = -deq_logprob(&n, e->logits[s->tokens.ids[e->position + 1]]);
    }
    return DEQ_CONTINUE;
}

/* The time that counts: of one thread its own, so that others on the machine do not. */
static double now_s(const struct tune_subject *s)
{
    struct timespec t;
    if (s->threads > 1)
        return deq_now_s();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Runs one request to its end; *ret_s and *ret_rows: its seconds and evaluations of rows. */
static enum deq_rc run(struct tune_subject *s, struct deq_engine *e, const struct deq_request *q, double *ret_s,
                       double *ret_rows, struct deq_err *err)
{
    const double rows = (double)deq_engine_stats(e).rows, t = now_s(s);
    const enum deq_rc rc = deq_submit(e, q, NULL, err);
    while (!rc && deq_active(e))
        deq_step(e);
    *ret_s += now_s(s) - t;
    *ret_rows += (double)deq_engine_stats(e).rows - rows;
    return rc;
}

static void take_least(double *best, double x)
{
    *best = *best > 0 ? fmin(*best, x) : x;
}

/* Loss of the text, read with logits as q says, and the error of its difference from the first reading's. */
static enum deq_rc score(struct tune_subject *s, struct deq_engine *e, struct deq_request q, double *ret_loss,
                         double *ret_error, struct deq_err *err)
{
    const double n = (double)q.n_prompt;
    double sum = 0, apart = 0, square = 0;
    struct listener l = {.s = s};
    double seconds = 0, rows = 0;
    q.want_prompt = true;
    q.ctx = &l;
    const enum deq_rc rc = run(s, e, &q, &seconds, &rows, err);
    if (rc)
        return rc;
    if (!s->has_exact)
        memcpy(s->exact_nats, s->nats, q.n_prompt * sizeof *s->nats);
    s->has_exact = true;
    for (size_t i = 0; i < l.scored; i++) {
        const double d = (double)s->nats[i] - (double)s->exact_nats[i];
        sum += (double)s->nats[i];
        apart += d;
        square += d * d;
    }
    *ret_loss = l.failed || l.scored != q.n_prompt ? NAN : sum / n;
    *ret_error = sqrt(fmax(square / n - apart / n * (apart / n), 0) / n);
    return DEQ_OK;
}

/* The larger loss of a prompt's window and of that in which text is written: rows that wait behind others are solved
 * better than the tolerance asks, in each as often as it goes. */
static enum deq_rc score_both(struct tune_subject *s, struct deq_engine *e, struct deq_request q, struct tune_point *p,
                              struct deq_err *err)
{
    double written, error;
    enum deq_rc rc = score(s, e, q, &p->loss, &p->error, err);
    if (rc || !q.solve.prefill_window)
        return rc;
    q.solve.prefill_window = 0;
    rc = score(s, e, q, &written, &error, err);
    if (!rc && !(written <= p->loss)) {
        p->loss = written;
        p->error = error;
    }
    return rc;
}

/* What is written behind pieces of the text: they are read alone, then with it. */
static enum deq_rc write_behind(struct tune_subject *s, struct deq_engine *e, struct deq_request q,
                                struct tune_point *p, struct deq_err *err)
{
    double alone_s = 0, alone_rows = 0, both_s = 0, both_rows = 0;
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; i < TUNE_PIECES && !rc; i++) {
        q.prompt = s->tokens.ids + i * (s->tokens.n / TUNE_PIECES);
        q.n_prompt = PIECE_PROMPT;
        q.max_tokens = 0;
        rc = run(s, e, &q, &alone_s, &alone_rows, err);
        q.max_tokens = TUNE_WRITTEN;
        if (!rc)
            rc = run(s, e, &q, &both_s, &both_rows, err);
    }
    p->written = (both_rows - alone_rows) / (TUNE_PIECES * TUNE_WRITTEN);
    take_least(&p->write_s, fmax(both_s - alone_s, 1e-9) / (TUNE_PIECES * TUNE_WRITTEN));
    return rc;
}

enum deq_rc tune_measure(struct tune_subject *s, struct tune_point *p, struct deq_err *err)
{
    struct deq_engine *e = NULL;
    struct listener l = {.s = s};
    const struct deq_serving *set = &p->set;
    const struct deq_request q = {.prompt = s->tokens.ids, .n_prompt = s->tokens.n - 1, .sampling = {.top_p = 1},
                                  .ignore_eos = true, .cache = DEQ_CACHE_OFF, .event = on_event, .ctx = &l,
                                  .solve = {.solver = set->solver.method, .warm_start = set->warm,
                                            .tol = set->solver.tol, .max_iter = set->solver.max_iter,
                                            .min_iter = set->solver.min_iter, .window = set->row_window,
                                            .prefill_window = set->prefill_window}};
    const bool first = !(p->read_s > 0);
    double read_s = 0, rows = 0;
    enum deq_rc rc = open_engine(s, set, &e, err);
    if (!rc && first)
        rc = score_both(s, e, q, p, err);
    if (!rc)
        rc = run(s, e, &q, &read_s, &rows, err);
    if (!rc)
        rc = write_behind(s, e, q, p, err);
    deq_engine_free(e);
    p->evaluations = rows / (double)q.n_prompt;
    take_least(&p->read_s, read_s / (double)q.n_prompt);
    return rc;
}
