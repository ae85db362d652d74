#define _GNU_SOURCE
#include "server/work/sched.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/cores.h"
#include "core/base/mem.h"
#include "server/work/fair.h"
#include "server/log.h"

enum {
    IDLE_BEAT_MS = 200,  /* an idle engine shows that it lives so often */
    SCAN_MS = 10,        /* the queue is searched for expired jobs so often */
};

struct sched {
    const struct conf *conf;
    struct metrics *metrics;
    struct deq_engine *engine; /* the thread's alone */
    struct deq_engine_stats seen; /* what the metrics hold of this engine; the thread's */
    struct job *running;       /* the thread's */
    uint64_t outside_since_ns; /* its CPU time when the last step ended */
    uint64_t next_deadline_ns; /* of running jobs; the thread's; 0: none */
    uint64_t next_scan_ns;     /* of the queue; the thread's */
    struct step_cost cost;     /* the thread's */
    uint64_t turn;             /* number of the step; the thread's */
    bool sharing;              /* some job waits its turn; the thread's */
    struct fair_seat *seats;   /* [max_sequences] of a step's sharing; the thread's */
    bool blocked;              /* somebody found no room, and nobody has left since; the thread's */
    uint64_t next_try_ns;      /* then it is tried again: readers give room without a word; the thread's */
    uint32_t max_positions, max_sequences;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;      /* guards what follows */
    pthread_cond_t wake;
    struct job *queue, **queue_end; /* in order of arrival */
    size_t queued, queued_tokens, reserved, reserved_tokens;
    size_t running_sequences, running_rows, n_running;
    struct fair_room overtakers; /* what jobs hold that overtook others */
    const struct job *first;     /* came next and found no room; while jobs are admitted */
    bool stop, draining, end_all;
    bool attention;            /* some job's cancel or pause was set */
    bool arrivals;             /* jobs came since the last look at the queue */
    struct fair fair;
    double service_s;          /* moving average of a job's time in the engine */
    _Atomic uint64_t beat_ns;  /* last sign of life */
};

static uint32_t choices(const struct job *j)
{
    return DEQ_MAX(j->request.n, 1u);
}

static double cost(const struct job *j)
{
    return ((double)j->prompt.n + (double)choices(j) * j->request.max_tokens) / DEQ_MAX(j->caller.weight, 1u);
}

static struct fair_job in_line(const struct job *j)
{
    return (struct fair_job){j->account, j->priority, j->caller.priority, j->arrived_ns};
}

/* with the lock. The link that points to the job that comes next, of callers that are not barred. */
static struct job **next_in_line(struct sched *s, uint64_t now)
{
    struct job **best = NULL;
    struct fair_job first = {0};
    for (int round = 0; round < 2; round++)
        for (const struct job *j = s->queue; j; j = j->next) {
            const struct fair_job f = in_line(j);
            round ? fair_see(&f) : fair_forget(&f);
        }
    for (struct job **p = &s->queue; *p; p = &(*p)->next) {
        const struct fair_job f = in_line(*p);
        if (!(*p)->account->barred && (!best || fair_before(&s->fair, &f, &first, now))) {
            best = p;
            first = f;
        }
    }
    return best;
}

/* --- Jobs that end --- */

static double rows_of(const struct job *j)
{
    return (double)j->request.solve.window * j->open_choices;
}

/* with the lock */
static void leave(const struct job *j)
{
    j->account->in_flight--;
}

/* with the lock. j, which *link points to, waits no more. */
static void unlink_waiting(struct sched *s, struct job **link)
{
    struct job *j = *link;
    *link = j->next;
    if (!*link)
        s->queue_end = link;
    s->queued--;
    s->queued_tokens -= j->prompt.n;
    j->account->waiting--;
}

static void unlink_running(struct sched *s, struct job *j)
{
    struct job **p = &s->running;
    while (*p != j)
        p = &(*p)->next;
    *p = j->next;
}

