/* What a completion's jobs do on the engine's thread: tokens become the news of their choices, and ends its end. */
#include "server/api/completion.h"

#include <math.h>
#include <stdio.h>

#include "core/base/clock.h"
#include "server/log.h"

/* Caller holds the lock. */
static void fail(struct completion *c, enum job_end end, const char *message)
{
    if (c->failed)
        return;
    c->failed = true;
    exchange_failure(&c->failure, end, message);
    for (size_t i = 0; i < c->req.n_prompts; i++) /* the others have nobody to answer to */
        sched_cancel(&c->prompts[i].job);
}

static bool is_stop_token(const struct completion_request *r, uint32_t token)
{
    for (size_t i = 0; i < r->stop_ids.n; i++)
        if (r->stop_ids.ids[i] == token)
            return true;
    return false;
}

/* The prompt's tokens as they stand behind the position that was just solved. */
static void echo_event(struct prompt *p, const struct deq_event *e)
{
    const size_t next = e->position + 1;
    if (next < p->job.prompt.n)
        prompt_add(p, p->job.prompt.ids[next], e);
}

static void on_choice_end(struct choice *ch, const struct deq_event *e)
{
    struct completion *c = ch->c;
    ch->finish = e->finish;
    ch->prompt_positions = e->prompt_positions;
    ch->prompt_evaluations = e->prompt_evaluations;
    ch->text_evaluations = e->text_evaluations;
    ch->tol_max = e->tol_max;
    ch->residual_max = fmaxf(ch->residual_max, e->prompt_residual_max);
    ch->converged = ch->converged && e->prompt_converged;
    if (e->finish == DEQ_FINISH_CANCELED)
        return;
    if (e->finish == DEQ_FINISH_NUMERIC)
        fail(c, JOB_FINISHED, e->message);
    if (c->failed)
        return;
    choice_end(ch);
    /* one whose deadline passed before its first token: when no choice has any, on_end answers an error */
    ch->over = e->finish != DEQ_FINISH_DEADLINE || ch->tokens;
}

static enum deq_verdict on_token(struct choice *ch, const struct deq_event *e)
{
    const struct completion_request *r = &ch->c->req;
    choice_begin(ch);
    const bool stop_token = is_stop_token(r, e->token) && ch->tokens >= (uint32_t)r->min_tokens;
    if (stop_token)
        ch->stop_token = e->token;
    choice_add(ch, e);
    return ch->stopped >= 0 || stop_token ? DEQ_STOP : DEQ_CONTINUE;
}

static enum deq_verdict on_event(struct job *j, const struct deq_event *e)
{
    struct prompt *p = (struct prompt *)j;
    struct completion *c = p->c;
    struct choice *ch = &c->choices[p->index * (size_t)c->req.best_of + e->choice];
    enum deq_verdict verdict = DEQ_CONTINUE;
    pthread_mutex_lock(&c->lock);
    switch (e->kind) {
    case DEQ_EVENT_PROMPT: echo_event(p, e); break;
    case DEQ_EVENT_TOKEN: verdict = on_token(ch, e); break;
    case DEQ_EVENT_DROPPED: choice_dropped(ch, e); break;
    case DEQ_EVENT_END: on_choice_end(ch, e); break;
    }
    pthread_mutex_unlock(&c->lock);
    return verdict;
}

/* Of a stream, after a step: what its tokens gave is announced. */
static void on_step(struct job *j, struct wakeups *w)
{
    const struct prompt *p = (const struct prompt *)j;
    struct completion *c = p->c;
    size_t bytes = 0;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < (size_t)c->req.best_of; i++)
        bytes += choice_announce(&c->choices[p->index * (size_t)c->req.best_of + i]);
    pthread_mutex_unlock(&c->lock);
    if (bytes && !channel_news(c->channel, bytes, w))
        sched_cancel(j); /* nobody reads any more; it ends before the next step */
}

