/* POST /v1/completions, whole and as a stream of server-sent events.
 *
 * parse -> job -> (engine thread) tokens -> bytes -> stop strings and characters -> text -> JSON -> channel. One struct completion lives from
 * parsing to the end of the job. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "server/log.h"
#include "server/reply.h"
#include "server/route.h"

enum { TEXT_MAX_BYTES = 64 << 20 };

struct completion {
    struct job job;
    struct completion_request req;
    struct service *service;
    struct channel *channel;
    char request_id[132];
    int64_t created;
    struct deq_text *text;     /* bytes of tokens -> text that may be shown */
    struct deq_buf shown;      /* not yet sent (stream), or all of it */
    size_t code_points;        /* of the token bytes so far: text_offset */
    uint32_t tokens;
    int stopped;               /* index of the stop string, or -1 */
    /* logprobs of the tokens since the last chunk, or of all */
    json_t *lp_tokens, *lp_values, *lp_top, *lp_offsets;
    /* the response's deq object */
    double iters_sum, residual_max;
    uint32_t iters_max;
    bool converged;
};

static void completion_free(struct completion *c)
{
    if (!c)
        return;
    completion_request_free(&c->req);
    deq_tokens_free(&c->job.prompt);
    deq_text_free(c->text);
    deq_buf_free(&c->shown);
    json_decref(c->lp_tokens);
    json_decref(c->lp_values);
    json_decref(c->lp_top);
    json_decref(c->lp_offsets);
    channel_unref(c->channel);
    deq_free(c);
}

/* --- JSON --- */

/* A token as a string: its text, or "bytes:\xe2\x80" when it is part of a character. */
static void token_string(const struct completion *c, uint32_t id, struct deq_buf *out)
{
    size_t n;
    const char *b = deq_token_bytes(c->service->model, id, &n);
    deq_buf_reset(out);
    if (b && deq_utf8_valid(b, n)) {
        deq_buf_add(out, b, n);
        return;
    }
    deq_buf_str(out, "bytes:");
    for (size_t i = 0; b && i < n; i++)
        deq_buf_fmt(out, "\\x%02x", (unsigned char)b[i]);
}

static void logprobs_new(struct completion *c)
{
    c->lp_tokens = json_array();
    c->lp_values = json_array();
    c->lp_top = json_array();
    c->lp_offsets = json_array();
}

static void logprobs_add(struct completion *c, const struct deq_event *e)
{
    enum { TOP_MAX = 1000 }; /* the table's bound of limits.max_logprobs */
    const uint32_t V = deq_model_info(c->service->model).vocab_size, n = DEQ_MIN((uint32_t)c->req.logprobs, V);
    uint32_t ids[TOP_MAX];
    float values[TOP_MAX];
    struct deq_buf name;
    deq_buf_init(&name, 1 << 16);
    const float own = deq_logprob(e->logits, V, e->token);
    json_t *top = json_object();
    deq_top_logprobs(e->logits, V, n, ids, values);
    for (uint32_t i = 0; i < n; i++) {
        token_string(c, ids[i], &name);
        json_object_setn_new(top, name.data ? name.data : "", name.len, reply_float(values[i]));
    }
    token_string(c, e->token, &name);
    json_object_setn_new(top, name.data ? name.data : "", name.len, reply_float(own)); /* "may be up to logprobs + 1": the sampled one is always in */
    json_array_append_new(c->lp_tokens, reply_text(name.data, name.len));
    json_array_append_new(c->lp_values, reply_float(own));
    json_array_append_new(c->lp_top, top);
    json_array_append_new(c->lp_offsets, json_integer((json_int_t)c->code_points));
    deq_buf_free(&name);
}

/* Hands out what was gathered and begins anew; null when logprobs were not asked for. */
static json_t *logprobs_take(struct completion *c)
{
    if (c->req.logprobs < 0)
        return json_null();
    json_t *o = json_pack("{s:o, s:o, s:o, s:o}", "tokens", c->lp_tokens, "token_logprobs", c->lp_values, "top_logprobs", c->lp_top, "text_offset",
                          c->lp_offsets);
    logprobs_new(c);
    return o;
}

static json_t *head_object(const struct completion *c)
{
    char id[160];
    snprintf(id, sizeof id, "cmpl-%s", c->request_id);
    return json_pack("{s:s, s:s, s:I, s:s, s:s}", "id", id, "object", "text_completion", "created", (json_int_t)c->created, "model",
                     c->service->model_name, "system_fingerprint", deq_model_info(c->service->model).fingerprint);
}

static json_t *usage_object(const struct completion *c)
{
    return json_pack("{s:I, s:I, s:I, s:{s:i}}", "prompt_tokens", (json_int_t)c->job.prompt.n, "completion_tokens", (json_int_t)c->tokens,
                     "total_tokens", (json_int_t)(c->job.prompt.n + c->tokens), "prompt_tokens_details", "cached_tokens", 0);
}

