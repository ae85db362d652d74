/* POST /v1/equilibria: the states z* at the positions of a prompt, the last, all, or one of them pooled, as JSON or as
 * raw little-endian float32 [positions, state_dim]; and POST /v1/embeddings, OpenAI's shape of the same for many
 * prompts, a pooled state each, of length 1.
 *
 * Two threads have the jobs, one a prompt, as a completion's (completion.h). The engine's leaves the states, which are
 * its memory until its event returns; once all jobs have ended they change no more, and the connection's writes the
 * answer. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "server/api/answer.h"
#include "server/api/endpoints.h"
#include "server/api/exchange.h"
#include "server/api/reply.h"
#include "server/api/timings.h"
#include "server/log.h"

enum {
    PRODUCTS = 32,             /* of jacobian, half of which are measured */
    JSON_FLOATS_MAX = 1 << 18, /* about 3 MB of text; those in base64 are not counted */
    JSON_FLOAT_BYTES = 18,     /* ", -1.23456789e-05" at most */
    BASE64_FLOAT_BYTES = 6,    /* 4/3 of 4 */
    JSON_ROW_BYTES = 64,       /* around the numbers of a row */
    JSON_TOLD_BYTES = 32,      /* residual and evaluations of a position */
    JSON_HEAD_BYTES = 4096,    /* and what stands behind the numbers */
};

/* What is told of a position. */
struct told {
    float residual;
    uint32_t evaluations;
};

/* One prompt. What follows the job is the engine's thread's until all have ended. */
struct prompt {
    struct job job; /* first: the scheduler's callbacks get it */
    struct equilibria *of;
    struct deq_buf rows; /* f32 [rows, state_dim] */
    struct deq_buf sum;  /* f64 [state_dim], of a mean */
    struct deq_buf told; /* struct told [], of the positions that the rows are of */
    struct reply_reached reached;
    float spectral_radius; /* at its last position */
    uint64_t evaluations, ended_ns; /* of all its positions that were solved for it */
    bool numeric;
};

struct equilibria {
    struct equilibria_request req; /* its prompts are the jobs' */
    struct channel *channel;       /* held */
    struct served *served;         /* held */
    _Atomic unsigned refs;         /* the jobs, together, and the channel's source */
    char request_id[132];
    uint64_t arrived_ns;
    uint32_t dim;
    bool raw;
    struct prompt *prompts; /* [req.n_prompts] */
    pthread_mutex_t lock;   /* guards what follows; when it has ended nothing changes any more */
    size_t open_jobs;
    bool ended, failed;
    struct exchange_failure failure; /* the first */
    /* the connection's */
    struct deq_buf text; /* JSON */
    bool answered;
};

static void equilibria_free(struct equilibria *q)
{
    for (size_t i = 0; q->prompts && i < q->req.n_prompts; i++) {
        struct prompt *p = &q->prompts[i];
        deq_buf_free(&p->rows);
        deq_buf_free(&p->sum);
        deq_buf_free(&p->told);
        deq_tokens_free(&p->job.prompt);
    }
    deq_free(q->prompts);
    deq_buf_free(&q->text);
    equilibria_request_free(&q->req);
    channel_unref(q->channel);
    store_release(q->served);
    pthread_mutex_destroy(&q->lock);
    deq_free(q);
}

static void equilibria_unref(void *equilibria)
{
    struct equilibria *q = equilibria;
    if (atomic_fetch_sub(&q->refs, 1) == 1)
        equilibria_free(q);
}

/* --- The jobs, on the engine's thread --- */

static size_t positions_of(const struct prompt *p)
{
    return p->of->req.all_positions || p->of->req.mean ? p->job.prompt.n : 1;
}

static size_t rows_of(const struct prompt *p)
{
    return p->of->req.all_positions ? p->job.prompt.n : 1;
}

static void on_admit(struct job *j)
{
    struct prompt *p = (struct prompt *)j;
    deq_buf_reserve(&p->rows, p->rows.max);
    deq_buf_reserve(&p->sum, p->sum.max);
    deq_buf_reserve(&p->told, p->told.max);
}

/* Adds a state to the sum; the last one makes the mean of it. */
static void add_to_mean(struct prompt *p, const float *state)
{
    const size_t D = p->of->dim, n = p->reached.positions;
    for (size_t i = 0; n == 1 && i < D; i++)
        deq_buf_add(&p->sum, &(double){0}, sizeof(double));
    double *sum = p->sum.failed ? NULL : (double *)(void *)p->sum.data;
    for (size_t i = 0; sum && i < D; i++)
        sum[i] += (double)state[i];
    (void)deq_buf_carry(&p->rows, &p->sum);
    for (size_t i = 0; sum && n == positions_of(p) && i < D; i++)
        deq_buf_add(&p->rows, &(float){(float)(sum[i] / (double)n)}, sizeof(float));
}

