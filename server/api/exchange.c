#include "server/api/exchange.h"

#include <stdio.h>

#include "core/base/utf8.h"
#include "server/api/answer.h"
#include "server/api/reply.h"

enum { BYTES_PER_TOKEN = 4 /* of a body: a guess, for the queue */ };

void exchange_error(struct exchange *x, int status, const char *code, const char *param, const char *message)
{
    deq_buf_free(&x->reply);
    x->reply_type = NULL;
    x->status = status;
    reply_error(&x->reply, status, code, param, message);
}

void exchange_no_memory(struct exchange *x)
{
    x->retry_after_ms = ANSWER_RETRY_MS;
    exchange_error(x, 503, "out_of_memory", NULL, "out of memory; try again later");
}

void exchange_request_error(struct exchange *x, const struct request_error *e)
{
    x->status = e->status;
    if (e->status == 503)
        x->retry_after_ms = ANSWER_RETRY_MS;
    if (e->n_ctx)
        reply_length_error(&x->reply, e->param, e->message, e->n_prompt_tokens, e->n_ctx);
    else
        reply_error(&x->reply, e->status, e->code, e->param[0] ? e->param : NULL, e->message);
}

/* --- Work for the scheduler --- */

/* An error for work that was not taken, with its Retry-After. */
static void not_submitted(struct exchange *x, struct sched *sched, enum submit verdict)
{
    x->retry_after_ms = verdict == SUBMIT_DRAINING ? 1000 : sched_retry_ms(sched);
    switch (verdict) {
    case SUBMIT_QUEUE_FULL:
        exchange_error(x, 429, "queue_full", NULL, "too many requests are waiting; try again later");
        break;
    case SUBMIT_TOKENS_FULL:
        exchange_error(x, 429, "tokens_queue_full", NULL, "too many prompt tokens are waiting; try again later");
        break;
    case SUBMIT_KEY_LIMIT:
        exchange_error(x, 429, "key_rate_limited", NULL,
                       "this key has as many requests under way as limits.max_requests_per_key allows");
        break;
    default: exchange_error(x, 503, "draining", NULL, "the server is shutting down"); break;
    }
}

void exchange_run(struct service *s, struct served *m, struct exchange *x, exchange_reader *read, int at)
{
    struct sched *const sched = m->sched;
    struct reservation place;
    struct exchange_work w;
    enum submit verdict = sched_reserve(sched, &x->caller, x->body.len / BYTES_PER_TOKEN, &place);
    if (verdict != SUBMIT_OK) {
        not_submitted(x, sched, verdict);
        store_release(m);
        return;
    }
    if (!read(s, m, x, at, &w)) {
        sched_release(&place); /* while the model that it belongs to is still held */
        store_release(m);
        return;
    }
    channel_listen(x->channel, w.events);
    channel_set_source(x->channel, w.source);
    verdict = sched_submit(sched, &place, w.jobs);
    if (verdict == SUBMIT_OK) /* the jobs' reference is the engine's thread's, and all may be gone */
        return;
    channel_listen(x->channel, (struct channel_events){0});
    channel_set_source(x->channel, (struct channel_source){0});
    not_submitted(x, sched, verdict);
    w.source.drop(w.source.ctx);
}

/* --- Jobs that gave nothing --- */

struct outcome {
    int status;
    const char *code, *message;
};

static const struct outcome outcomes[] = {
    [JOB_FINISHED] = {500, "solver_diverged", "the state became infinite or not a number"},
    [JOB_CANCELED] = {.status = 499, .code = "cancelled", .message = "nobody is there"} /* nor told */,
    [JOB_QUEUE_TIMEOUT] = {503, "queue_timeout", "the request waited too long for a place"},
    [JOB_DEADLINE] = {504, "deadline_exceeded", "the deadline passed before there was an answer"},
    [JOB_DRAINED] = {503, "draining", "the server is shutting down"},
    [JOB_REFUSED] = {500, "internal_error", "the engine refused the request"},
    [JOB_GAVE_WAY] = {503, "slow_reader", "others waited for the place of this answer, which was read too slowly"},
    [JOB_NO_MEMORY] = {503, "out_of_memory", "out of memory; try again later"},
    [JOB_ENDED] = {503, "ended_by_operator", "an operator ended this request"}};
_Static_assert(DEQ_COUNT(outcomes) == JOB_END_COUNT, "one for each end");

void exchange_failure(struct exchange_failure *f, enum job_end end, const char *message)
{
    f->end = end;
    snprintf(f->message, sizeof f->message, "%s", message ? message : outcomes[end].message);
    deq_utf8_line(f->message);
}

int exchange_failure_status(const struct exchange_failure *f)
{
    return outcomes[f->end].status;
}

const char *exchange_failure_code(const struct exchange_failure *f)
{
    return outcomes[f->end].code;
}

void exchange_fail(struct channel *c, struct sched *s, const struct exchange_failure *f)
{
    const struct outcome *o = &outcomes[f->end];
    if (f->end == JOB_CANCELED) {
        answer_cut(c);
        return;
    }
    if (f->end == JOB_FINISHED || f->end == JOB_ENDED) /* the same would come of it again, or is not wanted */
        channel_no_retry(c);
    else if (o->status == 503)
        channel_retry_after(c, sched_retry_ms(s));
    answer_error(c, o->status, o->code, f->message);
}

/* --- Saved states --- */

/* param: the field that names the state; NULL: it is the body. */
static void state_error(struct exchange *x, const char *param, const struct deq_err *err)
{
    char text[sizeof err->text + 16];
    snprintf(text, sizeof text, "%s%s%s", param ? param : "", param ? ": " : "", err->text);
    switch (err->code) {
    case DEQ_ENOTFOUND: exchange_error(x, 404, "state_not_found", param, text); break;
    case DEQ_EFORMAT: exchange_error(x, 400, "state_refused", param, text); break;
    case DEQ_ENOMEM: exchange_no_memory(x); break;
    default: exchange_error(x, 500, "state_unreadable", param, text);
    }
}

/* s, whose state is there, takes its part of the exchange's memory. False: x is answered. */
static bool count_state(struct exchange *x, const struct served *m, struct exchange_state *s)
{
    s->tokens = deq_state_info(s->state).n_tokens;
    s->bytes = deq_state_bytes(m->model, s->tokens);
    if (deq_allowance_take(&x->channel->allowance, s->bytes))
        return true;
    deq_state_free(s->state);
    exchange_no_memory(x);
    return false;
}

bool exchange_load_state(struct exchange *x, struct states *states, const struct served *m, const char *name,
                         struct exchange_state *ret)
{
    struct exchange_state s = {.channel = x->channel};
    struct deq_err err;
    if (*name) {
        if (states_load(states, m->model, name, deq_state_bytes(m->model, sched_max_positions(m->sched)), &s.state,
                        &err)) {
            state_error(x, "state", &err);
            return false;
        }
        if (!count_state(x, m, &s))
            return false;
    }
    *ret = s;
    return true;
}

bool exchange_parse_state(struct exchange *x, const struct served *m, const char *name, struct exchange_state *ret)
{
    struct exchange_state s = {.channel = x->channel};
    struct deq_err err;
    if (deq_state_parse(m->model, x->body.data ? x->body.data : "", x->body.len, name, &s.state, &err)) {
        state_error(x, NULL, &err);
        return false;
    }
    if (!count_state(x, m, &s))
        return false;
    *ret = s;
    return true;
}

void exchange_free_state(struct exchange_state *s)
{
    if (s->state)
        deq_allowance_give(&s->channel->allowance, s->bytes);
    deq_state_free(s->state);
    s->state = NULL;
}
