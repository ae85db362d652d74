/* POST /v1/completions, /v1/chat/completions and /v1/responses: place in the queue -> parse -> a job for each prompt ->
 * (engine's thread) tokens -> news of choices -> (connection's thread) JSON -> channel. */
#include "server/api/completion.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "server/api/answer.h"
#include "server/api/endpoints.h"
#include "server/api/exchange.h"
#include "server/log.h"

enum { CHOICE_BYTES = 1024 /* beside its tokens */ };

static size_t n_choices(const struct completion *c)
{
    return c->req.n_prompts * (size_t)c->req.best_of;
}

static void completion_free(struct completion *c)
{
    if (!c)
        return;
    for (size_t i = 0; c->choices && i < n_choices(c); i++)
        choice_free(&c->choices[i]);
    for (size_t i = 0; c->prompts && i < c->req.n_prompts; i++)
        prompt_free(&c->prompts[i]);
    deq_free(c->choices);
    deq_free(c->prompts);
    deq_buf_free(&c->head);
    deq_buf_free(&c->chunk);
    completion_request_free(&c->req);
    exchange_free_state(&c->state);
    channel_unref(c->channel);
    store_release(c->served);
    pthread_mutex_destroy(&c->lock);
    deq_free(c);
}

static void completion_unref(struct completion *c)
{
    if (atomic_fetch_sub(&c->refs, 1) == 1)
        completion_free(c);
}

/* --- The job, on the engine's thread --- */

static void fail(struct completion *c, int status, const char *code, const char *message)
{
    if (c->failed)
        return;
    c->failed = true;
    c->status = status;
    c->code = code;
    snprintf(c->message, sizeof c->message, "%s", message);
    deq_utf8_line(c->message);
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
        fail(c, 500, "solver_diverged", e->message);
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
    const char *finish = c->failed ? c->code : c->cancelled ? "cancelled" : finish_word(c->choices[0].finish);
    for (size_t i = 0; i < c->req.n_prompts; i++) {
        const struct job *j = &c->prompts[i].job;
        prompt_tokens += c->state.tokens + j->prompt.n;
        cached += j->admission.cached_tokens;
        admitted = DEQ_MAX(admitted, j->admitted_ns);
    }
    for (size_t i = 0; i < n_choices(c); i++) {
        tokens += c->choices[i].tokens;
        iters += c->choices[i].iters_sum;
    }
    char caller[20], user[20];
    snprintf(caller, sizeof caller, "%016llx", (unsigned long long)c->prompts[0].job.caller.id);
    snprintf(user, sizeof user, "%016llx", (unsigned long long)c->req.user_hash);
    const int status = c->failed ? c->status : c->cancelled ? 499 : 200;
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
    for (size_t i = 0; i < n_choices(c); i++) {
        if (c->choices[i].tokens)
            return false;
        late = late || c->choices[i].finish == DEQ_FINISH_DEADLINE;
    }
    return late;
}

static void on_end(struct job *j, enum job_end end, const char *message)
{
    struct completion *c = ((struct prompt *)j)->c;
    pthread_mutex_lock(&c->lock);
    switch (end) {
    case JOB_FINISHED: break;
    case JOB_CANCELED: c->cancelled = true; break;
    case JOB_QUEUE_TIMEOUT: fail(c, 503, "queue_timeout", "the request waited too long for a place"); break;
    case JOB_DEADLINE: /* the choices have nothing; other prompts' may */
        for (size_t i = 0; i < (size_t)c->req.best_of; i++) {
            struct choice *ch = &c->choices[((struct prompt *)j)->index * (size_t)c->req.best_of + i];
            ch->finish = DEQ_FINISH_DEADLINE;
            choice_end(ch);
        }
        break;
    case JOB_DRAINED: fail(c, 503, "draining", "the server is shutting down"); break;
    case JOB_REFUSED: fail(c, 500, "internal_error", message); break;
    case JOB_GAVE_WAY:
        fail(c, 503, "slow_reader", "others waited for the place of this answer, which was read too slowly");
        break;
    case JOB_NO_MEMORY: fail(c, 503, "out_of_memory", message); break;
    case JOB_ENDED: fail(c, 503, "ended_by_operator", "an operator ended this request"); break;
    }
    c->ended_ns = deq_now_ns();
    c->ended = --c->open_jobs == 0;
    if (c->ended && late_without_anything(c))
        fail(c, 504, "deadline_exceeded", "the deadline passed before anything was produced");
    pthread_mutex_unlock(&c->lock);
    if (!c->ended)
        return;
    channel_listen(c->channel, (struct channel_events){0});
    (void)channel_news(c->channel, 0, NULL);
    if (log_on(LOG_INFO))
        log_completion(c);
    completion_unref(c);
}

