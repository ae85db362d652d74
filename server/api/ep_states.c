/* /v1/states: the state of a text saved under a name, or as the answer's bytes; what is saved, listed, read, written
 * from a client's bytes, removed.
 *
 * Three threads have a state that is being saved. The engine's solves the text and leaves its state; the connection's,
 * told of the end, prints it or hands it to the one that writes files (server/work/states.h), which answers. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "server/api/answer.h"
#include "server/api/endpoints.h"
#include "server/api/exchange.h"
#include "server/api/reply.h"
#include "server/log.h"

enum { REPLY_BYTES = 4096, ENTRY_BYTES = 256 /* of a list */, COPIES = 2 /* of a state that is printed */ };

struct state_job {
    struct job job;          /* first: the scheduler's callbacks get it */
    struct state_task task;
    struct channel *channel; /* held */
    struct served *served;   /* held */
    struct states *states;
    _Atomic unsigned refs;   /* the job, the channel's source, the writer's task */
    char request_id[132];
    struct cache_salt salt;
    struct exchange_state before; /* what the prompt follows */
    struct exchange_state kept;   /* what is made here */
    float tol;
    pthread_mutex_t lock; /* guards what follows; nothing changes once it ended */
    bool ended, numeric, failed;
    struct exchange_failure failure;
    size_t cached, prompt_positions;
    uint64_t prompt_evaluations;
    bool answered; /* the connection's */
};

static void state_job_free(struct state_job *j)
{
    exchange_free_state(&j->before);
    exchange_free_state(&j->kept);
    channel_unref(j->channel);
    deq_tokens_free(&j->job.prompt);
    store_release(j->served);
    pthread_mutex_destroy(&j->lock);
    deq_free(j);
}

static void state_job_unref(void *job)
{
    struct state_job *j = job;
    if (atomic_fetch_sub(&j->refs, 1) == 1)
        state_job_free(j);
}

static struct state_job *of_task(struct state_task *t)
{
    return (struct state_job *)(void *)((char *)t - offsetof(struct state_job, task));
}

/* --- The job, on the engine's thread --- */

static void on_admit(struct job *job)
{
    ((struct state_job *)job)->cached = job->admission.cached_tokens;
}

static enum deq_verdict on_event(struct job *job, const struct deq_event *e)
{
    struct state_job *j = (struct state_job *)job;
    if (e->kind != DEQ_EVENT_END)
        return DEQ_CONTINUE;
    j->numeric = e->finish == DEQ_FINISH_NUMERIC;
    j->prompt_positions = e->prompt_positions;
    j->prompt_evaluations = e->prompt_evaluations;
    return DEQ_CONTINUE;
}

static void on_end(struct job *job, enum job_end end, const char *message)
{
    struct state_job *j = (struct state_job *)job;
    const bool late = end == JOB_FINISHED && !j->numeric && !deq_state_info(j->kept.state).filled;
    pthread_mutex_lock(&j->lock);
    j->failed = late || j->numeric || end != JOB_FINISHED;
    if (j->failed)
        exchange_failure(&j->failure, late ? JOB_DEADLINE : end, message);
    j->ended = true;
    pthread_mutex_unlock(&j->lock);
    channel_listen(j->channel, (struct channel_events){0});
    (void)channel_news(j->channel, 0, NULL);
    if (log_on(LOG_INFO))
        log_line(LOG_INFO, "state", log_text("request_id", j->request_id),
                 log_int("status", j->failed ? exchange_failure_status(&j->failure) : 200),
                 log_int("prompt_tokens", (int64_t)j->kept.tokens), log_int("cached_tokens", (int64_t)j->cached),
                 log_real("ms", (double)(deq_now_ns() - job->arrived_ns) * 1e-6));
    state_job_unref(j);
}

/* --- The answer --- */

static void describe(const struct state_job *j, uint64_t bytes, struct deq_buf *out)
{
    const struct deq_state_info i = deq_state_info(j->kept.state);
    json_t *deq = json_pack("{s:o, s:f, s:o, s:b}", "tol", reply_setting(j->tol), "prompt_iters_mean",
                            j->prompt_positions ? (double)j->prompt_evaluations / (double)j->prompt_positions : 0.0,
                            "residual_max", json_real((double)i.residual_max), "converged", (int)i.converged);
    reply_json(out, json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:o}", "object", "state", "id", j->task.name,
                              "model", j->served->name, "fingerprint", j->served->info.fingerprint, "tokens",
                              (json_int_t)i.n_tokens, "cached_tokens", (json_int_t)j->cached, "bytes",
                              (json_int_t)bytes, "deq", deq));
}