static enum deq_verdict on_event(struct job *j, const struct deq_event *e)
{
    struct prompt *p = (struct prompt *)j;
    if (e->kind == DEQ_EVENT_END) {
        p->numeric = e->finish == DEQ_FINISH_NUMERIC;
        p->evaluations = e->prompt_evaluations;
        return DEQ_CONTINUE;
    }
    reply_reached_add(&p->reached, e);
    p->spectral_radius = e->spectral_radius;
    deq_buf_add(&p->told, &(struct told){e->residual, e->evaluations}, sizeof(struct told));
    if (p->of->req.mean)
        add_to_mean(p, e->state);
    else
        deq_buf_add(&p->rows, e->state, p->of->dim * sizeof *e->state);
    return DEQ_CONTINUE;
}

/* Caller holds the lock. */
static void fail(struct equilibria *q, enum job_end end, const char *message)
{
    if (q->failed)
        return;
    q->failed = true;
    exchange_failure(&q->failure, end, message);
    for (size_t i = 0; i < q->req.n_prompts; i++) /* the others have nobody to answer to */
        sched_cancel(&q->prompts[i].job);
}

static void log_end(const struct equilibria *q)
{
    uint64_t tokens = 0, cached = 0;
    for (size_t i = 0; i < q->req.n_prompts; i++) {
        tokens += q->prompts[i].job.prompt.n;
        cached += q->prompts[i].job.admission.cached_tokens;
    }
    log_line(LOG_INFO, q->req.embeddings ? "embeddings" : "equilibria", log_text("request_id", q->request_id),
             log_int("status", q->failed ? exchange_failure_status(&q->failure) : 200),
             log_int("prompt_tokens", (int64_t)tokens), log_int("cached_tokens", (int64_t)cached),
             log_int("prompts", (int64_t)q->req.n_prompts),
             log_real("ms", (double)(deq_now_ns() - q->arrived_ns) * 1e-6));
}

static void on_end(struct job *j, enum job_end end, const char *message)
{
    struct prompt *p = (struct prompt *)j;
    struct equilibria *q = p->of;
    p->ended_ns = deq_now_ns();
    pthread_mutex_lock(&q->lock);
    if (end != JOB_FINISHED || p->numeric)
        fail(q, end, message);
    else if (p->reached.positions != positions_of(p))
        fail(q, JOB_DEADLINE, NULL);
    const bool ended = q->ended = --q->open_jobs == 0;
    pthread_mutex_unlock(&q->lock);
    if (!ended)
        return;
    channel_listen(q->channel, (struct channel_events){0});
    (void)channel_news(q->channel, 0, NULL);
    if (log_on(LOG_INFO))
        log_end(q);
    equilibria_unref(q);
}

/* --- On the connection's thread --- */

/* [x, ...] or base64 of D numbers; unit: divided by their length. */
static void write_row(struct equilibria *q, float *row, bool unit)
{
    double squares = 0;
    for (size_t i = 0; unit && i < q->dim; i++)
        squares += (double)row[i] * (double)row[i];
    for (size_t i = 0; squares > 0 && i < q->dim; i++)
        row[i] = (float)((double)row[i] / sqrt(squares));
    if (q->req.base64) {
        reply_base64(&q->text, row, q->dim * sizeof *row);
        return;
    }
    for (size_t i = 0; i < q->dim; i++)
        deq_buf_fmt(&q->text, "%s%.9g", i ? ", " : "[", (double)row[i]);
    deq_buf_str(&q->text, "]");
}

/* Row i of a prompt, whose rows have not failed. */
static float *row_at(const struct prompt *p, size_t i)
{
    return (float *)(void *)p->rows.data + i * p->of->dim;
}

static void write_told(struct equilibria *q, const struct prompt *p)
{
    const struct told *told = (const struct told *)(const void *)p->told.data;
    const size_t n = positions_of(p);
    deq_buf_str(&q->text, ",\"residuals\":[");
    for (size_t i = 0; i < n; i++) {
        deq_buf_str(&q->text, i ? "," : "");
        reply_residual(&q->text, told[i].residual);
    }
    deq_buf_str(&q->text, "],\"evaluations\":[");
    for (size_t i = 0; i < n; i++)
        deq_buf_fmt(&q->text, "%s%u", i ? "," : "", told[i].evaluations);
    deq_buf_str(&q->text, "]");
}

