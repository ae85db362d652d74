/* POST /v1/logits: logits at the prompt's last position or at all of them, as JSON or as raw little-endian float32
 * [positions, vocab_size]. */
#include <math.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "server/api/answer.h"
#include "server/api/endpoints.h"
#include "server/api/exchange.h"
#include "server/api/reply.h"
#include "server/log.h"

enum {
    JSON_FLOATS_MAX = 1 << 18, /* about 3 MB of text */
    JSON_FLOAT_BYTES = 18,     /* ", -1.23456789e-05" at most */
    JSON_HEAD_BYTES = 4096,    /* and what stands behind the numbers */
};

struct logits_job {
    struct job job;
    struct channel *channel;
    struct served *served; /* held */
    char request_id[132];
    uint32_t vocab_size;
    bool raw, all, numeric;
    struct deq_buf answer; /* whole once it was admitted: nothing is held in the queue, and nothing is copied after */
    size_t have, positions;
    float tol;
    uint32_t iters_max;
    double iters_sum, residual_max;
    bool converged;
};

static size_t positions_of(const struct logits_request *r)
{
    return r->all_positions ? r->prompt.n : 1;
}

static void logits_job_free(struct logits_job *l)
{
    deq_buf_free(&l->answer);
    channel_unref(l->channel);
    deq_tokens_free(&l->job.prompt);
    store_release(l->served);
    deq_free(l);
}

static size_t answer_bytes(const struct logits_job *l)
{
    const size_t n = l->positions * l->vocab_size;
    return l->raw ? n * sizeof(float) : n * JSON_FLOAT_BYTES + l->positions * 4 + JSON_HEAD_BYTES;
}

/* The scheduler kept room for it; should the system have none, the answer says so at its end. */
static void on_admit(struct job *j)
{
    struct logits_job *l = (struct logits_job *)j;
    deq_buf_reserve(&l->answer, answer_bytes(l));
    if (l->raw)
        return;
    deq_buf_str(&l->answer, "{\"object\":\"logits\",\"model\":");
    reply_string(&l->answer, l->served->name, strlen(l->served->name));
    deq_buf_fmt(&l->answer, ",\"vocab_size\":%u,\"positions\":%zu,\"logits\":[", l->vocab_size, l->positions);
}

static void add_position(struct logits_job *l, const float *logits)
{
    if (l->raw) {
        deq_buf_add(&l->answer, logits, l->vocab_size * sizeof *logits);
        return;
    }
    deq_buf_str(&l->answer, l->have ? ", [" : "[");
    for (uint32_t i = 0; i < l->vocab_size; i++)
        deq_buf_fmt(&l->answer, "%s%.9g", i ? ", " : "", (double)logits[i]);
    deq_buf_str(&l->answer, "]");
}

static enum deq_verdict on_event(struct job *j, const struct deq_event *e)
{
    struct logits_job *l = (struct logits_job *)j;
    l->numeric = l->numeric || (e->kind == DEQ_EVENT_END && e->finish == DEQ_FINISH_NUMERIC);
    if (!e->logits || l->have == l->positions || (!l->all && e->position + 1 != j->prompt.n))
        return DEQ_CONTINUE;
    add_position(l, e->logits);
    l->have++;
    l->iters_sum += e->evaluations;
    l->iters_max = DEQ_MAX(l->iters_max, e->evaluations);
    l->residual_max = fmax(l->residual_max, (double)e->residual);
    l->converged = l->converged && e->converged;
    return e->kind == DEQ_EVENT_TOKEN ? DEQ_STOP : DEQ_CONTINUE;
}

static void add_deq(struct logits_job *l)
{
    deq_buf_str(&l->answer, "],\"deq\":");
    reply_json(&l->answer, json_pack("{s:o, s:f, s:i, s:f, s:b}", "tol", reply_setting(l->tol), "iters_mean",
                                     l->iters_sum / (double)l->positions, "iters_max", (int)l->iters_max,
                                     "residual_max", l->residual_max, "converged", (int)l->converged));
    deq_buf_str(&l->answer, "}");
}

