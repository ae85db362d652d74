/* POST /v1/completions, /v1/chat/completions and /v1/responses: place in the queue -> parse -> a job for each prompt ->
 * (engine's thread, completion_job.c) tokens -> news of choices -> (connection's thread) JSON -> channel. */
#include "server/api/completion.h"

#include <string.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "server/api/answer.h"
#include "server/api/endpoints.h"
#include "server/api/exchange.h"

enum { CHOICE_BYTES = 1024 /* beside its tokens */ };

static void completion_free(struct completion *c)
{
    if (!c)
        return;
    for (size_t i = 0; c->choices && i < completion_choices(c); i++)
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

void completion_unref(void *completion)
{
    struct completion *c = completion;
    if (atomic_fetch_sub(&c->refs, 1) == 1)
        completion_free(c);
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
    for (size_t i = 0; i < completion_choices(c); i++)
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
    for (size_t i = 0; ok && i < completion_choices(c); i++) {
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
    if (c->failed && c->failure.end != JOB_CANCELED)
        completion_error(c);
    else if (c->failed || channel_starved(c->channel))
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
    for (size_t i = 0; i < completion_choices(c); i++)
        choice_render(&c->choices[i]);
    if (c->req.stream && c->req.responses && admitted && !c->events)
        response_begin(c);
    if (c->req.stream && !(ended && c->failed) && !send_chunks(c))
        cancel_jobs(c);
    if (ended)
        answer(c);
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
                          .sched = c->served->sched,
                          .next = i + 1 < r->n_prompts ? &p[1].job : NULL};
    completion_set_callbacks(&p->job, r->stream);
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
    atomic_store(&c->refs, 2);
    pthread_mutex_init(&c->lock, NULL);
    c->created = (int64_t)(deq_wall_ms() / 1000);
    c->arrived_ns = x->arrived_ns;
    c->open_jobs = r->n_prompts;
    memcpy(c->request_id, x->request_id, sizeof c->request_id);
    memcpy(c->trace_id, x->trace_id, sizeof c->trace_id);
    memcpy(c->parent_id, x->parent_id, sizeof c->parent_id);
    completion_head(c);
    c->prompts = DEQ_NEW_ARRAY(struct prompt, r->n_prompts);
    c->choices = DEQ_NEW_ARRAY(struct choice, completion_choices(c));
    bool ok = c->prompts && c->choices;
    for (size_t i = 0; ok && i < r->n_prompts; i++) {
        set_up_prompt(c, i, x);
        c->prompts[i].job.answer = &c->channel->allowance;
        c->prompts[i].job.answer_bytes = answer_bytes(c, i);
    }
    for (size_t i = 0; ok && i < completion_choices(c); i++)
        ok = choice_init(c, i);
    if (!ok) {
        c->served = NULL; /* m stays the caller's */
        completion_free(c);
        return NULL;
    }
    return c;
}

/* What the body asks for, with the state that its prompts follow. False: x is answered. */
static bool read_body(struct service *s, const struct served *m, struct exchange *x, enum endpoint at,
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

/* An exchange_reader; at: an enum endpoint. */
static bool read_completion(struct service *s, struct served *m, struct exchange *x, int at, struct exchange_work *ret)
{
    struct completion_request r;
    struct exchange_state state;
    if (!read_body(s, m, x, (enum endpoint)at, &r, &state))
        return false;
    struct completion *c = completion_new(s, m, x, &r, &state);
    if (!c) {
        exchange_no_memory(x);
        return false;
    }
    pthread_mutex_lock(&x->channel->lock);
    x->channel->may_stream = c->req.stream;
    x->channel->slack += c->req.echo_bytes; /* a prompt's scores come in one piece, for which the scheduler kept room */
    pthread_mutex_unlock(&x->channel->lock);
    *ret = (struct exchange_work){&c->prompts[0].job, {on_gone, on_pace, c}, {render, completion_unref, c}};
    return true;
}

void ep_completions(struct service *s, struct served *m, struct exchange *x)
{
    exchange_run(s, m, x, read_completion, ON_COMPLETIONS);
}

void ep_chat(struct service *s, struct served *m, struct exchange *x)
{
    exchange_run(s, m, x, read_completion, ON_CHAT);
}

void ep_responses(struct service *s, struct served *m, struct exchange *x)
{
    exchange_run(s, m, x, read_completion, ON_RESPONSES);
}