static void account_end(struct sched *s, struct job *j, uint64_t now)
{
    const double t = 1e-9 * (double)(now - j->admitted_ns);
    metrics_observe(&s->metrics->e2e_s, (double)(now - j->arrived_ns) * 1e-9);
    if (j->first_token_ns)
        metrics_observe(&s->metrics->decode_s, (double)(now - j->first_token_ns) * 1e-9);
    if (j->first_choice_tokens > 1)
        metrics_observe(&s->metrics->tpot_s, (double)(j->last_token_ns - j->first_token_ns) * 1e-9 / (j->first_choice_tokens - 1));
    metrics_observe(&s->metrics->generation_length, j->tokens);
    atomic_fetch_sub(&s->metrics->running, 1);
    unlink_running(s, j);
    pthread_mutex_lock(&s->lock);
    s->n_running--;
    s->running_sequences -= choices(j);
    s->running_rows -= choices(j) * j->request.solve.window;
    if (j->overtook)
        s->overtakers = (struct fair_room){s->overtakers.sequences - choices(j),
                                           s->overtakers.rows - choices(j) * j->request.solve.window, s->overtakers.pages - j->pages};
    j->account->running--;
    s->service_s = s->service_s > 0 ? 0.9 * s->service_s + 0.1 * t : t;
    leave(j);
    pthread_mutex_unlock(&s->lock);
}

static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    struct job *j = ctx;
    struct sched *s = j->sched;
    struct metrics *m = s->metrics;
    if (e->kind == DEQ_EVENT_TOKEN) {
        const uint64_t now = deq_now_ns();
        if (!j->tokens++) {
            j->first_token_ns = now;
            metrics_observe(&m->ttft_s, (double)(now - j->arrived_ns) * 1e-9);
            metrics_observe(&m->prefill_s, (double)(now - j->admitted_ns) * 1e-9);
        }
        if (e->choice == 0) { /* of several choices one is timed: they come together */
            if (j->first_choice_tokens++)
                metrics_observe(&m->itl_s, (double)(now - j->last_token_ns) * 1e-9);
            j->last_token_ns = now;
        }
        atomic_fetch_add_explicit(&m->generation_tokens, 1, memory_order_relaxed);
        metrics_observe(&m->iterations, e->evaluations);
        metrics_observe(&m->residual, (double)e->residual);
        atomic_fetch_add_explicit(&m->start_tokens[e->start], 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&m->start_evaluations[e->start], e->evaluations, memory_order_relaxed);
        j->touched = true;
    } else if (e->kind == DEQ_EVENT_PROMPT) {
        metrics_observe(&m->prompt_iterations, e->evaluations);
    }
    if (e->kind != DEQ_EVENT_END)
        return j->on_event(j, e);
    atomic_fetch_add(&m->finished[e->finish], 1);
    s->blocked = false;
    (void)j->on_event(j, e);
    if (--j->open_choices)
        return DEQ_CONTINUE;
    const bool cancelled = e->finish == DEQ_FINISH_CANCELED;
    account_end(s, j, deq_now_ns());
    if (cancelled && atomic_load(&j->cancel)) {
        atomic_fetch_add(&m->cancelled[j->first_token_ns ? CANCEL_DECODE : CANCEL_PREFILL], 1);
        j->on_end(j, JOB_CANCELED, NULL);
    } else {
        j->on_end(j, !cancelled ? JOB_FINISHED : j->gave_way ? JOB_GAVE_WAY : JOB_DRAINED, e->message);
    }
    return DEQ_CONTINUE;
}

/* Takes jobs off the queue that will not run: cancelled, waited too long, or everything ends. They are returned as a list; with the lock. */
static struct job *take_dead(struct sched *s, uint64_t now)
{
    struct job *dead = NULL, **p = &s->queue;
    while (*p) {
        struct job *j = *p;
        if (atomic_load(&j->cancel) || s->end_all || (j->deadline_ns && now > j->deadline_ns) ||
            (now > j->arrived_ns && now - j->arrived_ns > s->conf->queue_timeout_ms * 1000000ull)) {
            unlink_waiting(s, p);
            leave(j);
            j->next = dead;
            dead = j;
        } else {
            p = &j->next;
        }
    }
    return dead;
}

