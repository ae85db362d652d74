/* Probes and metrics. Live: the engine's thread shows signs of life. Ready: requests are wanted. Startup: loading is done. */
#include "core/base/clock.h"
#include "server/reply.h"
#include "server/route.h"

static void health(struct service *s, struct exchange *x, bool ok)
{
    static const char *const states[] = {"starting", "ready", "draining"};
    const struct metrics *m = s->metrics;
    const double age_ms = ((double)deq_now_ns() - (double)atomic_load(&m->last_step_ns)) * 1e-6;
    x->status = ok ? 200 : 503;
    reply_json(&x->reply, json_pack("{s:s, s:s, s:I, s:I, s:f}", "status", ok ? "ok" : "unavailable", "state", states[atomic_load(&s->state)],
                                    "running", (json_int_t)atomic_load(&m->running), "waiting", (json_int_t)atomic_load(&m->waiting),
                                    "last_step_age_ms", age_ms > 0 ? age_ms : 0));
}

void ep_live(struct service *s, struct exchange *x)
{
    health(s, x, sched_alive(s->sched, s->conf->stall_ms));
}

void ep_ready(struct service *s, struct exchange *x)
{
    health(s, x, atomic_load(&s->state) == SERVER_READY && sched_alive(s->sched, s->conf->stall_ms));
}

void ep_startup(struct service *s, struct exchange *x)
{
    health(s, x, atomic_load(&s->state) != SERVER_STARTING);
}

void ep_metrics(struct service *s, struct exchange *x)
{
    x->content_type = "text/plain; version=0.0.4; charset=utf-8";
    x->status = metrics_render(s->metrics, &x->reply) ? 200 : 500;
}

void ep_version(struct service *s, struct exchange *x)
{
    const struct deq_model_info i = deq_model_info(s->model);
    x->status = 200;
    reply_json(&x->reply, json_pack("{s:s, s:s, s:s}", "version", DEQ_VERSION, "kernels", i.kernels, "model_fingerprint", i.fingerprint));
}