/* --- On the connection's thread --- */

static void cancel_jobs(struct completion *c)
{
    for (size_t i = 0; i < c->req.n_prompts; i++)
        sched_cancel(&c->prompts[i].job);
}

/* All that the engine's thread left since it was last taken. Returns whether nothing will follow. */
static bool take(struct completion *c, bool *ret_admitted)
{
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < c->req.n_prompts; i++)
        prompt_take(&c->prompts[i]);
    for (size_t i = 0; i < n_choices(c); i++)
        choice_take(&c->choices[i]);
    const bool ended = c->ended;
    *ret_admitted = c->admitted;
    pthread_mutex_unlock(&c->lock);
    return ended;
}

/* A chunk for each choice that has something. False: nobody reads, or there is no memory. */
static bool send_chunks(struct completion *c)
{
    bool ok = true;
    for (size_t i = 0; ok && i < n_choices(c); i++) {
        struct choice *ch = &c->choices[i];
        if (choice_has_news(ch))
            ok = choice_send(ch, NULL);
        if (ok && ch->taken_over && !ch->finished) {
            ch->finished = true;
            ok = choice_send(ch, finish_word(ch->finish));
        }
    }
    return ok;
}

static void answer(struct completion *c)
{
    c->answered = true;
    if (c->failed)
        completion_error(c, c->status, c->code, c->message);
    else if (c->cancelled || channel_starved(c->channel))
        answer_cut(c->channel);
    else
        completion_answer(c);
}

static void render(void *ctx)
{
    struct completion *c = ctx;
    bool admitted;
    if (c->answered)
        return;
    const bool ended = take(c, &admitted);
    for (size_t i = 0; i < c->req.n_prompts; i++)
        prompt_render(&c->prompts[i]);
    for (size_t i = 0; i < n_choices(c); i++)
        choice_render(&c->choices[i]);
    if (c->req.stream && c->req.responses && admitted && !c->events)
        response_begin(c);
    if (c->req.stream && !(ended && c->failed) && !send_chunks(c))
        cancel_jobs(c);
    if (ended)
        answer(c);
}

static void on_drop(void *ctx)
{
    completion_unref(ctx);
}

/* --- From the channel, with its lock --- */

static void on_gone(void *ctx)
{
    cancel_jobs(ctx);
}

static void on_pace(void *ctx, bool pause)
{
    struct completion *c = ctx;
    for (size_t i = 0; i < c->req.n_prompts; i++)
        sched_pause(&c->prompts[i].job, pause);
}

/* --- The request, on a thread of the HTTP server --- */

/* A request that names its tolerance gets that one, unless it says otherwise itself. */
static bool is_elastic(const struct completion *c, const struct caller *caller)
{
    const struct depth_request *d = &c->req.depth;
    if (!(c->req.solve.tol > 0) || c->req.solve.stop == DEQ_STOP_AT_ARGMAX)
        return false; /* there is nothing to open */
    if (d->mode != DEPTH_UNSAID || d->names_tol)
        return d->mode == DEPTH_ELASTIC;
    const enum depth_mode usual = (enum depth_mode)(c->service->conf->depth_mode + 1);
    return (caller->depth == DEPTH_UNSAID ? usual : caller->depth) == DEPTH_ELASTIC;
}

