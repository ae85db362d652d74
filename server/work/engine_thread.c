/* What runs on the engine's thread. A round of its loop acts on what other threads asked for, admits jobs from the
 * queue (admission.c), decides who takes part in the step, makes it, and passes on what it gave. What is shared with
 * other threads, and under which lock: sched_impl.h. */
#define _GNU_SOURCE
#include <time.h>

#include "core/base/bug.h"
#include "core/base/clock.h"
#include "server/work/sched_impl.h"

enum { IDLE_HEARTBEAT_MS = 200 /* an idle engine shows that it lives so often */ };

/* --- What the engine tells of running jobs --- */

static void unlink_running(struct sched *s, struct job *j)
{
    struct job **p = &s->running;
    while (*p && *p != j)
        p = &(*p)->next;
    if (!DEQ_BUG_ON(!*p))
        *p = j->next;
}

/* j leaves the engine. */
static void leave_engine(struct sched *s, struct job *j, uint64_t now)
{
    struct metrics *m = s->metrics;
    const double t = 1e-9 * (double)(now - j->admitted_ns);
    const double decode = 1e-9 * (double)(j->last_token_ns - j->first_token_ns);
    metrics_observe(&m->e2e_s, (double)(now - j->arrived_ns) * 1e-9);
    if (j->first_token_ns)
        metrics_observe(&m->decode_s, (double)(now - j->first_token_ns) * 1e-9);
    if (j->first_choice_tokens > 1)
        metrics_observe(&m->tpot_s, decode / (j->first_choice_tokens - 1));
    metrics_observe(&m->generation_length, j->tokens);
    atomic_fetch_sub(&m->running, 1);
    unlink_running(s, j);
    if (j->overtook)
        s->overtakers = fair_minus(&s->overtakers, &j->room);
    pthread_mutex_lock(&s->lock);
    DEQ_BUG_ON(!s->n_running || !j->account->running || !j->account->in_flight);
    DEQ_BUG_ON(s->held.sequences < j->room.sequences || s->held.rows < j->room.rows || s->held.pages < j->room.pages);
    s->n_running--;
    s->held = fair_minus(&s->held, &j->room);
    sched_unlist(s, j);
    s->service_s = s->service_s > 0 ? 0.9 * s->service_s + 0.1 * t : t;
    j->account->running--;
    j->account->in_flight--;
    pthread_mutex_unlock(&s->lock);
}

enum job_end engine_count_cancel(struct sched *s, const struct job *j, enum cancel_phase phase)
{
    const bool ended = atomic_load(&j->ended);
    atomic_fetch_add(ended ? &s->metrics->ended : &s->metrics->cancelled[phase], 1);
    return ended ? JOB_ENDED : JOB_CANCELED;
}

static void observe_token(struct sched *s, struct job *j, const struct deq_event *e)
{
    struct metrics *m = s->metrics;
    const uint64_t now = deq_now_ns();
    if (!j->tokens++) {
        j->first_token_ns = now;
        metrics_observe(&m->ttft_s, (double)(now - j->arrived_ns) * 1e-9);
        metrics_observe(&m->prefill_s, (double)(now - j->admitted_ns) * 1e-9);
    }
    if (e->choice == 0) { /* of several choices one is timed: they come together */
        if (j->first_choice_tokens++) {
            metrics_observe(&m->itl_s, (double)(now - j->last_token_ns) * 1e-9);
            depth_gap(s, j, now - j->last_token_ns);
        }
        j->last_token_ns = now;
    }
    atomic_store_explicit(&j->shown.tokens, j->tokens, memory_order_relaxed);
    atomic_fetch_add_explicit(&j->shown.evaluations, e->evaluations, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->generation_tokens, 1, memory_order_relaxed);
    if (j->levels && s->elastic.level)
        atomic_fetch_add_explicit(&m->depth_tokens, 1, memory_order_relaxed);
    metrics_observe(&m->iterations, e->evaluations);
    if (e->evaluations)
        metrics_observe(&m->residual, (double)e->residual);
    atomic_fetch_add_explicit(&m->start_tokens[e->start], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->start_evaluations[e->start], e->evaluations, memory_order_relaxed);
    if (j->on_step && j->flush.has == FLUSH_NOTHING)
        j->flush.has = FLUSH_NEW;
}