static void on_admit(struct job *j)
{
    struct prompt *p = (struct prompt *)j;
    struct completion *c = p->c;
    pthread_mutex_lock(&c->lock);
    c->admitted = true;
    p->cached = j->admission.cached_tokens;
    pthread_mutex_unlock(&c->lock);
    if (!c->req.stream)
        return;
    timings_tell_queue(j, c->channel);
    channel_start_stream(c->channel); /* headers leave now and not before, so that refusals keep their own status */
    if (c->req.responses)
        (void)channel_news(c->channel, 0, NULL);
}

static void log_completion(const struct completion *c)
{
    uint64_t prompt_tokens = 0, tokens = 0, cached = 0, admitted = 0;
    double iters = 0;
    const char *finish = c->failed ? exchange_failure_code(&c->failure) : finish_word(c->choices[0].finish);
    for (size_t i = 0; i < c->req.n_prompts; i++) {
        const struct job *j = &c->prompts[i].job;
        prompt_tokens += c->state.tokens + j->prompt.n;
        cached += j->admission.cached_tokens;
        admitted = DEQ_MAX(admitted, j->admitted_ns);
    }
    for (size_t i = 0; i < completion_choices(c); i++) {
        tokens += c->choices[i].tokens;
        iters += c->choices[i].iters_sum;
    }
    char caller[20], user[20];
    snprintf(caller, sizeof caller, "%016llx", (unsigned long long)c->prompts[0].job.caller.id);
    snprintf(user, sizeof user, "%016llx", (unsigned long long)c->req.user_hash);
    const int status = c->failed ? exchange_failure_status(&c->failure) : 200;
    const double queue_ms = admitted ? (double)(admitted - DEQ_MIN(c->arrived_ns, admitted)) * 1e-6 : -1.0;
    log_line(LOG_INFO, "completion", log_text("request_id", c->request_id), log_int("status", status),
             log_text("finish", finish), log_int("prompt_tokens", (int64_t)prompt_tokens),
             log_int("cached_tokens", (int64_t)cached), log_int("completion_tokens", (int64_t)tokens),
             log_int("seed", c->req.seed), log_real("ms", (double)(deq_now_ns() - c->arrived_ns) * 1e-6),
             log_real("queue_ms", queue_ms), log_real("iters_mean", tokens ? iters / (double)tokens : 0.0),
             log_bool("stream", c->req.stream), log_text("caller", caller),
             log_text("user", c->req.user_hash ? user : NULL),
             log_text("trace_id", c->trace_id[0] ? c->trace_id : NULL),
             log_text("parent_id", c->trace_id[0] ? c->parent_id : NULL));
}

/* A deadline passed, and no choice of any prompt has a token. */
static bool late_without_anything(const struct completion *c)
{
    bool late = false;
    for (size_t i = 0; i < completion_choices(c); i++) {
        if (c->choices[i].tokens)
            return false;
        late = late || c->choices[i].finish == DEQ_FINISH_DEADLINE;
    }
    return late;
}

static void on_end(struct job *j, enum job_end end, const char *message)
{
    const struct prompt *p = (const struct prompt *)j;
    struct completion *c = p->c;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; end == JOB_DEADLINE && i < (size_t)c->req.best_of; i++) {
        struct choice *ch = &c->choices[p->index * (size_t)c->req.best_of + i];
        ch->finish = DEQ_FINISH_DEADLINE; /* they have nothing; other prompts' may */
        choice_end(ch);
    }
    if (end != JOB_FINISHED && end != JOB_DEADLINE)
        fail(c, end, message);
    c->ended_ns = deq_now_ns();
    c->ended = --c->open_jobs == 0;
    if (c->ended && late_without_anything(c))
        fail(c, JOB_DEADLINE, NULL);
    pthread_mutex_unlock(&c->lock);
    if (!c->ended)
        return;
    channel_listen(c->channel, (struct channel_events){0});
    (void)channel_news(c->channel, 0, NULL);
    if (log_on(LOG_INFO))
        log_completion(c);
    completion_unref(c);
}

void completion_set_callbacks(struct job *j, bool stream)
{
    j->on_event = on_event;
    j->on_admit = on_admit;
    j->on_step = stream ? on_step : NULL;
    j->on_end = on_end;
}
