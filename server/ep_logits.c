/* POST /v1/logits: logits at the prompt's last position or at all of them, as JSON or as raw little-endian float32 [positions, vocab_size]. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "server/log.h"
#include "server/reply.h"
#include "server/route.h"

struct logits_job {
    struct job job;
    struct channel *channel;
    const char *model_name;
    uint32_t vocab_size;
    bool raw, all;
    float *logits;  /* [positions, V] */
    size_t have, positions;
    float tol;
    uint32_t iters_max;
    double iters_sum, residual_max;
    bool converged;
};

static enum deq_verdict on_event(struct job *j, const struct deq_event *e)
{
    struct logits_job *l = (struct logits_job *)j;
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
    reply_json(&head, json_pack("{s:s, s:s, s:I, s:I, s:{s:o, s:f, s:i, s:f, s:b}}", "object", "logits", "model", l->model_name, "vocab_size",
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

static void on_end(struct job *j, enum job_end end, enum deq_finish finish, const char *message)
{
    struct logits_job *l = (struct logits_job *)j;
    struct deq_buf out;
    int status = 200;
    const char *type = "application/json";
    deq_buf_init(&out, (size_t)1 << 30);
    channel_on_gone(l->channel, NULL, NULL);
    if (end == JOB_FINISHED && finish != DEQ_FINISH_NUMERIC && l->have == l->positions) {
        if (l->raw)
            type = "application/octet-stream";
        else
            reply_logits_json(l, &out);
    } else {
        status = end == JOB_FINISHED || end == JOB_REFUSED ? 500 : 503;
        reply_error(&out, status, end == JOB_FINISHED ? "solver_diverged" : end == JOB_REFUSED ? "internal_error" : end == JOB_QUEUE_TIMEOUT ? "queue_timeout" : "draining", NULL,
                    message ? message : end == JOB_QUEUE_TIMEOUT ? "the request waited too long" : "the server is shutting down");
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
    deq_buf_free(&out);
    channel_unref(l->channel);
    deq_tokens_free(&j->prompt);
    deq_free(l->logits);
    deq_free(l);
}

static void on_gone(void *ctx)
{
    sched_cancel(ctx);
}

void ep_logits(struct service *s, struct exchange *x)
{
    const struct request_context c = service_context(s);
    struct logits_request r;
    struct request_error err;
    if (!request_logits(&c, x->body.data, x->body.len, &r, &err)) {
        exchange_request_error(x, &err);
        return;
    }
    const uint32_t V = deq_model_info(s->model).vocab_size;
    const size_t positions = r.all_positions ? r.prompt.n : 1;
    struct logits_job *l = DEQ_NEW(struct logits_job);
    if (!l || !(l->logits = deq_alloc_array(positions, V * sizeof(float)))) {
        deq_free(l);
        deq_tokens_free(&r.prompt);
        exchange_error(x, 500, "internal_error", NULL, "out of memory");
        return;
    }
    struct deq_request q = deq_request_defaults(s->model);
    q.solve = r.solve;
    q.max_tokens = r.all_positions || r.prompt.n >= c.max_positions ? 0 : 1; /* one token: the head runs at the last position only */
    q.want_prompt = q.max_tokens == 0;
    q.want_logits = true;
    l->job = (struct job){.request = q, .prompt = r.prompt, .arrived_ns = x->arrived_ns, .on_event = on_event, .on_end = on_end, .sched = s->sched};
    l->channel = x->channel;
    l->model_name = s->model_name;
    l->vocab_size = V;
    l->positions = positions;
    l->all = r.all_positions;
    l->tol = r.solve.tol;
    l->converged = true;
    l->raw = x->accept && strstr(x->accept, "application/octet-stream");
    channel_ref(x->channel);
    channel_on_gone(x->channel, on_gone, &l->job);
    const enum submit verdict = sched_submit(s->sched, &l->job);
    if (verdict == SUBMIT_OK)
        return;
    channel_on_gone(x->channel, NULL, NULL);
    channel_unref(l->channel);
    deq_tokens_free(&l->job.prompt);
    deq_free(l->logits);
    deq_free(l);
    exchange_not_submitted(x, s, verdict);
}