static void bury(struct sched *s, struct job *dead, bool end_all)
{
    while (dead) {
        struct job *j = dead;
        dead = j->next;
        enum job_end end = JOB_DRAINED;
        if (atomic_load(&j->cancel)) {
            end = JOB_CANCELED;
            atomic_fetch_add(&s->metrics->cancelled[CANCEL_QUEUED], 1);
        } else if (!end_all) {
            end = j->deadline_ns && deq_now_ns() > j->deadline_ns ? JOB_DEADLINE : JOB_QUEUE_TIMEOUT;
            atomic_fetch_add(&s->metrics->rejected[end == JOB_DEADLINE ? REJECT_DEADLINE : REJECT_QUEUE_TIMEOUT], 1);
        }
        atomic_fetch_sub(&s->metrics->waiting, 1); /* last: whoever sees it gone finds it counted */
        j->on_end(j, end, NULL);
    }
}

/* --- The engine's thread --- */

/* with the lock. Room in the engine as the callers' shares allow it, and for its answer. */
static bool finds_room(struct sched *s, const struct job *j)
{
    const struct deq_engine_stats st = deq_engine_stats(s->engine);
    const uint32_t rows = choices(j) * j->request.solve.window;
    const struct fair_room held = {s->running_sequences + choices(j), s->running_rows + rows, st.pages_reserved};
    const struct fair_room all = {st.max_sequences, st.max_rows, st.pages};
    bool may = fair_may_begin(j->account, &held, &all);
    if (s->first) { /* pages are known once they are reserved: one job may pass their eighth */
        const struct fair_room over = {s->overtakers.sequences + choices(j), s->overtakers.rows + rows, s->overtakers.pages};
        const struct fair_room first = {choices(s->first), choices(s->first) * s->first->request.solve.window, 0};
        may = may && fair_may_overtake(j->account, &over, &first, &all);
    }
    return may && deq_allowance_reserve(j->answer, j->answer_bytes);
}

/* with the lock. The next job that finds room. A caller whose first does not is passed by: what he holds, or others of memory, nobody else waits for. */
static struct job *next_with_room(struct sched *s, uint64_t now)
{
    struct job **link;
    while ((link = next_in_line(s, now)) && !finds_room(s, *link))
        s->blocked = (*link)->account->barred = true;
    return link ? *link : NULL;
}

/* Somebody waits for a place: the job whose reader kept it from its turns for longest ends, if one did for too long. */
static bool take_place(struct sched *s, uint64_t now)
{
    struct job *slowest = NULL;
    for (struct job *j = s->running; j; j = j->next)
        if (fair_gives_way(&j->reader, j->admitted_ns, now) && (!slowest || fair_slow_ns(&j->reader, now) > fair_slow_ns(&slowest->reader, now)))
            slowest = j;
    if (!slowest)
        return false;
    slowest->gave_way = true;
    atomic_fetch_add(&s->metrics->gave_way, 1);
    (void)deq_cancel(s->engine, slowest->admission.id);
    return true;
}