static json_t *deq_object(const struct completion *c)
{
    const struct deq_solve_params *p = &c->req.solve;
    return json_pack("{s:o, s:s, s:s, s:i, s:f, s:i, s:f, s:b}", "tol", reply_setting(p->tol), "solver", deq_solver_name(p->solver), "warm_start",
                     deq_warm_name(p->warm_start), "window", (int)p->window, "iters_mean", c->tokens ? c->iters_sum / c->tokens : 0.0, "iters_max",
                     (int)c->iters_max, "residual_max", c->residual_max, "converged", (int)c->converged);
}

static json_t *choice_object(struct completion *c, const char *finish)
{
    json_t *o = json_pack("{s:i, s:o, s:o, s:s?}", "index", 0, "text", reply_text(c->shown.data, c->shown.len), "logprobs", logprobs_take(c),
                          "finish_reason", finish);
    if (finish && c->stopped >= 0)
        json_object_set_new(o, "stop_reason", reply_text(c->req.stop[c->stopped], c->req.stop_len[c->stopped]));
    return o;
}

/* --- Stream --- */

static bool send_event(struct completion *c, json_t *object)
{
    struct deq_buf b;
    deq_buf_init(&b, 1 << 22);
    deq_buf_str(&b, "data: ");
    reply_json(&b, object);
    deq_buf_str(&b, "\n\n");
    const bool ok = !b.failed && channel_write(c->channel, b.data, b.len);
    deq_buf_free(&b);
    return ok;
}

/* One chunk with the text (and logprobs) so far; the last one of a choice has no text but the reason. */
static bool send_chunk(struct completion *c, const char *finish)
{
    json_t *o = head_object(c);
    json_object_set_new(o, "choices", json_pack("[o]", choice_object(c, finish)));
    if (c->req.include_usage)
        json_object_set_new(o, "usage", json_null());
    if (finish)
        json_object_set_new(o, "deq", deq_object(c));
    deq_buf_reset(&c->shown);
    return send_event(c, o);
}

/* --- The job --- */

static enum deq_verdict on_event(struct job *j, const struct deq_event *e)
{
    struct completion *c = (struct completion *)j;
    if (e->kind != DEQ_EVENT_TOKEN)
        return DEQ_CONTINUE;
    c->iters_sum += e->evaluations;
    c->iters_max = DEQ_MAX(c->iters_max, e->evaluations);
    c->residual_max = fmax(c->residual_max, (double)e->residual);
    c->converged = c->converged && e->converged;
    const bool special = deq_token_is_special(c->service->model, e->token);
    if (special && !c->req.ignore_eos && (int64_t)e->token == deq_model_info(c->service->model).eos_id)
        return DEQ_CONTINUE; /* the end of the text is not part of it */
    c->tokens++;
    if (c->req.logprobs >= 0)
        logprobs_add(c, e);
    size_t n = 0;
    const char *bytes = special ? NULL : deq_token_bytes(c->service->model, e->token, &n);
    if (bytes) {
        c->code_points += deq_utf8_count(bytes, n);
        c->stopped = deq_text_push(c->text, bytes, n, &c->shown);
    }
    if (c->req.stream && (c->shown.len || c->req.logprobs >= 0) && !send_chunk(c, NULL))
        sched_cancel(j); /* nobody reads any more; it ends before the next step */
    return c->stopped >= 0 ? DEQ_STOP : DEQ_CONTINUE;
}

static void on_admit(struct job *j)
{
    struct completion *c = (struct completion *)j;
    /* headers leave now and not before, so that refusals keep their own status */
    if (c->req.stream)
        channel_start_stream(c->channel, c->service->conf->stream_buffer_bytes);
}

/* An error before the stream began has a status of its own; in a stream it is an event, and no [DONE] follows. */
static void end_with_error(struct completion *c, int status, const char *code, const char *message)
{
    struct deq_buf b;
    deq_buf_init(&b, 4096);
    const bool streaming = c->req.stream && c->job.admitted_ns;
    if (streaming)
        deq_buf_str(&b, "data: ");
    reply_error(&b, status, code, NULL, message);
    if (streaming)
        deq_buf_str(&b, "\n\n");
    (void)channel_write(c->channel, b.data ? b.data : "", b.len);
    channel_finish(c->channel, status, "application/json", false);
    deq_buf_free(&b);
}

