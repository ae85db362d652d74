#include "tests/unit/inside.h"

#include <time.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "server/api/answer.h"
#include "server/api/route.h"
#include "server/log.h"
#include "tests/unit/test.h"

struct inside inside;

bool inside_begin(const char *const *set)
{
    struct deq_err err = {0};
    struct conf *c = &inside.conf;
    inside = (struct inside){0};
    bool ok = !deq_opt_defaults(&conf_table, c, &err);
    snprintf(c->model_path, sizeof c->model_path, "tests/golden/tiny");
    c->threads = 1;
    c->max_sequences = 2;
    for (; ok && set && *set; set++)
        ok = !deq_opt_assign(&conf_table, c, *set, &err);
    log_init("error");
    metrics_init(&inside.metrics);
    deq_budget_init(&inside.budget, c->answer_bytes);
    struct service *s = &inside.service;
    s->conf = c;
    s->metrics = &inside.metrics;
    s->budget = &inside.budget;
    ok = ok && !auth_new(c->keys_file, &s->auth, &err) && !states_new(c, &inside.metrics, &s->states, &err) &&
         !store_new(c, &inside.metrics, &s->store, &err) &&
         !store_load(s->store, &err);
    CHECK_MSG(ok, "%s", err.text);
    atomic_store(&s->state, SERVER_READY);
    return ok;
}

void inside_end(void)
{
    CHECK(deq_budget_used(&inside.budget) == 0);
    states_free(inside.service.states);
    store_free(inside.service.store);
    auth_free(inside.service.auth);
    pthread_mutex_destroy(&inside.budget.lock);
    log_init("info");
}

static void on_resume(void *conn, struct wakeups *w)
{
    (void)conn;
    (void)w;
}

static const struct timespec nap = {.tv_nsec = 20000};

/* As the connection's thread does. */
static void wait_until_done(struct channel *c)
{
    for (bool done = false; !done;) {
        pthread_mutex_lock(&c->lock);
        while (channel_render(c))
            ;
        done = c->done;
        pthread_mutex_unlock(&c->lock);
        if (!done)
            nanosleep(&nap, NULL);
    }
}

bool inside_open(struct asked *r, const struct exchange *head, const char *body)
{
    struct exchange *x = &r->x;
    *x = *head;
    x->channel = channel_new(x, on_resume, 1 << 20, &inside.budget, 1);
    if (!x->channel)
        return false;
    x->body = (struct deq_buf){.max = 1 << 20, .allowance = &x->channel->allowance};
    x->reply = x->body;
    deq_buf_str(&x->body, body);
    route_check(&inside.service, x, NULL, 0);
    return true;
}

void inside_handle(struct asked *r)
{
    struct exchange *x = &r->x;
    if (!x->status && x->body.failed) /* as http.c does, like what follows */
        x->status = 503;
    else if (!x->status)
        route_handle(&inside.service, x);
    if (x->status && (x->reply.failed || x->body.failed)) {
        x->status = 503;
        channel_last_words(x->channel, answer_no_memory);
    } else if (x->status) {
        channel_give(x->channel, &x->reply);
    }
}

void inside_wait(struct asked *r)
{
    if (!r->x.status)
        wait_until_done(r->x.channel);
}

void inside_close(struct asked *r, struct outcome *ret)
{
    struct exchange *x = &r->x;
    struct channel *c = x->channel;
    ret->status = c->failed ? 0 : x->status ? x->status : c->status;
    ret->streamed = c->streaming;
    ret->retry_after_ms = x->status ? x->retry_after_ms : c->retry_after_ms;
    ret->type = x->status ? x->reply_type : c->content_type;
    ret->n = DEQ_MIN(c->bytes.len, sizeof ret->text - 1);
    CHECK(c->bytes.len == ret->n);
    memcpy(ret->text, c->bytes.len ? c->bytes.data : "", ret->n);
    snprintf(ret->text + ret->n, sizeof ret->text - ret->n, "%s", c->last_words ? c->last_words : "");
    deq_buf_free(&x->body);
    deq_buf_free(&x->reply);
    channel_disconnect(c);
    channel_unref(c);
}

void inside_rest(void)
{
    for (int tries = 0; tries < 500000 && deq_budget_used(&inside.budget); tries++)
        nanosleep(&nap, NULL); /* the engine's thread lets go after its last word */
}

bool inside_ask_as(const struct exchange *head, const char *body, uint64_t nth, struct outcome *ret)
{
    struct asked r;
    if (!inside_open(&r, head, body))
        return false;
    const uint64_t before = deq_mem_calls();
    deq_mem_fault(nth, false);
    inside_handle(&r);
    inside_wait(&r);
    deq_mem_fault(0, false);
    const bool reached = deq_mem_calls() - before >= nth;
    inside_close(&r, ret);
    inside_rest();
    return reached;
}

void inside_ask(const char *method, const char *path, const char *body, struct outcome *ret)
{
    const struct exchange head = {.method = method, .path = path, .request_id = "r", .arrived_ns = deq_now_ns(),
                                  .caller = {.id = 1, .weight = 1}};
    (void)inside_ask_as(&head, body, 0, ret);
}
