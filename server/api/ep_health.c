/* Probes and metrics. Live: the engine's thread shows signs of life. Ready: requests are wanted. Startup: loading is
 * done. */
#include "core/base/clock.h"
#include "server/api/endpoints.h"
#include "server/api/reply.h"
#include "server/work/elastic.h"

static void health(struct service *s, struct exchange *x, bool ok)
{
    static const char *const states[] = {[SERVER_STARTING] = "starting",
                                         [SERVER_READY] = "ready",
                                         [SERVER_DRAINING] = "draining"};
    _Static_assert(DEQ_COUNT(states) == SERVER_STATE_COUNT, "a word for each state");
    const struct metrics *m = s->metrics;
    struct served *served = store_acquire(s->store);
    const double age_ms = served ? ((double)deq_now_ns() - (double)sched_last_step_ns(served->sched)) * 1e-6 : 0;
    store_release(served);
    x->status = ok ? 200 : 503;
    if (!ok)
        x->retry_after_ms = 1000;
    reply_json(&x->reply,
               json_pack("{s:s, s:s, s:I, s:I, s:f}", "status", ok ? "ok" : "unavailable", "state",
                         states[atomic_load(&s->state)], "running", (json_int_t)atomic_load(&m->running), "waiting",
                         (json_int_t)atomic_load(&m->waiting), "last_step_age_ms", age_ms > 0 ? age_ms : 0));
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
                              .depth_objective_s = s->conf->depth_objective_ms * 1e-3,
                              .depth_factor = elastic_factor((unsigned)atomic_load(&s->metrics->depth_level)),
                              .started_ms = s->started_ms};
    (void)m;
    if (served) {
        now.model_name = served->name;
        now.fingerprint = served->info.fingerprint;
        now.last_step_ns = sched_last_step_ns(served->sched);
        now.max_positions = sched_max_positions(served->sched);
        now.forms = deq_form_stats(served->model);
        now.weight_bytes = served->info.weight_bytes;
    }
    x->reply_type = "text/plain; version=0.0.4; charset=utf-8";
    x->status = 200;
    metrics_render(s->metrics, &now, &x->reply);
    store_release(served);
}