static void not_kept(struct deq_buf *out, const struct deq_err *err)
{
    if (err->code == DEQ_EFULL)
        reply_error(out, 507, "states_full", "name", err->text);
    else
        reply_error(out, 507, "state_not_saved", "name", err->text);
}

/* On the thread that writes files. */
static void on_saved(struct state_task *t, enum deq_rc rc, uint64_t bytes, const struct deq_err *err)
{
    struct state_job *j = of_task(t);
    struct deq_buf b = {.max = REPLY_BYTES, .allowance = &j->channel->allowance};
    if (rc)
        not_kept(&b, err);
    else
        describe(j, bytes, &b);
    answer_whole(j->channel, rc ? 507 : 200, "application/json", &b);
    deq_buf_free(&b);
    state_job_unref(j);
}

static void print(struct state_job *j)
{
    struct deq_buf b = {.max = (size_t)j->kept.bytes, .allowance = &j->channel->allowance};
    struct deq_err err;
    if (deq_state_print(j->served->model, j->kept.state, &b, &err))
        deq_buf_fail(&b);
    answer_whole(j->channel, 200, "application/octet-stream", &b);
    deq_buf_free(&b);
}

static void answer(struct state_job *j)
{
    if (j->failed) {
        exchange_fail(j->channel, j->served->sched, &j->failure);
    } else if (j->task.name[0]) {
        atomic_fetch_add(&j->refs, 1);
        states_save(j->states, &j->task);
    } else {
        print(j);
    }
}

static void render(void *ctx)
{
    struct state_job *j = ctx;
    pthread_mutex_lock(&j->lock);
    const bool due = j->ended && !j->answered;
    j->answered = j->answered || due;
    pthread_mutex_unlock(&j->lock);
    if (due)
        answer(j);
}

static void on_gone(void *ctx)
{
    sched_cancel(ctx);
}

/* --- The request, on a thread of the HTTP server --- */

/* Whether a state of that size may be kept, or printed. False: x is answered. */
static bool may_be_made(struct exchange *x, const struct service *s, const struct state_request *r, uint64_t bytes)
{
    struct deq_err err;
    const uint64_t most = s->conf->answer_bytes / 2 / (r->name[0] ? 1 : COPIES);
    if (bytes > most) {
        exchange_error(x, 400, "invalid_value", "prompt",
                       "prompt: the state of so many tokens would take more than limits.answer_bytes allows");
    } else if (r->name[0] && !states_kept(s->states)) {
        exchange_error(x, 400, "invalid_value", "name",
                       "name: no states are kept here (state.dir is not set); without a name the answer is the state");
    } else if (r->name[0] && states_room(s->states, r->name, bytes, &err) == DEQ_EFULL) {
        x->status = 507;
        not_kept(&x->reply, &err);
    }
    return !x->status;
}

/* Room for what is to be kept. False: no memory. */
static bool make_room(const struct served *m, struct exchange *x, size_t tokens, struct exchange_state *ret)
{
    struct exchange_state s = {.tokens = tokens, .bytes = deq_state_bytes(m->model, tokens), .channel = x->channel};
    if (!deq_allowance_take(&x->channel->allowance, s.bytes))
        return false;
    if (deq_state_new(m->model, tokens, &s.state, NULL)) {
        deq_allowance_give(&x->channel->allowance, s.bytes);
        return false;
    }
    *ret = s;
    return true;
}