static void end_with_answer(struct completion *c, const char *finish)
{
    if (c->stopped < 0)
        deq_text_end(c->text, &c->shown);
    if (!c->req.stream) {
        struct deq_buf b;
        deq_buf_init(&b, (size_t)1 << 30);
        json_t *o = head_object(c);
        json_object_set_new(o, "choices", json_pack("[o]", choice_object(c, finish)));
        json_object_set_new(o, "usage", usage_object(c));
        json_object_set_new(o, "deq", deq_object(c));
        reply_json(&b, o);
        (void)channel_write(c->channel, b.data ? b.data : "", b.len);
        channel_finish(c->channel, b.failed ? 500 : 200, "application/json", b.failed);
        deq_buf_free(&b);
        return;
    }
    if (c->shown.len)
        (void)send_chunk(c, NULL);
    (void)send_chunk(c, finish);
    if (c->req.include_usage) {
        json_t *o = head_object(c);
        json_object_set_new(o, "choices", json_array());
        json_object_set_new(o, "usage", usage_object(c));
        (void)send_event(c, o);
    }
    (void)channel_write(c->channel, "data: [DONE]\n\n", 14);
    channel_finish(c->channel, 200, NULL, false);
}

static void on_end(struct job *j, enum job_end end, enum deq_finish finish, const char *message)
{
    struct completion *c = (struct completion *)j;
    const char *reason = finish == DEQ_FINISH_LENGTH ? "length" : "stop";
    int status = 200;
    channel_on_gone(c->channel, NULL, NULL);
    if (end == JOB_FINISHED && finish == DEQ_FINISH_NUMERIC)
        end_with_error(c, status = 500, "solver_diverged", message);
    else if (end == JOB_FINISHED)
        end_with_answer(c, reason);
    else if (end == JOB_CANCELED) {
        status = 499; /* of the log only: nobody is there */
        channel_finish(c->channel, 500, "application/json", true);
    } else if (end == JOB_QUEUE_TIMEOUT)
        end_with_error(c, status = 503, "queue_timeout", "the request waited too long for a place");
    else if (end == JOB_DRAINED)
        end_with_error(c, status = 503, "draining", "the server is shutting down");
    else
        end_with_error(c, status = 500, "internal_error", message);
    if (log_on(LOG_INFO)) {
        const uint64_t now = deq_now_ns();
        log_line(LOG_INFO, "completion", "{s:s, s:i, s:s, s:I, s:I, s:f, s:f, s:f, s:b}", "request_id", c->request_id, "status", status, "finish",
                 status == 200 ? reason : "error", "prompt_tokens", (json_int_t)j->prompt.n, "completion_tokens", (json_int_t)c->tokens, "ms",
                 (double)(now - j->arrived_ns) * 1e-6, "queue_ms", j->admitted_ns ? (double)(j->admitted_ns - j->arrived_ns) * 1e-6 : -1.0,
                 "iters_mean", c->tokens ? c->iters_sum / c->tokens : 0.0, "stream", (int)c->req.stream);
    }
    completion_free(c);
}

static void on_gone(void *ctx)
{
    sched_cancel(ctx);
}

void ep_completions(struct service *s, struct exchange *x)
{
    const struct request_context rc = service_context(s);
    struct completion_request r;
    struct request_error err;
    struct deq_err e;
    if (!request_completion(&rc, x->body.data, x->body.len, &r, &err)) {
        exchange_request_error(x, &err);
        return;
    }
    struct completion *c = DEQ_NEW(struct completion);
    if (!c) {
        completion_request_free(&r);
        exchange_error(x, 500, "internal_error", NULL, "out of memory");
        return;
    }
    c->req = r;
    c->req.prompt = (struct deq_tokens){0}; /* the job has them now */
    c->service = s;
    c->stopped = -1;
    c->converged = true;
    c->created = (int64_t)(deq_wall_ms() / 1000);
    snprintf(c->request_id, sizeof c->request_id, "%s", x->request_id);
    deq_buf_init(&c->shown, TEXT_MAX_BYTES);
    if (r.logprobs >= 0)
        logprobs_new(c);
    struct deq_request q = deq_request_defaults(s->model);
    q.max_tokens = r.max_tokens;
    q.ignore_eos = r.ignore_eos;
    q.want_logits = r.logprobs >= 0;
    q.sampling = r.sampling;
    q.solve = r.solve;
    c->job = (struct job){.request = q,
                          .prompt = r.prompt,
                          .arrived_ns = x->arrived_ns,
                          .on_event = on_event,
                          .on_admit = on_admit,
                          .on_end = on_end,
                          .sched = s->sched};
    c->channel = x->channel;
    channel_ref(x->channel);
    if (deq_text_new((const char *const *)c->req.stop, c->req.stop_len, c->req.n_stops, &c->text, &e)) {
        completion_free(c);
        exchange_error(x, 500, "internal_error", NULL, "out of memory");
        return;
    }
    channel_on_gone(x->channel, on_gone, &c->job);
    const enum submit verdict = sched_submit(s->sched, &c->job);
    if (verdict == SUBMIT_OK)
        return; /* c belongs to the engine's thread now, and may be gone already */
    channel_on_gone(x->channel, NULL, NULL);
    completion_free(c);
    exchange_not_submitted(x, s, verdict);
}