/* Moves jobs from the queue into the engine while there is room. */
static void admit(struct sched *s)
{
    s->blocked = false;
    s->first = NULL;
    pthread_mutex_lock(&s->lock);
    for (struct job *j = s->queue; j; j = j->next)
        j->account->barred = false;
    pthread_mutex_unlock(&s->lock);
    for (;;) {
        const uint64_t now = deq_now_ns();
        pthread_mutex_lock(&s->lock);
        struct job *j = next_with_room(s, now), **link;
        pthread_mutex_unlock(&s->lock);
        s->next_try_ns = now + SCAN_MS * 1000000ull;
        if (!j) {
            if (s->blocked && take_place(s, now))
                s->next_try_ns = now;
            return;
        }
        if (atomic_load(&j->cancel)) { /* the next round takes a cancelled one off the queue */
            deq_allowance_unreserve(j->answer, j->answer_bytes);
            return;
        }
        struct deq_err err;
        j->request.event = on_event;
        j->request.ctx = j;
        j->request.prompt = j->prompt.ids;
        j->request.n_prompt = j->prompt.n;
        j->open_choices = choices(j);
        const uint64_t reserved = deq_engine_stats(s->engine).pages_reserved;
        const enum deq_rc rc = deq_submit(s->engine, &j->request, &j->admission, &err);
        if (rc == DEQ_EFULL) {
            deq_allowance_unreserve(j->answer, j->answer_bytes);
            if (take_place(s, now))
                continue;
            s->blocked = j->account->barred = true;
            s->first = s->first ? s->first : j;
            continue;
        }
        pthread_mutex_lock(&s->lock);
        for (link = &s->queue; *link != j;) /* others may have come meanwhile */
            link = &(*link)->next;
        unlink_waiting(s, link);
        if (!rc) {
            fair_charge(&s->fair, j->account, cost(j));
            s->n_running++;
            s->running_sequences += choices(j);
            s->running_rows += choices(j) * j->request.solve.window;
            j->account->running++;
            j->pages = deq_engine_stats(s->engine).pages_reserved - reserved;
            j->overtook = s->first != NULL;
            if (j->overtook)
                s->overtakers = (struct fair_room){s->overtakers.sequences + choices(j),
                                                   s->overtakers.rows + choices(j) * j->request.solve.window, s->overtakers.pages + j->pages};
        } else {
            leave(j);
        }
        pthread_mutex_unlock(&s->lock);
        atomic_fetch_sub(&s->metrics->waiting, 1);
        if (rc) { /* the parser lets nothing through that the engine refuses, but memory may be short */
            j->on_end(j, rc == DEQ_ENOMEM ? JOB_NO_MEMORY : JOB_REFUSED, err.text);
            continue;
        }
        j->admitted_ns = now;
        j->last_turn = s->turn; /* behind those of its caller that wait already */
        j->next = s->running;
        s->running = j;
        if (j->deadline_ns && (!s->next_deadline_ns || j->deadline_ns < s->next_deadline_ns))
            s->next_deadline_ns = j->deadline_ns;
        atomic_fetch_add(&s->metrics->running, 1);
        atomic_fetch_add(&s->metrics->prompt_tokens, j->prompt.n);
        metrics_observe(&s->metrics->prompt_length, (double)j->prompt.n);
        metrics_observe(&s->metrics->max_tokens, j->request.max_tokens);
        metrics_observe(&s->metrics->choices, choices(j));
        metrics_observe(&s->metrics->queue_s, (double)(now - DEQ_MIN(j->arrived_ns, now)) * 1e-9);
        if (j->on_admit)
            j->on_admit(j);
    }
}

/* A job takes part in steps unless its reader is slow or it waits its turn. */
static void set_pause(struct sched *s, struct job *j)
{
    const bool slow = atomic_load(&j->pause), pause = !j->expired && (j->held || slow); /* at its deadline it takes its last step, whoever waits */
    fair_reader_is(&j->reader, slow, deq_now_ns());
    if (pause == j->paused)
        return;
    j->paused = pause;
    (void)deq_pause(s->engine, j->admission.id, pause);
}

/* Decides who takes part in the next step. */
static void share_step(struct sched *s)
{
    size_t n = 0;
    s->turn++;
    for (const struct job *j = s->running; j; j = j->next)
        s->seats[n++] = (struct fair_seat){.caller = j->caller.id,
                                           .weight = DEQ_MAX(j->caller.weight, 1u),
                                           .rows = rows_of(j),
                                           .last_turn = j->last_turn,
                                           .idle = atomic_load(&j->pause),
                                           .must = j->expired};
    fair_share(s->seats, n, step_cost_free_rows(&s->cost));
    s->sharing = false;
    n = 0;
    for (struct job *j = s->running; j; j = j->next) {
        j->held = s->seats[n++].held;
        set_pause(s, j);
        s->sharing = s->sharing || j->held;
        if (!j->paused)
            j->last_turn = s->turn;
    }
}