/* Takes the prompt of r, before, and m. NULL: no memory, and nothing is taken. */
static struct state_job *state_job_new(struct service *s, struct served *m, struct exchange *x,
                                       const struct state_request *r, const struct exchange_state *before)
{
    struct state_job *j = DEQ_NEW(struct state_job);
    struct deq_request q = deq_request_defaults(m->model);
    if (!j || !make_room(m, x, before->tokens + r->prompt.n, &j->kept)) {
        deq_free(j);
        return NULL;
    }
    j->salt = r->salt;
    q.solve = r->solve;
    q.cache_salt = j->salt.bytes;
    q.cache_salt_len = j->salt.len;
    q.max_tokens = 0;
    q.state = before->state;
    q.keep = j->kept.state;
    j->job = (struct job){.request = q,
                          .prompt = r->prompt,
                          .caller = x->caller,
                          .arrived_ns = x->arrived_ns,
                          .deadline_ns = x->timeout_ms ? x->arrived_ns + x->timeout_ms * 1000000ull : 0,
                          .answer = &x->channel->allowance,
                          /* what is taken already, and what is printed */
                          .answer_bytes = REPLY_BYTES + before->bytes + (r->name[0] ? 1 : COPIES) * j->kept.bytes,
                          .on_admit = on_admit,
                          .on_event = on_event,
                          .on_end = on_end,
                          .sched = m->sched};
    j->task = (struct state_task){.model = m->model, .state = j->kept.state, .done = on_saved};
    memcpy(j->task.name, r->name, sizeof j->task.name);
    memcpy(j->request_id, x->request_id, sizeof j->request_id);
    j->job.request_id = j->request_id;
    j->before = *before;
    j->channel = x->channel;
    j->served = m;
    j->states = s->states;
    j->tol = r->solve.tol;
    atomic_store(&j->refs, 2);
    pthread_mutex_init(&j->lock, NULL);
    channel_ref(x->channel);
    return j;
}

/* An exchange_reader. */
static bool read_job(struct service *s, struct served *m, struct exchange *x, int at, struct exchange_work *ret)
{
    const struct request_context c = service_context(s, m);
    struct completion_request none = {.max_given = true};
    struct state_request r;
    struct request_error err;
    struct exchange_state before = {0};
    struct state_job *j = NULL;
    (void)at;
    if (!request_state(&c, x->body.data, x->body.len, &r, &err)) {
        exchange_request_error(x, &err);
        return false;
    }
    if (exchange_load_state(x, s->states, m, r.state, &before)) {
        const size_t tokens = before.tokens + r.prompt.n;
        if (!request_fits(&c, tokens, &none, &err))
            exchange_request_error(x, &err);
        else if (may_be_made(x, s, &r, deq_state_bytes(m->model, tokens)) &&
                 !(j = state_job_new(s, m, x, &r, &before)))
            exchange_no_memory(x);
    }
    if (!j) {
        exchange_free_state(&before);
        deq_tokens_free(&r.prompt);
        return false;
    }
    *ret = (struct exchange_work){&j->job, {.gone = on_gone, .ctx = &j->job}, {render, state_job_unref, j}};
    return true;
}

void ep_state_save(struct service *s, struct served *m, struct exchange *x)
{
    exchange_run(s, m, x, read_job, 0);
}

/* --- A client's bytes, on a thread of the HTTP server and on the one that writes files --- */

struct upload {
    struct state_task task;
    struct channel *channel;      /* held */
    struct served *served;        /* held */
    struct exchange_state state;
};

static const char *name_in(const struct exchange *x)
{
    return x->path + strlen("/v1/states/");
}

static void upload_free(struct upload *u)
{
    exchange_free_state(&u->state);
    channel_unref(u->channel);
    store_release(u->served);
    deq_free(u);
}

static void on_uploaded(struct state_task *t, enum deq_rc rc, uint64_t bytes, const struct deq_err *err)
{
    struct upload *u = (struct upload *)(void *)((char *)t - offsetof(struct upload, task));
    const struct deq_state_info i = deq_state_info(u->state.state);
    struct deq_buf b = {.max = REPLY_BYTES, .allowance = &u->channel->allowance};
    if (rc)
        not_kept(&b, err);
    else
        reply_json(&b, json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:{s:o, s:b}}", "object", "state", "id", t->name,
                                 "model", u->served->name, "fingerprint", u->served->info.fingerprint, "tokens",
                                 (json_int_t)i.n_tokens, "bytes", (json_int_t)bytes, "deq", "residual_max",
                                 json_real((double)i.residual_max), "converged", (int)i.converged));
    answer_whole(u->channel, rc ? 507 : 200, "application/json", &b);
    deq_buf_free(&b);
    upload_free(u);
}