enum deq_verdict engine_on_event(void *ctx, const struct deq_event *e)
{
    struct job *j = ctx;
    struct sched *s = j->sched;
    if (e->kind == DEQ_EVENT_TOKEN)
        observe_token(s, j, e);
    else if (e->kind == DEQ_EVENT_PROMPT)
        metrics_observe(&s->metrics->prompt_iterations, e->evaluations);
    if (DEQ_BUG_ON(!j->open_choices)) /* nothing comes behind the last end */
        return DEQ_STOP;
    if (e->kind != DEQ_EVENT_END)
        return j->on_event(j, e);
    atomic_fetch_add(&s->metrics->finished[e->finish], 1);
    s->blocked = false;
    (void)j->on_event(j, e);
    if (--j->open_choices)
        return DEQ_CONTINUE;
    const bool cancelled = e->finish == DEQ_FINISH_CANCELED;
    leave_engine(s, j, deq_now_ns());
    const enum cancel_phase phase = j->tokens ? CANCEL_DECODE : CANCEL_PREFILL;
    const enum job_end end = !cancelled                ? JOB_FINISHED
                             : atomic_load(&j->cancel) ? engine_count_cancel(s, j, phase)
                             : j->gave_way             ? JOB_GAVE_WAY
                                                       : JOB_DRAINED;
    j->on_end(j, end, e->message);
    return DEQ_CONTINUE;
}

/* --- Who takes part in steps --- */

/* Tells the engine whether j takes part from now on, as its seat and its reader have it. */
static void set_pause(struct sched *s, struct job *j)
{
    j->seat.idle = atomic_load(&j->pause);
    fair_reader_is(&j->reader, j->seat.idle, deq_now_ns());
    const bool pause = !fair_takes_part(&j->seat);
    if (pause == j->paused)
        return;
    j->paused = pause;
    j->waited = j->waited || pause;
    atomic_store_explicit(&j->shown.paused, pause, memory_order_relaxed);
    (void)deq_pause(s->engine, j->admission.id, pause);
}

/* Decides who takes part in the next step. */
static void share_step(struct sched *s)
{
    size_t n = 0;
    for (struct job *j = s->running; j; j = j->next) {
        const struct deq_solve_params *p = &j->request.solve;
        j->seat.rows = (double)deq_window_rows(j->open_choices, p->window, j->tokens ? 0 : p->prefill_window);
        j->seat.idle = atomic_load(&j->pause);
        s->seats[n++] = &j->seat;
    }
    s->sharing = fair_share(s->seats, n, step_cost_free_rows(&s->cost), ++s->turn);
    for (struct job *j = s->running; j; j = j->next)
        set_pause(s, j);
}

/* Cancels, pauses and deadlines of running jobs. A job leaves the list when it ends: start over after each that may. */
static void apply_signals(struct sched *s, bool all)
{
    const uint64_t now = deq_now_ns();
    bool again = true;
    while (again) {
        again = false;
        s->next_deadline_ns = 0;
        for (struct job *j = s->running; j; j = j->next) {
            const uint64_t id = j->admission.id;
            if (all || atomic_load(&j->cancel)) {
                again = deq_cancel(s->engine, id) == DEQ_OK;
            } else if (j->deadline_ns && !j->seat.must) {
                if (now > j->deadline_ns) {
                    j->seat.must = again = true; /* it takes its last step, however many wait */
                    set_pause(s, j);
                    (void)deq_expire(s->engine, id);
                } else if (!s->next_deadline_ns || j->deadline_ns < s->next_deadline_ns) {
                    s->next_deadline_ns = j->deadline_ns;
                }
            }
            if (again) /* j may be gone */
                break;
            set_pause(s, j);
        }
    }
}

/* step_ns: what a step takes; all: whatever the time. */
static void flush_streams(struct sched *s, uint64_t step_ns, bool all)
{
    size_t n = 0;
    for (const struct job *j = s->running; j; j = j->next)
        n += j->flush.has != FLUSH_NOTHING;
    const struct flush f = flush_begin(deq_now_ns(), step_ns, all ? 0 : s->conf->stream_flush_ms, n);
    struct wakeups readers = {0};
    for (struct job *j = s->running; j; j = j->next)
        if (flush_goes(&f, &j->flush))
            j->on_step(j, &readers);
    wakeups_end(&readers);
}