static void set_up_prompt(struct completion *c, size_t i, const struct exchange *x)
{
    const struct completion_request *r = &c->req;
    struct prompt *p = &c->prompts[i];
    struct deq_request q = deq_request_defaults(c->served->model);
    const size_t room = sched_max_positions(c->served->sched) - c->state.tokens - r->prompts[i].n;
    /* a default is clamped to what fits */
    q.max_tokens = (uint32_t)(r->max_given ? (size_t)r->max_tokens : DEQ_MIN((size_t)r->max_tokens, room));
    q.state = c->state.state;
    q.n = (uint32_t)r->best_of;
    q.ignore_eos = r->ignore_eos;
    q.form = r->form;
    q.want_prompt = r->echo && r->logprobs >= 0;
    q.want_logits = r->logprobs >= 0 || r->best_of > r->n;
    q.want_trace = r->trace;
    q.solve = r->solve;
    q.cache = r->cache;
    q.cache_salt = r->salt.bytes;
    q.cache_salt_len = r->salt.len;
    q.sampling = (struct deq_sampling){.temperature = r->temperature,
                                       .top_p = r->top_p,
                                       .min_p = r->min_p,
                                       .top_k = r->top_k > 0 ? (uint32_t)r->top_k : 0,
                                       .seed = (uint64_t)r->seed,
                                       .bias = r->bias,
                                       .n_bias = r->n_bias,
                                       .repetition_penalty = r->repetition_penalty,
                                       .presence_penalty = r->presence_penalty,
                                       .frequency_penalty = r->frequency_penalty,
                                       .min_tokens = (uint32_t)r->min_tokens,
                                       .stop_ids = r->stop_ids.ids,
                                       .n_stop_ids = r->stop_ids.n};
    uint64_t deadline_ms = (uint64_t)r->deadline_ms;
    if (x->timeout_ms && (!deadline_ms || x->timeout_ms < deadline_ms))
        deadline_ms = x->timeout_ms;
    p->c = c;
    p->index = i;
    p->job = (struct job){.request = q,
                          .prompt = c->req.prompts[i],
                          .caller = x->caller,
                          .priority = (int)r->priority,
                          .elastic = is_elastic(c, &x->caller),
                          .request_id = c->request_id,
                          .arrived_ns = x->arrived_ns,
                          .deadline_ns = deadline_ms ? x->arrived_ns + deadline_ms * 1000000u : 0,
                          .on_event = on_event,
                          .on_admit = on_admit,
                          .on_step = r->stream ? on_step : NULL,
                          .on_end = on_end,
                          .sched = c->served->sched};
    c->req.prompts[i] = (struct deq_tokens){0}; /* the job's now */
    prompt_init(p);
}

/* What prompt i will hold of an answer: all of it, in parts and in one piece; of a stream what may lie unread, and the
 * prompt's scores, and for /v1/responses what its end repeats. */
static uint64_t answer_bytes(const struct completion *c, size_t i)
{
    const struct completion_request *r = &c->req;
    const struct job *j = &c->prompts[i].job;
    const bool kept = !r->stream || r->responses;
    const uint64_t echo = r->echo ? j->prompt.n : 0, tokens = kept ? echo + j->request.max_tokens : echo;
    const uint64_t buffer = r->stream && !i ? c->service->conf->stream_buffer_bytes + r->echo_bytes : 0;
    return buffer + (i ? 0 : c->state.bytes) + (uint64_t)r->best_of * (CHOICE_BYTES + 2 * tokens * r->token_bytes);
}

/* Everything the request needs, or NULL: no memory. Takes r and state, and m when it succeeds. */
static struct completion *completion_new(struct service *s, struct served *m, const struct exchange *x,
                                         struct completion_request *r, struct exchange_state *state)
{
    struct completion *c = DEQ_NEW(struct completion);
    if (!c) {
        completion_request_free(r);
        exchange_free_state(state);
        return NULL;
    }
    c->req = *r;
    c->state = *state;
    c->service = s;
    c->served = m;
    c->channel = x->channel;
    channel_ref(x->channel);
    atomic_store(&c->refs, 1);
    pthread_mutex_init(&c->lock, NULL);
    c->created = (int64_t)(deq_wall_ms() / 1000);
    c->arrived_ns = x->arrived_ns;
    c->open_jobs = r->n_prompts;
    memcpy(c->request_id, x->request_id, sizeof c->request_id);
    memcpy(c->trace_id, x->trace_id, sizeof c->trace_id);
    memcpy(c->parent_id, x->parent_id, sizeof c->parent_id);
    completion_head(c);
    c->prompts = DEQ_NEW_ARRAY(struct prompt, r->n_prompts);
    c->choices = DEQ_NEW_ARRAY(struct choice, n_choices(c));
    bool ok = c->prompts && c->choices;
    for (size_t i = 0; ok && i < r->n_prompts; i++) {
        set_up_prompt(c, i, x);
        c->prompts[i].job.answer = &c->channel->allowance;
        c->prompts[i].job.answer_bytes = answer_bytes(c, i);
    }
    for (size_t i = 0; ok && i < n_choices(c); i++)
        ok = choice_init(c, i);
    if (!ok) {
        c->served = NULL; /* m stays the caller's */
        completion_free(c);
        return NULL;
    }
    return c;
}