/* Whether there is a place for a state of that name, and of that many bytes. False: x is answered. */
static bool may_be_put(struct exchange *x, const struct service *s, const struct served *m, const char *name)
{
    const uint64_t most = deq_state_bytes(m->model, sched_max_positions(m->sched));
    struct deq_err err;
    char text[96];
    if (!states_good_name(name, strlen(name))) {
        snprintf(text, sizeof text, "name: must be 1 to %d of A-Z a-z 0-9 . _ -, no dot first", STATE_NAME_MAX);
        exchange_error(x, 400, "invalid_value", "name", text);
    } else if (!states_kept(s->states)) {
        exchange_error(x, 400, "invalid_value", "name", "name: no states are kept here (state.dir is not set)");
    } else if (x->body.len > most) {
        snprintf(text, sizeof text, "%zu bytes: larger than any state of this model (%llu)", x->body.len,
                 (unsigned long long)most);
        exchange_error(x, 413, "body_too_large", NULL, text);
    } else if (states_room(s->states, name, x->body.len, &err) == DEQ_EFULL) {
        x->status = 507;
        not_kept(&x->reply, &err);
    }
    return !x->status;
}

void ep_state_put(struct service *s, struct served *m, struct exchange *x)
{
    const char *const name = name_in(x);
    struct upload *u = may_be_put(x, s, m, name) ? DEQ_NEW(struct upload) : NULL;
    if (!u || !exchange_parse_state(x, m, name, &u->state)) {
        if (!x->status)
            exchange_no_memory(x);
        deq_free(u);
        store_release(m);
        return;
    }
    u->channel = x->channel;
    u->served = m;
    channel_ref(x->channel);
    u->task = (struct state_task){.model = m->model, .state = u->state.state, .done = on_uploaded};
    memcpy(u->task.name, name, strlen(name) + 1);
    states_save(s->states, &u->task);
}

/* --- What is saved --- */

static void name_error(struct exchange *x, const struct deq_err *err)
{
    if (err->code == DEQ_ENOTFOUND)
        exchange_error(x, 404, "state_not_found", NULL, "there is no such state; GET /v1/states lists those there are");
    else if (err->code == DEQ_EFORMAT) /* larger than any of this model */
        exchange_error(x, 400, "state_refused", NULL, err->text);
    else if (err->code == DEQ_ENOMEM)
        exchange_no_memory(x);
    else
        exchange_error(x, 500, "state_unreadable", NULL, err->text);
}

void ep_states(struct service *s, struct served *m, struct exchange *x)
{
    struct state_entry *e = NULL;
    struct deq_err err;
    size_t n = 0;
    (void)m;
    if (states_list(s->states, &e, &n, &err)) {
        name_error(x, &err);
        return;
    }
    x->status = 200;
    x->reply.max = DEQ_MAX(x->reply.max, REPLY_BYTES + n * ENTRY_BYTES);
    deq_buf_str(&x->reply, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < n; i++)
        deq_buf_fmt(&x->reply, "%s{\"object\":\"state\",\"id\":\"%s\",\"bytes\":%llu,\"created\":%llu}", i ? "," : "",
                    e[i].name, (unsigned long long)e[i].bytes, (unsigned long long)e[i].written_s);
    deq_buf_str(&x->reply, "]}");
    deq_free(e);
}

void ep_state(struct service *s, struct served *m, struct exchange *x)
{
    char *bytes;
    size_t n;
    struct deq_err err;
    const uint64_t most = deq_state_bytes(m->model, sched_max_positions(m->sched));
    if (states_read(s->states, name_in(x), most, &bytes, &n, &err)) {
        name_error(x, &err);
    } else {
        x->status = 200;
        x->reply_type = "application/octet-stream";
        x->reply.max = DEQ_MAX(x->reply.max, n + 1);
        deq_buf_add(&x->reply, bytes, n);
        deq_free(bytes);
    }
    store_release(m);
}

void ep_state_delete(struct service *s, struct served *m, struct exchange *x)
{
    struct deq_err err;
    (void)m;
    if (states_remove(s->states, name_in(x), &err)) {
        name_error(x, &err);
        return;
    }
    x->status = 200;
    reply_json(&x->reply, json_pack("{s:s, s:s, s:b}", "object", "state", "id", name_in(x), "deleted", 1));
}