/* Cancels, pauses and deadlines of running jobs. A job leaves the list when it ends, so start over after each that may. */
static void attend(struct sched *s, bool all)
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
            } else if (j->deadline_ns && !j->expired) {
                if (now > j->deadline_ns) {
                    j->expired = again = true;
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

/* What steps gave goes out when one is over, never in the middle of it, and in one piece: the first token at once, then at most every stream.flush_ms,
 * since waking a reader for every token of a fast stream costs more than making it. */
static void hand_over(struct sched *s, bool all)
{
    const uint64_t now = deq_now_ns(), wait_ns = s->conf->stream_flush_ms * 1000000ull;
    for (struct job *j = s->running; j; j = j->next)
        if (j->touched && (all || now - j->handed_ns >= wait_ns)) {
            j->touched = false;
            j->handed_ns = now;
            if (j->on_step)
                j->on_step(j);
        }
}

static void beat(struct sched *s)
{
    atomic_store_explicit(&s->beat_ns, deq_now_ns(), memory_order_relaxed);
}

/* with the lock */
static void rest(struct sched *s)
{
    struct timespec until;
    uint64_t ms = s->queue ? SCAN_MS : IDLE_BEAT_MS;
    const uint64_t now = deq_now_ns();
    if (s->next_deadline_ns) /* paused sequences have deadlines too */
        ms = s->next_deadline_ns > now ? DEQ_MIN((s->next_deadline_ns - now) / 1000000u + 1, ms) : 1;
    beat(s);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(ms * 1000000);
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&s->wake, &s->lock, &until);
}

static void *engine_main(void *arg)
{
    struct sched *s = arg;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        if (!s->stop && !s->end_all && !s->attention && !s->sharing && !deq_runnable(s->engine) && (!s->queue || s->blocked))
            rest(s);
        const uint64_t now_ns = deq_now_ns();
        const bool stop = s->stop, end_all = s->end_all;
        bool attention = s->attention || end_all;
        struct job *dead = NULL;
        if (attention || now_ns > s->next_scan_ns) {
            dead = take_dead(s, now_ns);
            s->next_scan_ns = now_ns + SCAN_MS * 1000000ull;
        }
        const bool arrivals = s->arrivals;
        s->blocked = s->blocked && !arrivals && !dead;
        s->attention = s->arrivals = false;
        pthread_mutex_unlock(&s->lock);
        bury(s, dead, end_all);
        attention = attention || (s->next_deadline_ns && now_ns > s->next_deadline_ns);
        if (attention)
            attend(s, end_all);
        if (end_all) {
            pthread_mutex_lock(&s->lock);
            s->end_all = false;
            pthread_mutex_unlock(&s->lock);
        }
        if (stop)
            return NULL;
        if (!s->blocked || now_ns >= s->next_try_ns)
            admit(s);
        if (s->sharing || (s->running && s->running->next))
            share_step(s);
        if (deq_runnable(s->engine)) {
            const uint64_t t = deq_now_ns(), rows = s->seen.rows;
            atomic_fetch_add_explicit(&s->metrics->outside_ns, deq_thread_cpu_ns() - s->outside_since_ns, memory_order_relaxed);
            deq_step(s->engine);
            s->outside_since_ns = deq_thread_cpu_ns();
            const double took = (double)(deq_now_ns() - t) * 1e-9;
            metrics_observe(&s->metrics->step_s, took);
            hand_over(s, false);
            const struct deq_engine_stats now = deq_engine_stats(s->engine);
            step_cost_add(&s->cost, (double)(now.rows - rows), took);
            metrics_observe(&s->metrics->rows, (double)(now.rows - rows));
            metrics_observe(&s->metrics->step_tokens, (double)(now.positions - s->seen.positions));
        } else if (deq_active(s->engine)) {
            /* all are paused and the one at the head does not fit: nothing to do until somebody reads */
            hand_over(s, true);
            pthread_mutex_lock(&s->lock);
            if (s->queue && !s->attention && !s->arrivals && !s->stop && !s->end_all)
                rest(s);
            pthread_mutex_unlock(&s->lock);
        }
        const struct deq_engine_stats now = deq_engine_stats(s->engine); /* also after cancellations without a step */
        metrics_engine(s->metrics, &s->seen, &now);
        s->seen = now;
        beat(s);
    }
}

/* --- From other threads --- */

struct deq_engine_opts sched_engine_opts(const struct conf *c)
{
    return (struct deq_engine_opts){.threads = c->threads ? c->threads : deq_cores(),
                                    .max_sequences = c->max_sequences + c->max_sequences / 8, /* fair.h */
                                    .max_rows = conf_max_rows(c) + conf_max_rows(c) / 8,
                                    .max_positions = c->max_positions,
                                    .cache_bytes = c->cache_bytes};
}

