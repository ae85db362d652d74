/* POST /v1/logits: logits at the prompt's last position or at all of them, as JSON or as raw little-endian float32 [positions, vocab_size]. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "server/log.h"
#include "server/reply.h"
#include "server/route.h"

enum {
    BYTES_PER_TOKEN = 4,       /* a guess, for the queue: before the prompt is read */
    JSON_FLOATS_MAX = 1 << 18, /* about 3 MB of text */
};

struct logits_job {
    struct job job;
    struct channel *channel;
    struct served *served; /* held */
    char request_id[132];
    uint32_t vocab_size;
    bool raw, all, numeric;
    float *logits;  /* [positions, V] */
    size_t have, positions;
    float tol;
    uint32_t iters_max;
    double iters_sum, residual_max;
    bool converged;
};

static void logits_job_free(struct logits_job *l)
{
    channel_unref(l->channel);
    deq_tokens_free(&l->job.prompt);
    store_release(l->served);
    deq_free(l->logits);
    deq_free(l);
}

static enum deq_verdict on_event(struct job *j, const struct deq_event *e)
{
    struct logits_job *l = (struct logits_job *)j;
    l->numeric = l->numeric || (e->kind == DEQ_EVENT_END && e->finish == DEQ_FINISH_NUMERIC);
    if (!e->logits || l->have == l->positions || (!l->all && e->position + 1 != j->prompt.n))
        return DEQ_CONTINUE;
    memcpy(l->logits + l->have++ * l->vocab_size, e->logits, l->vocab_size * sizeof(float));
    l->iters_sum += e->evaluations;
    l->iters_max = DEQ_MAX(l->iters_max, e->evaluations);
    l->residual_max = fmax(l->residual_max, (double)e->residual);
    l->converged = l->converged && e->converged;
    return e->kind == DEQ_EVENT_TOKEN ? DEQ_STOP : DEQ_CONTINUE;
}

static void reply_logits_json(const struct logits_job *l, struct deq_buf *out)
{
    struct deq_buf head;
    deq_buf_init(&head, 4096);
    reply_json(&head, json_pack("{s:s, s:s, s:I, s:I, s:{s:o, s:f, s:i, s:f, s:b}}", "object", "logits", "model", l->served->name, "vocab_size",
                                (json_int_t)l->vocab_size, "positions", (json_int_t)l->positions, "deq", "tol", reply_setting(l->tol), "iters_mean",
                                l->iters_sum / (double)l->positions, "iters_max", (int)l->iters_max, "residual_max", l->residual_max, "converged",
                                (int)l->converged));
    deq_buf_add(out, head.data, head.len ? head.len - 1 : 0); /* without its closing brace */
    deq_buf_str(out, ", \"logits\": [");
    for (size_t p = 0; p < l->positions; p++) {
        deq_buf_str(out, p ? ", [" : "[");
        for (uint32_t i = 0; i < l->vocab_size; i++)
            deq_buf_fmt(out, "%s%.9g", i ? ", " : "", (double)l->logits[p * l->vocab_size + i]);
        deq_buf_str(out, "]");
    }
    deq_buf_str(out, "]}");
    deq_buf_free(&head);
}

