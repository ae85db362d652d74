/* Doors of the daemon that are watched, or that answer otherwise than they would: libdeq's and the scheduler's. A step
 * takes simulated time, mostly little; the token POISON has an embedding that is not a number, so that the solver of
 * whoever reads it diverges, alone and beside others. */
#include <math.h>

#include "core/deq.h"
#include "server/notify.h"
#include "server/work/sched_impl.h"
#include "tests/sim/sim.h"

/* How long a step takes. Now and then all take long for some seconds: the queue fills, and its limits are met. */
static uint64_t a_step_ns(void)
{
    static uint64_t slow_until_ns;
    if (sim.chaos && sim.now_ns >= slow_until_ns && sim_one_in(3000))
        slow_until_ns = sim.now_ns + sim_between(1000000000, 8000000000);
    if (sim.now_ns < slow_until_ns)
        return sim_between(10000000, 120000000);
    return sim.chaos && sim_one_in(4000) ? sim_between(100000000, 700000000) : sim_between(20000, 900000);
}

void __real_deq_step(struct deq_engine *e);
void __wrap_deq_step(struct deq_engine *e)
{
    const uint64_t ns = a_step_ns();
    static uint64_t long_ago_ns;
    if (ns >= sim.longest_step_ns || sim.now_ns > long_ago_ns) {
        sim.longest_step_ns = ns;
        long_ago_ns = sim.now_ns + ns + 3000000000u;
    }
    check_step(e);
    __real_deq_step(e);
    thread_wait(NULL, NULL, sim.now_ns + ns);
}

enum deq_rc __real_deq_expire(struct deq_engine *e, uint64_t id);
enum deq_rc __wrap_deq_expire(struct deq_engine *e, uint64_t id)
{
    check_expired(id);
    return __real_deq_expire(e, id);
}

struct deq_vocabulary;
void __real_deq_vocabulary_embed(const struct deq_vocabulary *v, uint32_t token, float *work, float *e);
void __wrap_deq_vocabulary_embed(const struct deq_vocabulary *v, uint32_t token, float *work, float *e)
{
    __real_deq_vocabulary_embed(v, token, work, e);
    if (token == POISON)
        e[0] = NAN;
}

enum deq_rc __real_sched_new(const struct conf *c, const struct deq_model *model, struct metrics *m,
                             struct sched **ret, struct deq_err *err);
enum deq_rc __wrap_sched_new(const struct conf *c, const struct deq_model *model, struct metrics *m,
                             struct sched **ret, struct deq_err *err)
{
    const enum deq_rc rc = __real_sched_new(c, model, m, ret, err);
    if (!rc)
        check_sched(*ret, true);
    return rc;
}

void __real_sched_free(struct sched *s);
void __wrap_sched_free(struct sched *s)
{
    if (s)
        check_sched(s, false);
    __real_sched_free(s);
}

void __real_queue_admit(struct sched *s);
void __wrap_queue_admit(struct sched *s)
{
    check_admission(s);
    __real_queue_admit(s);
}

uint64_t __real_fair_places(const struct account *a, uint64_t places);
uint64_t __wrap_fair_places(const struct account *a, uint64_t places)
{
    check_places(a, places);
    return __real_fair_places(a, places);
}

enum submit __real_sched_reserve(struct sched *s, const struct caller *caller, uint64_t tokens, struct reservation *r);
enum submit __wrap_sched_reserve(struct sched *s, const struct caller *caller, uint64_t tokens, struct reservation *r)
{
    const enum submit verdict = __real_sched_reserve(s, caller, tokens, r);
    check_verdict(1, verdict);
    return verdict;
}

enum submit __real_sched_submit(struct sched *s, struct reservation *r, struct job *jobs);
enum submit __wrap_sched_submit(struct sched *s, struct reservation *r, struct job *jobs)
{
    check_submitted(jobs); /* before: they may have ended when it returns */
    const bool drains = check_drains(s);
    size_t n = 0;
    for (const struct job *j = jobs; j; j = j->next)
        n++;
    const enum submit verdict = __real_sched_submit(s, r, jobs);
    check_verdict(n, verdict);
    if (verdict != SUBMIT_OK)
        check_refused(jobs);
    else if (drains)
        sim_fail("a job is let in during the drain");
    return verdict;
}

bool __real_deq_allowance_reserve(struct deq_allowance *a, uint64_t bytes);
bool __wrap_deq_allowance_reserve(struct deq_allowance *a, uint64_t bytes)
{
    const bool ok = __real_deq_allowance_reserve(a, bytes);
    if (ok)
        check_chosen(a);
    return ok;
}

void __real_fair_charge(struct fair *f, struct account *a, double tokens);
void __wrap_fair_charge(struct fair *f, struct account *a, double tokens)
{
    __real_fair_charge(f, a, tokens);
    check_charged(f, a, tokens);
}

bool __real_fair_share(struct fair_seat *const *seat, size_t n, double free_rows, uint64_t turn);
bool __wrap_fair_share(struct fair_seat *const *seat, size_t n, double free_rows, uint64_t turn)
{
    const bool throttled = __real_fair_share(seat, n, free_rows, turn);
    check_shared(seat, n);
    return throttled;
}

void __real_metrics_init(struct metrics *m);
void __wrap_metrics_init(struct metrics *m)
{
    __real_metrics_init(m);
    check_metrics(m);
}

void __real_deq_budget_init(struct deq_budget *b, uint64_t max_bytes);
void __wrap_deq_budget_init(struct deq_budget *b, uint64_t max_bytes)
{
    __real_deq_budget_init(b, max_bytes);
    check_budget(b);
}

void __real_notify_ready(const char *status, bool (*alive)(void *ctx), void *ctx);
void __wrap_notify_ready(const char *status, bool (*alive)(void *ctx), void *ctx)
{
    __real_notify_ready(status, alive, ctx);
    sim.serving = true;
}

/* What release builds count, and others end by. */
bool __wrap_deq_bug(const char *file, int line, const char *condition)
{
    sim_fail("%s:%d: %s", file, line, condition);
}