enum deq_rc sched_new(const struct conf *c, const struct deq_model *model, struct metrics *m, struct sched **ret, struct deq_err *err)
{
    struct sched *s = DEQ_NEW(struct sched);
    if (!s)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the scheduler");
    const struct deq_engine_opts o = sched_engine_opts(c);
    enum deq_rc rc = deq_engine_new(model, &o, &s->engine, err);
    if (rc) {
        deq_free(s);
        return rc;
    }
    const struct deq_engine_stats st = deq_engine_stats(s->engine);
    s->seats = DEQ_NEW_ARRAY(struct fair_seat, st.max_sequences);
    if (!s->seats) {
        deq_engine_free(s->engine);
        deq_free(s);
        return deq_fail(err, DEQ_ENOMEM, "no memory for the scheduler");
    }
    pthread_condattr_t attr;
    s->conf = c;
    s->metrics = m;
    s->max_positions = st.max_positions;
    s->max_sequences = c->max_sequences;
    s->queue_end = &s->queue;
    beat(s);
    metrics_engine(m, &s->seen, &st);
    s->seen = st;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&s->thread, NULL, engine_main, s)) {
        sched_free(s);
        return deq_fail(err, DEQ_EIO, "cannot start the engine's thread");
    }
    (void)pthread_setname_np(s->thread, "engine");
    s->started = true;
    *ret = s;
    return DEQ_OK;
}

/* with the lock. Whether n more of that caller may wait: in the queue's places, and those that the engine has free. */
static bool room(const struct sched *s, const struct account *a, size_t n)
{
    const size_t idle = s->running_sequences < s->max_sequences ? s->max_sequences - s->running_sequences : 0;
    return s->queued + s->reserved + n <= idle + fair_places(a, s->conf->queue_requests);
}

static enum submit refuse(struct sched *s, enum submit verdict)
{
    static const enum reject_reason reasons[] = {[SUBMIT_QUEUE_FULL] = REJECT_QUEUE_FULL,
                                                 [SUBMIT_TOKENS_FULL] = REJECT_TOKENS_FULL,
                                                 [SUBMIT_KEY_LIMIT] = REJECT_KEY_LIMIT,
                                                 [SUBMIT_DRAINING] = REJECT_DRAINING};
    if (verdict != SUBMIT_OK)
        atomic_fetch_add(&s->metrics->rejected[reasons[verdict]], 1);
    return verdict;
}

enum submit sched_reserve(struct sched *s, const struct caller *caller, uint64_t tokens, struct place *ret)
{
    enum submit verdict = SUBMIT_OK;
    pthread_mutex_lock(&s->lock);
    struct account *a = fair_account(&s->fair, caller->id);
    const size_t waiting = s->queued_tokens + s->reserved_tokens;
    if (s->draining || s->stop)
        verdict = SUBMIT_DRAINING;
    else if (!room(s, a, 1))
        verdict = SUBMIT_QUEUE_FULL;
    else if (waiting && waiting + tokens > s->conf->queue_tokens)
        verdict = SUBMIT_TOKENS_FULL;
    else if (caller->known && s->conf->max_requests_per_key && a->in_flight >= s->conf->max_requests_per_key)
        verdict = SUBMIT_KEY_LIMIT;
    if (verdict == SUBMIT_OK) {
        s->reserved++;
        s->reserved_tokens += tokens;
        a->in_flight++;
        a->waiting++;
        *ret = (struct place){s, tokens, a};
    }
    pthread_mutex_unlock(&s->lock);
    return refuse(s, verdict);
}

/* with the lock */
static void give_back(struct place *p)
{
    struct sched *s = p->sched;
    s->reserved--;
    s->reserved_tokens -= p->tokens;
    p->account->in_flight--;
    p->account->waiting--;
    p->sched = NULL;
}

void sched_release(struct place *p)
{
    struct sched *s = p->sched;
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    give_back(p);
    pthread_mutex_unlock(&s->lock);
}

