/* POST /v1/logits: logits at the prompt's last position or at all of them, as JSON or as raw little-endian float32
 * [positions, vocab_size].
 *
 * Two threads have the job, as a completion's (completion.h). The engine's leaves the logits of a position as news,
 * which are the engine's memory until its event returns; the connection's writes the numbers, which as text cost some
 * hundred times their copy, and ends the exchange. */
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
    JSON_FLOATS_MAX = 1 << 18, /* about 3 MB of text */
    JSON_FLOAT_BYTES = 18,     /* ", -1.23456789e-05" at most */
    JSON_HEAD_BYTES = 4096,    /* and what stands behind the numbers */
};

struct logits_job {
    struct job job;          /* first: the scheduler's callbacks get it */
    struct channel *channel; /* held */
    struct served *served;   /* held */
    _Atomic unsigned refs;   /* the job, and the channel's source */
    char request_id[132];
    struct cache_salt salt;
    uint32_t vocab_size;
    size_t positions;
    float tol;
    bool raw, all;
    pthread_mutex_t lock; /* guards the news and `ended`; nothing changes once it ended */
    /* the engine's thread's */
    struct deq_buf news; /* f32 [have, vocab_size]; room for all positions from admission on: it never moves */
    size_t have;
    bool numeric;
    struct reply_reached reached;
    uint64_t prompt_evaluations, ended_ns;
    bool ended, failed;
    struct exchange_failure failure;
    /* the connection's */
    struct deq_buf text; /* JSON */
    size_t written;      /* positions in it */
    bool answered;
};

static size_t positions_of(const struct logits_request *r)
{
    return r->all_positions ? r->prompt.n : 1;
}

static void logits_job_free(struct logits_job *l)
{
    deq_buf_free(&l->news);
    deq_buf_free(&l->text);
    channel_unref(l->channel);
    deq_tokens_free(&l->job.prompt);
    store_release(l->served);
    pthread_mutex_destroy(&l->lock);
    deq_free(l);
}

static void logits_job_unref(void *job)
{
    struct logits_job *l = job;
    if (atomic_fetch_sub(&l->refs, 1) == 1)
        logits_job_free(l);
}

static size_t news_bytes(const struct logits_job *l)
{
    return l->positions * l->vocab_size * sizeof(float);
}

static size_t text_bytes(const struct logits_job *l)
{
    return l->raw ? 0 : l->positions * l->vocab_size * JSON_FLOAT_BYTES + l->positions * 4 + JSON_HEAD_BYTES;
}

/* --- The job, on the engine's thread --- */

/* The scheduler kept room for it; should the system have none, the answer says so at its end. */
static void on_admit(struct job *j)
{
    struct logits_job *l = (struct logits_job *)j;
    pthread_mutex_lock(&l->lock);
    deq_buf_reserve(&l->news, news_bytes(l));
    pthread_mutex_unlock(&l->lock);
}

static enum deq_verdict on_event(struct job *j, const struct deq_event *e)
{
    struct logits_job *l = (struct logits_job *)j;
    if (e->kind == DEQ_EVENT_END) {
        l->numeric = e->finish == DEQ_FINISH_NUMERIC;
        l->prompt_evaluations = e->prompt_evaluations;
    }
    if (!e->logits || l->have == l->positions || (!l->all && e->position + 1 != j->prompt.n))
        return DEQ_CONTINUE;
    pthread_mutex_lock(&l->lock);
    deq_buf_add(&l->news, e->logits, l->vocab_size * sizeof *e->logits);
    pthread_mutex_unlock(&l->lock);
    reply_reached_add(&l->reached, e);
    if (++l->have < l->positions && !l->raw) /* written while the next ones are solved; the end tells of the last */
        (void)channel_news(l->channel, (size_t)l->vocab_size * JSON_FLOAT_BYTES, NULL);
    return e->kind == DEQ_EVENT_TOKEN ? DEQ_STOP : DEQ_CONTINUE;
}

static void on_end(struct job *j, enum job_end end, const char *message)
{
    struct logits_job *l = (struct logits_job *)j;
    const bool late = end == JOB_FINISHED && !l->numeric && l->have != l->positions;
    pthread_mutex_lock(&l->lock);
    l->failed = late || l->numeric || end != JOB_FINISHED;
    if (l->failed)
        exchange_failure(&l->failure, late ? JOB_DEADLINE : end, message);
    l->ended_ns = deq_now_ns();
    l->ended = true;
    pthread_mutex_unlock(&l->lock);
    channel_listen(l->channel, (struct channel_events){0});
    (void)channel_news(l->channel, 0, NULL);
    if (log_on(LOG_INFO))
        log_line(LOG_INFO, "logits", log_text("request_id", l->request_id),
                 log_int("status", l->failed ? exchange_failure_status(&l->failure) : 200),
                 log_int("prompt_tokens", (int64_t)j->prompt.n), log_int("positions", (int64_t)l->positions),
                 log_real("ms", (double)(deq_now_ns() - j->arrived_ns) * 1e-6));
    logits_job_unref(l);
}

/* --- On the connection's thread --- */

static void write_head(struct logits_job *l)
{
    deq_buf_reserve(&l->text, text_bytes(l));
    deq_buf_str(&l->text, "{\"object\":\"logits\",\"model\":");
    reply_string(&l->text, l->served->name, strlen(l->served->name));
    deq_buf_fmt(&l->text, ",\"vocab_size\":%u,\"positions\":%zu,\"logits\":[", l->vocab_size, l->positions);
}