static void write_equilibria(struct equilibria *q)
{
    const struct prompt *p = &q->prompts[0];
    deq_buf_str(&q->text, "{\"object\":\"equilibria\",\"model\":");
    reply_string(&q->text, q->served->name, strlen(q->served->name));
    deq_buf_fmt(&q->text, ",\"state_dim\":%u,\"positions\":%zu,\"states\":[", q->dim, rows_of(p));
    for (size_t i = 0; i < rows_of(p); i++) {
        deq_buf_str(&q->text, i ? ", " : "");
        write_row(q, row_at(p, i), false);
    }
    deq_buf_str(&q->text, "]");
    write_told(q, p);
    if (q->req.jacobian) {
        deq_buf_str(&q->text, ",\"jacobian\":{\"spectral_radius\":");
        reply_residual(&q->text, p->spectral_radius);
        deq_buf_fmt(&q->text, ",\"products\":%d}", PRODUCTS);
    }
}

static void write_embeddings(struct equilibria *q)
{
    deq_buf_str(&q->text, "{\"object\":\"list\",\"model\":");
    reply_string(&q->text, q->served->name, strlen(q->served->name));
    deq_buf_str(&q->text, ",\"data\":[");
    for (size_t i = 0; i < q->req.n_prompts; i++) {
        deq_buf_fmt(&q->text, "%s{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", i ? "," : "", i);
        write_row(q, row_at(&q->prompts[i], 0), true);
        deq_buf_str(&q->text, "}");
    }
    deq_buf_str(&q->text, "]");
}

/* Of all prompts together. */
static void write_end(struct equilibria *q)
{
    struct reply_reached all = {0};
    size_t tokens = 0;
    for (size_t i = 0; i < q->req.n_prompts; i++) {
        const struct reply_reached *r = &q->prompts[i].reached;
        all.positions += r->positions;
        all.iters_sum += r->iters_sum;
        all.iters_max = DEQ_MAX(all.iters_max, r->iters_max);
        all.residual_max = fmax(all.residual_max, r->residual_max);
        all.missed = all.missed || r->missed;
        tokens += q->prompts[i].job.prompt.n;
    }
    deq_buf_fmt(&q->text, ",\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu},\"deq\":", tokens, tokens);
    reply_reached(&q->text, q->req.solve.tol, &all);
    deq_buf_str(&q->text, "}");
}

static void tell_timing(const struct equilibria *q)
{
    struct timings t = {0};
    for (size_t i = 0; i < q->req.n_prompts; i++) {
        t.prompt_evaluations += q->prompts[i].evaluations;
        timings_add(&t, &q->prompts[i].job, q->prompts[i].ended_ns);
    }
    timings_tell(&t, q->channel);
}

static void answer_states(struct equilibria *q)
{
    tell_timing(q);
    struct deq_buf *const rows = &q->prompts[0].rows;
    bool whole = deq_buf_reserve(&q->text, q->raw ? 0 : q->text.max);
    for (size_t i = 0; i < q->req.n_prompts; i++)
        whole = deq_buf_carry(&q->text, &q->prompts[i].rows) && deq_buf_carry(&q->text, &q->prompts[i].told) && whole;
    if (q->raw) {
        (void)deq_buf_carry(rows, &q->text);
        answer_whole(q->channel, 200, "application/octet-stream", rows);
        return;
    }
    if (whole && q->req.embeddings)
        write_embeddings(q);
    else if (whole)
        write_equilibria(q);
    write_end(q);
    answer_whole(q->channel, 200, "application/json", &q->text);
}

static void render(void *ctx)
{
    struct equilibria *q = ctx;
    pthread_mutex_lock(&q->lock);
    const bool ended = q->ended;
    pthread_mutex_unlock(&q->lock);
    if (q->answered || !ended)
        return;
    q->answered = true;
    if (q->failed)
        exchange_fail(q->channel, q->served->sched, &q->failure);
    else
        answer_states(q);
}

/* --- From the channel, with its lock --- */

static void on_gone(void *ctx)
{
    struct equilibria *q = ctx;
    for (size_t i = 0; i < q->req.n_prompts; i++)
        sched_cancel(&q->prompts[i].job);
}

/* --- The request, on a thread of the HTTP server --- */