enum submit sched_submit(struct sched *s, struct place *p, struct job *const *jobs, size_t n)
{
    enum submit verdict = SUBMIT_OK;
    size_t tokens = 0;
    for (size_t i = 0; i < n; i++)
        tokens += jobs[i]->prompt.n;
    pthread_mutex_lock(&s->lock);
    give_back(p);
    struct account *a = fair_account(&s->fair, jobs[0]->caller.id);
    const size_t waiting = s->queued_tokens + s->reserved_tokens;
    if (s->draining || s->stop)
        verdict = SUBMIT_DRAINING;
    else if (!room(s, a, n))
        verdict = SUBMIT_QUEUE_FULL;
    else if (waiting && waiting + tokens > s->conf->queue_tokens)
        verdict = SUBMIT_TOKENS_FULL;
    else if (jobs[0]->caller.known && s->conf->max_requests_per_key && a->in_flight + n > s->conf->max_requests_per_key)
        verdict = SUBMIT_KEY_LIMIT;
    for (size_t i = 0; i < n && verdict == SUBMIT_OK; i++) {
        struct job *j = jobs[i];
        j->sched = s;
        j->next = NULL;
        *s->queue_end = j;
        s->queue_end = &j->next;
        j->account = a;
        a->in_flight++;
        a->waiting++;
    }
    if (verdict == SUBMIT_OK) {
        s->queued += n;
        s->queued_tokens += tokens;
        s->arrivals = true;
        atomic_fetch_add(&s->metrics->waiting, (int64_t)n);
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    return refuse(s, verdict);
}

static void call_attention(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    s->attention = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void sched_cancel(struct job *j)
{
    atomic_store(&j->cancel, true);
    call_attention(j->sched);
}

void sched_pause(struct job *j, bool pause)
{
    if (atomic_exchange(&j->pause, pause) != pause && pause)
        atomic_fetch_add(&j->sched->metrics->paused, 1);
    call_attention(j->sched);
}

uint32_t sched_max_positions(const struct sched *s)
{
    return s->max_positions;
}

uint64_t sched_last_step_ns(const struct sched *s)
{
    return atomic_load(&s->beat_ns);
}

bool sched_alive(const struct sched *s, uint64_t stall_ms)
{
    /* a sum: the engine may beat between the two reads, and a difference would then lie below zero */
    return deq_now_ns() <= atomic_load(&s->beat_ns) + stall_ms * 1000000ull;
}

size_t sched_pending(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    const size_t n = s->queued + s->n_running;
    pthread_mutex_unlock(&s->lock);
    return n;
}

unsigned sched_retry_ms(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    /* the queue empties at max_sequences sequences per service time */
    const double ms = 1e3 * s->service_s * (double)(s->queued + 1) / s->max_sequences;
    pthread_mutex_unlock(&s->lock);
    return (unsigned)DEQ_MIN(DEQ_MAX(ms, 100.0), 60000.0);
}

void sched_drain(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    pthread_mutex_unlock(&s->lock);
}

void sched_end_all(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    s->draining = s->end_all = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void sched_free(struct sched *s)
{
    if (!s)
        return;
    if (s->started) {
        pthread_mutex_lock(&s->lock);
        s->stop = s->end_all = true;
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    const struct deq_engine_stats none = {.steps = s->seen.steps, .rows = s->seen.rows, .head_rows = s->seen.head_rows, .positions = s->seen.positions,
                                          .nonconverged = s->seen.nonconverged, .restarts = s->seen.restarts, .numeric_errors = s->seen.numeric_errors,
                                          .starts = {s->seen.starts[0], s->seen.starts[1], s->seen.starts[2]}, .starts_cached = s->seen.starts_cached,
                                          .prefix_queries_tok = s->seen.prefix_queries_tok, .prefix_hits_tok = s->seen.prefix_hits_tok,
                                          .prefix_approximate_tok = s->seen.prefix_approximate_tok, .prefix_evictions = s->seen.prefix_evictions};
    metrics_engine(s->metrics, &s->seen, &none); /* its gauges go with it */
    deq_engine_free(s->engine);
    deq_free(s->seats);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    deq_free(s);
}