static void answer(struct logits_job *l, enum job_end end, const char *message)
{
    static const struct {
        int status;
        const char *code, *message;
    } errors[] = {[JOB_FINISHED] = {500, "solver_diverged", "the state became infinite or not a number"},
                  [JOB_CANCELED] = {500, "internal_error", "nobody is there"},
                  [JOB_QUEUE_TIMEOUT] = {503, "queue_timeout", "the request waited too long for a place"},
                  [JOB_DEADLINE] = {504, "deadline_exceeded", "the deadline passed"},
                  [JOB_DRAINED] = {503, "draining", "the server is shutting down"},
                  [JOB_REFUSED] = {500, "internal_error", "the engine refused the request"},
                  [JOB_GAVE_WAY] = {503, "slow_reader", "others waited for the place of this answer"},
                  [JOB_NO_MEMORY] = {503, "out_of_memory", "out of memory; try again later"}};
    _Static_assert(DEQ_COUNT(errors) == JOB_END_COUNT, "an error for each end");
    if (end == JOB_FINISHED && !l->numeric && l->have == l->positions) {
        if (!l->raw)
            add_deq(l);
        answer_whole(l->channel, 200, l->raw ? "application/octet-stream" : "application/json", &l->answer);
        return;
    }
    const enum job_end as = end == JOB_FINISHED && !l->numeric ? JOB_DEADLINE : end;
    if (as == JOB_FINISHED)
        channel_no_retry(l->channel);
    if (errors[as].status == 503)
        channel_retry_after(l->channel, sched_retry_ms(l->served->sched));
    answer_error(l->channel, errors[as].status, errors[as].code, message ? message : errors[as].message);
}

static void on_end(struct job *j, enum job_end end, const char *message)
{
    struct logits_job *l = (struct logits_job *)j;
    channel_listen(l->channel, (struct channel_events){0});
    answer(l, end, message);
    if (log_on(LOG_INFO))
        log_line(LOG_INFO, "logits", log_text("request_id", l->request_id),
                 log_int("status", end == JOB_CANCELED ? 499 : channel_status(l->channel)),
                 log_int("prompt_tokens", (int64_t)j->prompt.n), log_int("positions", (int64_t)l->positions),
                 log_real("ms", (double)(deq_now_ns() - j->arrived_ns) * 1e-6));
    logits_job_free(l);
}

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
    q.solve = r->solve;
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
    l->channel = x->channel;
    l->served = m;
    l->vocab_size = m->info.vocab_size;
    l->positions = positions_of(r);
    l->all = r->all_positions;
    l->tol = r->solve.tol;
    l->converged = true;
    l->raw = x->wants_octets;
    l->answer = (struct deq_buf){.max = answer_bytes(l), .allowance = &x->channel->allowance};
    l->job.answer_bytes = l->answer.max + 1;
    channel_ref(x->channel);
    return l;
}

/* The job that the body asks for, or NULL: x is answered. */
static struct logits_job *read_job(struct service *s, struct served *m, struct exchange *x)
{
    const struct request_context c = service_context(s, m);
    struct logits_request r;
    struct request_error err;
    struct logits_job *l = NULL;
    if (!request_logits(&c, x->body.data, x->body.len, &r, &err)) {
        exchange_request_error(x, &err);
        return NULL;
    }
    /* the engine's thread would print for longer than others may wait */
    if (!x->wants_octets && (uint64_t)positions_of(&r) * m->info.vocab_size > JSON_FLOATS_MAX)
        exchange_error(x, 400, "invalid_value", "positions",
                       "positions: more than 262144 numbers are not sent as JSON; ask for application/octet-stream");
    else if (!(l = logits_job_new(m, x, &r)))
        exchange_no_memory(x);
    if (!l)
        deq_tokens_free(&r.prompt);
    return l;
}

void ep_logits(struct service *s, struct served *m, struct exchange *x)
{
    struct reservation reservation;
    if (!exchange_reserve(x, m, &reservation)) {
        store_release(m);
        return;
    }
    struct logits_job *l = read_job(s, m, x);
    if (!l) {
        sched_release(&reservation);
        store_release(m);
        return;
    }
    struct sched *sched = m->sched;
    struct job *job = &l->job;
    channel_listen(x->channel, (struct channel_events){.gone = on_gone, .ctx = job});
    const enum submit verdict = sched_submit(sched, &reservation, &job, 1);
    if (verdict == SUBMIT_OK)
        return;
    channel_listen(x->channel, (struct channel_events){0});
    exchange_not_submitted(x, sched, verdict);
    logits_job_free(l);
}