static void on_end(struct job *j, enum job_end end, const char *message)
{
    struct logits_job *l = (struct logits_job *)j;
    struct deq_buf out;
    int status = 200;
    const char *type = "application/json";
    deq_buf_init(&out, (size_t)1 << 30);
    channel_listen(l->channel, (struct channel_events){0});
    static const struct {
        int status;
        const char *code, *message;
    } errors[] = {[JOB_FINISHED] = {500, "solver_diverged", "the state became infinite or not a number"},
                  [JOB_CANCELED] = {500, "internal_error", "nobody is there"},
                  [JOB_QUEUE_TIMEOUT] = {503, "queue_timeout", "the request waited too long for a place"},
                  [JOB_DEADLINE] = {504, "deadline_exceeded", "the deadline passed"},
                  [JOB_DRAINED] = {503, "draining", "the server is shutting down"},
                  [JOB_REFUSED] = {500, "internal_error", "the engine refused the request"}};
    if (end == JOB_FINISHED && !l->numeric && l->have == l->positions) {
        if (l->raw)
            type = "application/octet-stream";
        else
            reply_logits_json(l, &out);
    } else {
        const bool late = end == JOB_FINISHED && !l->numeric;
        const enum job_end as = late ? JOB_DEADLINE : end;
        status = errors[as].status;
        if (as == JOB_FINISHED)
            channel_no_retry(l->channel);
        if (status == 503)
            channel_retry_after(l->channel, sched_retry_ms(l->served->sched));
        reply_error(&out, status, errors[as].code, NULL, message ? message : errors[as].message);
    }
    if (out.failed) {
        deq_buf_reset(&out);
        status = 500;
        reply_error(&out, status, "internal_error", NULL, "the answer does not fit in memory; ask for application/octet-stream");
    }
    if (status == 200 && l->raw)
        (void)channel_write(l->channel, l->logits, l->positions * l->vocab_size * sizeof(float));
    else
        (void)channel_write(l->channel, out.data, out.len);
    channel_finish(l->channel, status, type, false);
    if (log_on(LOG_INFO))
        log_line(LOG_INFO, "logits", "{s:s, s:i, s:I, s:I, s:f}", "request_id", l->request_id, "status", end == JOB_CANCELED ? 499 : status, "prompt_tokens",
                 (json_int_t)j->prompt.n, "positions", (json_int_t)l->positions, "ms", (double)(deq_now_ns() - j->arrived_ns) * 1e-6);
    deq_buf_free(&out);
    logits_job_free(l);
}

static void on_gone(void *ctx)
{
    sched_cancel(ctx);
}

void ep_logits(struct service *s, struct served *m, struct exchange *x)
{
    const struct request_context c = service_context(s, m);
    struct logits_request r;
    struct request_error err;
    struct place place;
    enum submit verdict = sched_reserve(m->sched, &x->caller, x->body.len / BYTES_PER_TOKEN, &place);
    if (verdict != SUBMIT_OK) {
        exchange_not_submitted(x, m->sched, verdict);
        store_release(m);
        return;
    }
    if (!request_logits(&c, x->body.data, x->body.len, &r, &err)) {
        sched_release(&place);
        store_release(m);
        exchange_request_error(x, &err);
        return;
    }
    const uint32_t V = m->info.vocab_size;
    const size_t positions = r.all_positions ? r.prompt.n : 1;
    const bool raw = x->wants_octets;
    if (!raw && (uint64_t)positions * V > JSON_FLOATS_MAX) { /* the engine's thread would print for longer than others may wait */
        sched_release(&place);
        store_release(m);
        deq_tokens_free(&r.prompt);
        exchange_error(x, 400, "invalid_value", "positions", "positions: more than 262144 numbers are not sent as JSON; ask for application/octet-stream");
        return;
    }
    struct logits_job *l = DEQ_NEW(struct logits_job);
    if (!l || !(l->logits = deq_alloc_array(positions, V * sizeof(float)))) {
        sched_release(&place);
        store_release(m);
        deq_free(l);
        deq_tokens_free(&r.prompt);
        exchange_error(x, 500, "internal_error", NULL, "out of memory");
        return;
    }
    struct deq_request q = deq_request_defaults(m->model);
    q.solve = r.solve;
    q.max_tokens = r.all_positions || r.prompt.n >= c.max_positions ? 0 : 1; /* one token: the head runs at the last position only */
    q.want_prompt = q.max_tokens == 0;
    q.want_logits = true;
    l->job = (struct job){.request = q,
                          .prompt = r.prompt,
                          .caller = x->caller,
                          .arrived_ns = x->arrived_ns,
                          .deadline_ns = x->timeout_ms ? x->arrived_ns + x->timeout_ms * 1000000ull : 0,
                          .on_event = on_event,
                          .on_end = on_end,
                          .sched = m->sched};
    memcpy(l->request_id, x->request_id, sizeof l->request_id);
    l->channel = x->channel;
    l->served = m;
    l->vocab_size = V;
    l->positions = positions;
    l->all = r.all_positions;
    l->tol = r.solve.tol;
    l->converged = true;
    l->raw = raw;
    channel_ref(x->channel);
    channel_listen(x->channel, (struct channel_events){.gone = on_gone, .ctx = &l->job});
    struct sched *sched = m->sched;
    struct job *job = &l->job;
    verdict = sched_submit(sched, &place, &job, 1);
    if (verdict == SUBMIT_OK)
        return;
    channel_listen(x->channel, (struct channel_events){0});
    exchange_not_submitted(x, sched, verdict);
    logits_job_free(l);
}
