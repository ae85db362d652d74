#include "server/api/exchange.h"

#include <stdio.h>

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

struct exchange_outcome exchange_outcome(enum job_end end)
{
    static const struct exchange_outcome outcomes[] = {
        [JOB_FINISHED] = {500, "solver_diverged", "the state became infinite or not a number"},
        [JOB_CANCELED] = {500, "internal_error", "nobody is there"},
        [JOB_QUEUE_TIMEOUT] = {503, "queue_timeout", "the request waited too long for a place"},
        [JOB_DEADLINE] = {504, "deadline_exceeded", "the deadline passed"},
        [JOB_DRAINED] = {503, "draining", "the server is shutting down"},
        [JOB_REFUSED] = {500, "internal_error", "the engine refused the request"},
        [JOB_GAVE_WAY] = {503, "slow_reader", "others waited for the place of this answer"},
        [JOB_NO_MEMORY] = {503, "out_of_memory", "out of memory; try again later"},
        [JOB_ENDED] = {503, "ended_by_operator", "an operator ended this request"}};
    _Static_assert(DEQ_COUNT(outcomes) == JOB_END_COUNT, "one for each end");
    return outcomes[end];
}

void exchange_not_submitted(struct exchange *x, struct sched *sched, enum submit verdict)
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

bool exchange_reserve(struct exchange *x, const struct served *m, struct reservation *ret)
{
    const enum submit verdict = sched_reserve(m->sched, &x->caller, x->body.len / BYTES_PER_TOKEN, ret);
    if (verdict != SUBMIT_OK)
        exchange_not_submitted(x, m->sched, verdict);
    return verdict == SUBMIT_OK;
}

static void state_error(struct exchange *x, const struct deq_err *err)
{
    char text[sizeof err->text + 16];
    snprintf(text, sizeof text, "state: %s", err->text);
    switch (err->code) {
    case DEQ_ENOTFOUND: exchange_error(x, 404, "state_not_found", "state", text); break;
    case DEQ_EFORMAT: exchange_error(x, 400, "state_refused", "state", text); break;
    case DEQ_ENOMEM: exchange_no_memory(x); break;
    default: exchange_error(x, 500, "state_unreadable", "state", text);
    }
}

bool exchange_load_state(struct exchange *x, struct states *states, const struct served *m, const char *name,
                         struct exchange_state *ret)
{
    struct exchange_state s = {.channel = x->channel};
    struct deq_err err;
    if (*name) {
        if (states_load(states, m->model, name, deq_state_bytes(m->model, sched_max_positions(m->sched)), &s.state,
                        &err)) {
            state_error(x, &err);
            return false;
        }
        s.tokens = deq_state_info(s.state).n_tokens;
        s.bytes = deq_state_bytes(m->model, s.tokens);
        if (!deq_allowance_take(&x->channel->allowance, s.bytes)) {
            deq_state_free(s.state);
            exchange_no_memory(x);
            return false;
        }
    }
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