static void write_position(struct logits_job *l, const float *logits)
{
    if (!l->written)
        write_head(l);
    deq_buf_str(&l->text, l->written++ ? ", [" : "[");
    for (uint32_t i = 0; i < l->vocab_size; i++)
        deq_buf_fmt(&l->text, "%s%.9g", i ? ", " : "", (double)logits[i]);
    deq_buf_str(&l->text, "]");
}

static void write_end(struct logits_job *l)
{
    deq_buf_str(&l->text, "],\"deq\":");
    reply_reached(&l->text, l->tol, &l->reached);
    deq_buf_str(&l->text, "}");
}

/* Logits of the first position that is not written, or NULL. The engine's thread appends behind them. */
static const float *unwritten(struct logits_job *l, bool *ret_ended)
{
    const size_t bytes = l->vocab_size * sizeof(float), at = l->written * bytes;
    pthread_mutex_lock(&l->lock);
    const char *p = at + bytes <= l->news.len ? l->news.data + at : NULL;
    (void)deq_buf_carry(&l->text, &l->news);
    *ret_ended = l->ended;
    pthread_mutex_unlock(&l->lock);
    return (const float *)p;
}

static void tell_timing(const struct logits_job *l)
{
    struct timings t = {.prompt_evaluations = l->prompt_evaluations};
    timings_add(&t, &l->job, l->ended_ns);
    timings_tell(&t, l->channel);
}

static void answer(struct logits_job *l)
{
    l->answered = true;
    if (l->failed) {
        exchange_fail(l->channel, l->served->sched, &l->failure);
        return;
    }
    tell_timing(l);
    if (l->raw) {
        answer_whole(l->channel, 200, "application/octet-stream", &l->news);
        return;
    }
    deq_buf_free(&l->news);
    write_end(l);
    answer_whole(l->channel, 200, "application/json", &l->text);
}

static void render(void *ctx)
{
    struct logits_job *l = ctx;
    const float *logits;
    bool ended;
    if (l->answered)
        return;
    while ((logits = unwritten(l, &ended)) && !l->raw)
        write_position(l, logits);
    if (ended)
        answer(l);
}


/* --- From the channel, with its lock --- */

static void on_gone(void *ctx)
{
    sched_cancel(ctx);
}

/* Takes the prompt of r, and m. NULL: no memory, and nothing is taken. */
static struct logits_job *logits_job_new(struct served *m, const struct exchange *x, const struct logits_request *r)
{
    struct logits_job *l = DEQ_NEW(struct logits_job);
    struct deq_request q = deq_request_defaults(m->model);
    if (!l)
        return NULL;
    l->salt = r->salt;
    q.solve = r->solve;
    q.cache_salt = l->salt.bytes;
    q.cache_salt_len = l->salt.len;
    /* one token: the head runs at the last position only */
    q.max_tokens = r->all_positions || r->prompt.n >= sched_max_positions(m->sched) ? 0 : 1;
    q.want_prompt = q.max_tokens == 0;
    q.want_logits = true;
    l->job = (struct job){.request = q,
                          .prompt = r->prompt,
                          .caller = x->caller,
                          .arrived_ns = x->arrived_ns,
                          .deadline_ns = x->timeout_ms ? x->arrived_ns + x->timeout_ms * 1000000ull : 0,
                          .answer = &x->channel->allowance,
                          .on_admit = on_admit,
                          .on_event = on_event,
                          .on_end = on_end,
                          .sched = m->sched};
    memcpy(l->request_id, x->request_id, sizeof l->request_id);
    l->job.request_id = l->request_id;
    l->channel = x->channel;
    l->served = m;
    l->vocab_size = m->info.vocab_size;
    l->positions = positions_of(r);
    l->all = r->all_positions;
    l->tol = r->solve.tol;
    l->raw = x->wants_octets;
    l->news = (struct deq_buf){.max = news_bytes(l), .allowance = &x->channel->allowance};
    l->text = (struct deq_buf){.max = text_bytes(l), .allowance = &x->channel->allowance};
    l->job.answer_bytes = l->news.max + l->text.max + 2;
    atomic_store(&l->refs, 2);
    pthread_mutex_init(&l->lock, NULL);
    channel_ref(x->channel);
    return l;
}

/* An exchange_reader. */
static bool read_job(struct service *s, struct served *m, struct exchange *x, int at, struct exchange_work *ret)
{
    const struct request_context c = service_context(s, m);
    struct logits_request r;
    struct request_error err;
    struct logits_job *l = NULL;
    (void)at;
    if (!request_logits(&c, x->body.data, x->body.len, &r, &err)) {
        exchange_request_error(x, &err);
        return false;
    }
    /* the connection's thread would print for longer than its others may wait */
    if (!x->wants_octets && (uint64_t)positions_of(&r) * m->info.vocab_size > JSON_FLOATS_MAX)
        exchange_error(x, 400, "invalid_value", "positions",
                       "positions: more than 262144 numbers are not sent as JSON; ask for application/octet-stream");
    else if (!(l = logits_job_new(m, x, &r)))
        exchange_no_memory(x);
    if (!l) {
        deq_tokens_free(&r.prompt);
        return false;
    }
    *ret = (struct exchange_work){&l->job, {.gone = on_gone, .ctx = &l->job}, {render, logits_job_unref, l}};
    return true;
}

void ep_logits(struct service *s, struct served *m, struct exchange *x)
{
    exchange_run(s, m, x, read_job, 0);
}