/* What the body asks for, with the state that its prompts follow. False: x is answered. */
static bool read_request(struct service *s, const struct served *m, struct exchange *x, enum endpoint at,
                         struct completion_request *ret, struct exchange_state *ret_state)
{
    const struct request_context rc = service_context(s, m);
    struct request_error err;
    if (!request_completion(&rc, at, x->body.data, x->body.len, ret, &err)) {
        exchange_request_error(x, &err);
        return false;
    }
    if (!exchange_load_state(x, s->states, m, ret->state, ret_state)) {
        completion_request_free(ret);
        return false;
    }
    bool fits = true;
    for (size_t i = 0; fits && ret_state->state && i < ret->n_prompts; i++)
        fits = request_fits(&rc, ret_state->tokens + ret->prompts[i].n, ret, &err);
    if (fits)
        return true;
    exchange_request_error(x, &err);
    exchange_free_state(ret_state);
    completion_request_free(ret);
    return false;
}

static void complete(struct service *s, struct served *m, struct exchange *x, enum endpoint at)
{
    struct completion_request r;
    struct exchange_state state;
    struct reservation reservation;
    if (!exchange_reserve(x, m, &reservation)) {
        store_release(m);
        return;
    }
    if (!read_request(s, m, x, at, &r, &state)) {
        sched_release(&reservation);
        store_release(m);
        return;
    }
    struct sched *sched = m->sched;
    struct completion *c = completion_new(s, m, x, &r, &state);
    struct job **jobs = c ? DEQ_NEW_ARRAY(struct job *, c->req.n_prompts) : NULL;
    if (!jobs) {
        sched_release(&reservation); /* while the model that it belongs to is still held */
        if (!c)
            store_release(m);
        completion_free(c);
        exchange_no_memory(x);
        return;
    }
    for (size_t i = 0; i < c->req.n_prompts; i++)
        jobs[i] = &c->prompts[i].job;
    pthread_mutex_lock(&x->channel->lock);
    x->channel->may_stream = c->req.stream;
    x->channel->slack += c->req.echo_bytes; /* a prompt's scores come in one piece, for which the scheduler kept room */
    pthread_mutex_unlock(&x->channel->lock);
    channel_listen(x->channel, (struct channel_events){on_gone, on_pace, c});
    atomic_fetch_add(&c->refs, 1);
    channel_set_source(x->channel, (struct channel_source){render, on_drop, c});
    /* refused below, the jobs' reference is still this thread's; else the engine's thread has it, and c may be gone */
    const enum submit verdict = sched_submit(sched, &reservation, jobs, c->req.n_prompts);
    deq_free(jobs);
    if (verdict == SUBMIT_OK)
        return;
    channel_listen(x->channel, (struct channel_events){0});
    channel_set_source(x->channel, (struct channel_source){0});
    exchange_not_submitted(x, sched, verdict);
    completion_unref(c);
}

void ep_completions(struct service *s, struct served *m, struct exchange *x)
{
    complete(s, m, x, ON_COMPLETIONS);
}

void ep_chat(struct service *s, struct served *m, struct exchange *x)
{
    complete(s, m, x, ON_CHAT);
}

void ep_responses(struct service *s, struct served *m, struct exchange *x)
{
    complete(s, m, x, ON_RESPONSES);
}