/* --- The loop --- */

static void heartbeat(struct sched *s)
{
    atomic_store_explicit(&s->heartbeat_ns, deq_now_ns(), memory_order_relaxed);
}

/* Caller holds s->lock. */
static void wait_for_work(struct sched *s)
{
    struct timespec until;
    uint64_t ms = s->queue ? QUEUE_SCAN_MS : IDLE_HEARTBEAT_MS;
    const uint64_t now = deq_now_ns();
    if (cache_is_copying(&s->cache))
        ms = 1;
    if (s->next_deadline_ns) /* paused sequences have deadlines too */
        ms = s->next_deadline_ns > now ? DEQ_MIN((s->next_deadline_ns - now) / 1000000u + 1, ms) : 1;
    heartbeat(s);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(ms * 1000000);
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&s->wake, &s->lock, &until);
}

/* Waits while there is nothing to do, then acts on what other threads asked for. False: the thread ends. */
static bool take_signals(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    const bool called = s->stop || s->end_all || s->attention || s->arrivals;
    if (!called && !s->sharing && !deq_runnable(s->engine) && (!s->queue || s->blocked))
        wait_for_work(s);
    const uint64_t now = deq_now_ns();
    const bool stop = s->stop, end_all = s->end_all, attention = s->attention || end_all;
    struct job *expired = NULL;
    if (attention || now > s->next_scan_ns) {
        expired = queue_expired(s, now);
        s->next_scan_ns = now + QUEUE_SCAN_MS * 1000000ull;
    }
    s->blocked = s->blocked && !s->arrivals && !expired;
    s->attention = s->arrivals = false;
    pthread_mutex_unlock(&s->lock);
    queue_finish(s, expired, end_all);
    if (attention || (s->next_deadline_ns && now > s->next_deadline_ns))
        apply_signals(s, end_all);
    if (end_all) {
        pthread_mutex_lock(&s->lock);
        s->end_all = false;
        pthread_mutex_unlock(&s->lock);
    }
    return !stop;
}

static void step(struct sched *s)
{
    struct metrics *m = s->metrics;
    const uint64_t began = deq_now_ns();
    atomic_fetch_add_explicit(&m->outside_ns, deq_thread_cpu_ns() - s->outside_since_ns, memory_order_relaxed);
    deq_step(s->engine);
    s->outside_since_ns = deq_thread_cpu_ns();
    const uint64_t step_ns = deq_now_ns() - began;
    const double seconds = (double)step_ns * 1e-9;
    flush_streams(s, step_ns, false);
    const struct deq_engine_stats now = deq_engine_stats(s->engine);
    if (now.steps != s->seen.steps) { /* else it took what was there: a saved state's words, a proposal */
        const double rows = (double)(now.rows - s->seen.rows);
        step_cost_add(&s->cost, rows, seconds);
        metrics_observe(&m->step_s, seconds);
        metrics_observe(&m->rows, rows);
    }
    metrics_observe(&m->step_tokens, (double)(now.positions - s->seen.positions));
}

/* All running jobs are paused, and no waiting one fits: nothing to do until a reader catches up. */
static void wait_for_readers(struct sched *s)
{
    flush_streams(s, 0, true);
    pthread_mutex_lock(&s->lock);
    if (s->queue && !s->attention && !s->arrivals && !s->stop && !s->end_all)
        wait_for_work(s);
    pthread_mutex_unlock(&s->lock);
}

void *engine_thread(void *sched)
{
    struct sched *s = sched;
    (void)pthread_setname_np(pthread_self(), "engine");
    while (take_signals(s)) {
        if (!s->blocked || deq_now_ns() >= s->next_try_ns)
            queue_admit(s);
        if (s->sharing || (s->running && s->running->next))
            share_step(s);
        if (deq_runnable(s->engine))
            step(s);
        else if (deq_active(s->engine))
            wait_for_readers(s);
        depth_follow(s);
        cache_follow(&s->cache, s->engine, deq_now_ns());
        const struct deq_engine_stats now = deq_engine_stats(s->engine); /* also after cancellations without a step */
        metrics_engine(s->metrics, &s->seen, &now);
        s->seen = now;
        heartbeat(s);
    }
    return NULL;
}
