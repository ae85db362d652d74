/* Probes, metrics, administration. Live: the engine's thread shows signs of life. Ready: requests are wanted. Startup: loading is done. */
#include "core/base/clock.h"
#include "server/api/answer.h"
#include "server/log.h"
#include "server/api/reply.h"
#include "server/api/route.h"

static void health(struct service *s, struct exchange *x, bool ok)
{
    static const char *const states[] = {"starting", "ready", "draining"};
    const struct metrics *m = s->metrics;
    struct served *served = store_acquire(s->store);
    const double age_ms = served ? ((double)deq_now_ns() - (double)sched_last_step_ns(served->sched)) * 1e-6 : 0;
    store_release(served);
    x->status = ok ? 200 : 503;
    if (!ok)
        x->retry_after_ms = 1000;
    reply_json(&x->reply, json_pack("{s:s, s:s, s:I, s:I, s:f}", "status", ok ? "ok" : "unavailable", "state", states[atomic_load(&s->state)],
                                    "running", (json_int_t)atomic_load(&m->running), "waiting", (json_int_t)atomic_load(&m->waiting),
                                    "last_step_age_ms", age_ms > 0 ? age_ms : 0));
}

void ep_live(struct service *s, struct served *m, struct exchange *x)
{
    (void)m;
    health(s, x, store_alive(s->store, s->conf->stall_ms));
}

static bool ready(const struct service *s)
{
    return atomic_load(&s->state) == SERVER_READY && store_alive(s->store, s->conf->stall_ms);
}

void ep_ready(struct service *s, struct served *m, struct exchange *x)
{
    (void)m;
    health(s, x, ready(s));
}

void ep_startup(struct service *s, struct served *m, struct exchange *x)
{
    (void)m;
    health(s, x, atomic_load(&s->state) != SERVER_STARTING);
}

void ep_metrics(struct service *s, struct served *m, struct exchange *x)
{
    struct served *served = store_acquire(s->store);
    struct metrics_now now = {.ready = ready(s),
                              .max_waiting = s->conf->queue_requests,
                              .max_connections = s->conf->max_connections,
                              .answer_bytes = deq_budget_used(s->budget),
                              .max_answer_bytes = s->conf->answer_bytes,
                              .started_ms = s->started_ms};
    (void)m;
    if (served) {
        now.model_name = served->name;
        now.fingerprint = served->info.fingerprint;
        now.last_step_ns = sched_last_step_ns(served->sched);
        now.max_positions = sched_max_positions(served->sched);
        now.weight_bytes = served->info.weight_bytes;
    }
    x->reply_type = "text/plain; version=0.0.4; charset=utf-8";
    x->status = 200;
    metrics_render(s->metrics, &now, &x->reply);
    store_release(served);
}

/* --- Reload --- */

enum deq_rc service_reload_secrets(struct service *s, struct deq_err *err)
{
    struct deq_err tls_err;
    enum deq_rc rc = auth_reload(s->auth, err);
    if (rc)
        log_line(LOG_ERROR, "keys not reloaded, the old ones stay", "{s:s}", "reason", err->text);
    const enum deq_rc tls = s->tls ? tls_reload(s->tls, &tls_err) : DEQ_OK;
    if (tls)
        log_line(LOG_ERROR, "certificate not reloaded, the old one stays", "{s:s}", "reason", tls_err.text);
    if (tls && !rc) {
        *err = tls_err;
        rc = tls;
    }
    return rc;
}

/* On the reload's thread; ctx: the channel that waits, held. */
static void answer(void *ctx, enum deq_rc rc, const struct deq_err *err, const char *fingerprint)
{
    struct channel *c = ctx;
    struct deq_buf b;
    deq_buf_init(&b, 4096);
    if (rc)
        reply_error(&b, rc == DEQ_ECANCELED ? 503 : 500, "reload_failed", NULL, err->text);
    else
        reply_json(&b, json_pack("{s:s, s:s}", "status", "ok", "fingerprint", fingerprint));
    answer_whole(c, rc == DEQ_ECANCELED ? 503 : rc ? 500 : 200, "application/json", &b);
    deq_buf_free(&b);
    channel_unref(c);
}

void ep_reload(struct service *s, struct served *m, struct exchange *x)
{
    (void)m;
    struct deq_err err;
    log_line(LOG_INFO, "reload asked for", "{s:s}", "request_id", x->request_id);
    if (service_reload_secrets(s, &err)) { /* the weights stay too: whoever asked mends the file first */
        exchange_error(x, 500, "reload_failed", NULL, err.text);
        return;
    }
    channel_ref(x->channel);
    if (store_reload(s->store, answer, x->channel))
        return;
    channel_unref(x->channel);
    x->retry_after_ms = 1000;
    exchange_error(x, 503, "reload_in_progress", NULL, "a reload is under way, or four earlier models still have work");
}