static void set_up_prompt(struct equilibria *q, size_t i, const struct exchange *x)
{
    struct prompt *p = &q->prompts[i];
    struct deq_allowance *const allowance = &q->channel->allowance;
    struct deq_request r = deq_request_defaults(q->served->model);
    r.solve = q->req.solve;
    r.cache_salt = q->req.salt.bytes;
    r.cache_salt_len = q->req.salt.len;
    r.max_tokens = 0;
    r.products = q->req.jacobian ? PRODUCTS : 0;
    r.states = q->req.all_positions || q->req.mean ? DEQ_STATES_ALL : DEQ_STATES_LAST;
    p->of = q;
    p->job = (struct job){.request = r,
                          .prompt = q->req.prompts[i],
                          .caller = x->caller,
                          .request_id = q->request_id,
                          .arrived_ns = x->arrived_ns,
                          .deadline_ns = x->timeout_ms ? x->arrived_ns + x->timeout_ms * 1000000ull : 0,
                          .answer = allowance,
                          .on_admit = on_admit,
                          .on_event = on_event,
                          .on_end = on_end,
                          .sched = q->served->sched,
                          .next = i + 1 < q->req.n_prompts ? &p[1].job : NULL};
    q->req.prompts[i] = (struct deq_tokens){0}; /* the job's now */
    const size_t floats = rows_of(p) * q->dim, told = positions_of(p);
    p->rows = (struct deq_buf){.max = floats * sizeof(float), .allowance = allowance};
    p->sum = (struct deq_buf){.max = q->req.mean ? q->dim * sizeof(double) : 0, .allowance = allowance};
    p->told = (struct deq_buf){.max = told * sizeof(struct told), .allowance = allowance};
    const size_t text = q->raw ? 0 : floats * (q->req.base64 ? BASE64_FLOAT_BYTES : JSON_FLOAT_BYTES) +
                                     rows_of(p) * JSON_ROW_BYTES + told * JSON_TOLD_BYTES +
                                     (i ? 0 : JSON_HEAD_BYTES);
    p->job.answer_bytes = p->rows.max + p->sum.max + p->told.max + text + 4;
    q->text.max += text;
}

/* Takes r, and m when it succeeds. NULL: no memory. */
static struct equilibria *equilibria_new(struct served *m, const struct exchange *x, struct equilibria_request *r)
{
    struct equilibria *q = DEQ_NEW(struct equilibria);
    struct prompt *prompts = q ? DEQ_NEW_ARRAY(struct prompt, r->n_prompts) : NULL;
    if (!prompts) {
        deq_free(q);
        equilibria_request_free(r);
        return NULL;
    }
    q->req = *r;
    q->prompts = prompts;
    q->channel = x->channel;
    q->served = m;
    q->arrived_ns = x->arrived_ns;
    memcpy(q->request_id, x->request_id, sizeof q->request_id);
    q->dim = m->info.state_dim;
    q->raw = x->wants_octets && !r->embeddings;
    q->open_jobs = r->n_prompts;
    q->text.allowance = &x->channel->allowance;
    for (size_t i = 0; i < r->n_prompts; i++)
        set_up_prompt(q, i, x);
    atomic_store(&q->refs, 2);
    pthread_mutex_init(&q->lock, NULL);
    channel_ref(x->channel);
    return q;
}

/* An exchange_reader; embeddings: a bool. */
static bool read_jobs(struct service *s, struct served *m, struct exchange *x, int embeddings,
                      struct exchange_work *ret)
{
    const struct request_context c = service_context(s, m);
    struct equilibria_request r;
    struct request_error err;
    if (!request_equilibria(&c, embeddings, x->body.data, x->body.len, &r, &err)) {
        exchange_request_error(x, &err);
        return false;
    }
    if (r.jacobian && x->wants_octets) {
        exchange_error(x, 400, "invalid_value", "jacobian", "jacobian: is told in JSON, not in octets");
        equilibria_request_free(&r);
        return false;
    }
    const uint64_t rows = r.all_positions ? r.prompts[0].n : r.n_prompts;
    const bool text = !r.base64 && !(x->wants_octets && !embeddings);
    /* the connection's thread would print for longer than its others may wait */
    if (text && rows * m->info.state_dim > JSON_FLOATS_MAX) {
        exchange_error(x, 400, "invalid_value", embeddings ? "input" : "positions",
                       embeddings ? "input: more than 262144 numbers are not sent as text; ask for base64"
                                  : "positions: more than 262144 numbers are not sent as text; ask for base64, or for "
                                    "application/octet-stream");
        equilibria_request_free(&r);
        return false;
    }
    struct equilibria *q = equilibria_new(m, x, &r);
    if (!q) {
        exchange_no_memory(x);
        return false;
    }
    *ret = (struct exchange_work){
        &q->prompts[0].job, {.gone = on_gone, .ctx = q}, {render, equilibria_unref, q}};
    return true;
}

void ep_equilibria(struct service *s, struct served *m, struct exchange *x)
{
    exchange_run(s, m, x, read_jobs, false);
}

void ep_embeddings(struct service *s, struct served *m, struct exchange *x)
{
    exchange_run(s, m, x, read_jobs, true);
}
