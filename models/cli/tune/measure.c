/* Points measured: weights are loaded once for each numeric class, an engine is opened for each measurement. */
#include <math.h>
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
    struct deq_engine_opts o = {.threads = s->threads, .max_sequences = 1, .max_positions = TUNE_PORTION};
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
    size_t first, scored; /* token that the prompt begins with; positions answered, of all prompts */
    bool failed;
};

static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    struct listener *l = ctx;
    const struct tune_subject *s = l->s;
    if (e->kind == DEQ_EVENT_END) {
        l->failed = l->failed || e->finish == DEQ_FINISH_NUMERIC;
    } else if (e->kind == DEQ_EVENT_PROMPT) {
        const size_t at = l->first + e->position;
        const struct deq_log_normaliser n = deq_log_normaliser(e->logits, s->arch->vocab.size);
        s->block[at / TUNE_BLOCK] -= (double)deq_logprob(&n, e->logits[s->tokens.ids[at + 1]]) / TUNE_BLOCK;
        l->scored++;
    }
    return DEQ_CONTINUE;
}

static struct deq_request request(const struct deq_serving *set, struct listener *l)
{
    return (struct deq_request){.sampling = {.top_p = 1}, .ignore_eos = true, .cache = DEQ_CACHE_OFF,
                                .event = on_event, .ctx = l,
                                .solve = {.solver = set->solver.method, .warm_start = set->warm,
                                          .tol = set->solver.tol, .max_iter = set->solver.max_iter,
                                          .min_iter = set->solver.min_iter, .window = set->row_window,
                                          .prefill_window = set->prefill_window}};
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

/* Runs one request to its end; *ret_s and *ret_rows: its seconds and evaluations of rows are added. */
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

/* Tokens [first, first + n), read as q says: of a model with a limit of positions in pieces of that length. */
static enum deq_rc read_text(struct listener *l, struct deq_engine *e, struct deq_request q, size_t first, size_t n,
                             double *ret_s, double *ret_rows, struct deq_err *err)
{
    const size_t piece = deq_engine_max_positions(e);
    enum deq_rc rc = DEQ_OK;
    q.ctx = l;
    for (size_t at = 0; at < n && !rc; at += piece) {
        l->first = first + at;
        q.prompt = l->s->tokens.ids + l->first;
        q.n_prompt = DEQ_MIN(piece, n - at);
        rc = run(l->s, e, &q, ret_s, ret_rows, err);
    }
    return rc;
}

/* --- Loss --- */

/* One portion as q says: its blocks' nats a token, not a number where the solver failed. */
static enum deq_rc read_portion(struct tune_subject *s, struct deq_engine *e, struct deq_request q, size_t portion,
                                struct deq_err *err)
{
    const size_t first = portion * TUNE_PORTION, n = DEQ_MIN(s->n_blocks * TUNE_BLOCK - first, (size_t)TUNE_PORTION);
    struct listener l = {.s = s};
    double seconds = 0, rows = 0;
    for (size_t i = first / TUNE_BLOCK; i < (first + n) / TUNE_BLOCK; i++)
        s->block[i] = 0;
    q.want_prompt = true;
    const enum deq_rc rc = read_text(&l, e, q, first, n, &seconds, &rows, err);
    for (size_t i = first / TUNE_BLOCK; i < (first + n) / TUNE_BLOCK && (l.failed || l.scored != n); i++)
        s->block[i] = NAN;
    return rc;
}

/* Rows that wait behind others are solved better than the tolerance asks, in each window as often as it goes: a
 * prompt's window and that of generation may lose differently. */
enum deq_rc tune_score(struct tune_subject *s, struct tune_point *p, bool is_exact, size_t to, struct deq_err *err)
{
    struct deq_engine *e = NULL;
    struct deq_request q = request(&p->set, NULL);
    enum deq_rc rc = p->portions < to ? open_engine(s, &p->set, &e, err) : DEQ_OK;
    for (; p->portions < to && !rc; p->portions++)
        for (int reading = 0; reading < (p->set.prefill_window ? TUNE_READINGS : 1) && !rc; reading++) {
            const size_t from = p->portions * TUNE_PORTION / TUNE_BLOCK,
                         end = DEQ_MIN(from + TUNE_PORTION / TUNE_BLOCK, s->n_blocks);
            q.solve.prefill_window = reading == TUNE_PREFILL ? p->set.prefill_window : 0;
            rc = read_portion(s, e, q, p->portions, err);
            for (size_t i = from; i < end && !rc; i++) {
                if (is_exact)
                    s->exact_block[i] = s->block[i];
                tune_add(&p->apart[reading], s->block[i] - s->exact_block[i]);
            }
        }
    deq_engine_free(e);
    return rc;
}

/* --- Time --- */

static void take_least(double *best, double x)
{
    *best = *best > 0 ? fmin(*best, x) : x;
}

/* What is written behind pieces of the text: they are read alone, then with it. */
static enum deq_rc write_behind(struct tune_subject *s, struct deq_engine *e, struct deq_request q, double *ret_s,
                                double *ret_rows, struct deq_err *err)
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
    *ret_s = fmax(both_s - alone_s, 1e-9) / (TUNE_PIECES * TUNE_WRITTEN);
    *ret_rows = (both_rows - alone_rows) / (TUNE_PIECES * TUNE_WRITTEN);
    return rc;
}

enum deq_rc tune_time(struct tune_subject *s, struct tune_point *p, double *ret_s, struct deq_err *err)
{
    struct deq_engine *e = NULL;
    struct listener l = {.s = s};
    struct deq_request q = request(&p->set, &l);
    const size_t n = DEQ_MIN(s->tokens.n - 1, (size_t)TUNE_TIMED);
    double read_s = 0, rows = 0, write_s = 0;
    enum deq_rc rc = open_engine(s, &p->set, &e, err);
    if (!rc)
        rc = read_text(&l, e, q, 0, n, &read_s, &rows, err);
    if (!rc)
        rc = write_behind(s, e, q, &write_s, &p->written, err);
    deq_engine_free(e);
    if (rc)
        return rc;
    p->evaluations = rows / (double)n;
    read_s /= (double)n;
    take_least(&p->read_s, read_s);
    take_least(&p->write_s, write_s);
    *ret_s = read_s + write_s;
    return DEQ_OK;
}
