#include "server/route.h"

#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "server/log.h"
#include "server/reply.h"

static const struct {
    const char *method, *path;
    void (*endpoint)(struct service *s, struct exchange *x);
    bool probe; /* not logged */
} table[] = {
    {"POST", "/v1/completions", ep_completions, false},
    {"POST", "/v1/logits", ep_logits, false},
    {"GET", "/v1/models", ep_models, false},
    {"POST", "/tokenize", ep_tokenize, false},
    {"POST", "/detokenize", ep_detokenize, false},
    {"GET", "/version", ep_version, false},
    {"GET", "/health", ep_ready, true},
    {"GET", "/health/live", ep_live, true},
    {"GET", "/health/ready", ep_ready, true},
    {"GET", "/health/startup", ep_startup, true},
    {"GET", "/metrics", ep_metrics, true},
};

void exchange_error(struct exchange *x, int status, const char *code, const char *param, const char *message)
{
    x->status = status;
    reply_error(&x->reply, status, code, param, message);
}

void exchange_request_error(struct exchange *x, const struct request_error *e)
{
    x->status = e->status;
    if (e->n_ctx)
        reply_length_error(&x->reply, e->param, e->message, e->n_prompt_tokens, e->n_ctx);
    else
        reply_error(&x->reply, e->status, e->code, e->param[0] ? e->param : NULL, e->message);
}

void exchange_not_submitted(struct exchange *x, const struct service *s, enum submit verdict)
{
    snprintf(x->retry_after_ms, sizeof x->retry_after_ms, "%u", verdict == SUBMIT_DRAINING ? 1000 : sched_retry_ms(s->sched));
    switch (verdict) {
    case SUBMIT_QUEUE_FULL: exchange_error(x, 429, "queue_full", NULL, "too many requests are waiting; try again later"); break;
    case SUBMIT_TOKENS_FULL: exchange_error(x, 429, "tokens_queue_full", NULL, "too many prompt tokens are waiting; try again later"); break;
    default: exchange_error(x, 503, "draining", NULL, "the server is shutting down"); break;
    }
}

struct request_context service_context(const struct service *s)
{
    return (struct request_context){
        .model = s->model, .conf = s->conf, .model_name = s->model_name, .max_positions = sched_max_positions(s->sched)};
}

static void log_exchange(const struct exchange *x)
{
    if (log_on(LOG_INFO))
        log_line(LOG_INFO, "request", "{s:s, s:s, s:s, s:i, s:f}", "request_id", x->request_id, "method", x->method, "path", x->path, "status",
                 x->status, "ms", (double)(deq_now_ns() - x->arrived_ns) * 1e-6);
}

void route(void *ctx, struct exchange *x)
{
    struct service *s = ctx;
    bool known = false;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(table[i].path, x->path))
            continue;
        /* HEAD is GET without a body; libmicrohttpd leaves the body out */
        if (strcmp(table[i].method, x->method) && !(!strcmp(x->method, "HEAD") && !strcmp(table[i].method, "GET"))) {
            known = true;
            x->allow = table[i].method;
            continue;
        }
        x->allow = NULL;
        table[i].endpoint(s, x);
        if (x->status && !table[i].probe)
            log_exchange(x);
        return;
    }
    if (known)
        exchange_error(x, 405, "method_not_allowed", NULL, "this path takes another method; see the Allow header");
    else
        exchange_error(x, 404, "unknown_path", NULL, "there is nothing at this path");
    x->path = "-"; /* of no route of ours: not for the log */
    log_exchange(x);
}
