#include "server/sched.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "server/log.h"

enum { IDLE_BEAT_MS = 200 }; /* an idle engine shows that it lives so often */

struct sched {
    const struct conf *conf;
    struct metrics *metrics;
    struct deq_engine *engine; /* the thread's alone */
    uint32_t max_positions;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;      /* guards what follows */
    pthread_cond_t wake;
    struct job *queue, **queue_end;
    size_t queued, queued_tokens;
    bool stop, draining, end_all;
    struct job *running;       /* engine thread writes under the lock */
    size_t n_running;
    _Atomic bool cancels;      /* some job's cancel flag was set */
    _Atomic uint64_t beat_ns;  /* last sign of life */
    double service_s;          /* moving average of a job's time in the engine; engine thread writes under the lock */
};

static void unlink_running(struct sched *s, struct job *j)
{
    struct job **p = &s->running;
    while (*p != j)
        p = &(*p)->next;
    *p = j->next;
    s->n_running--;
    atomic_fetch_sub(&s->metrics->running, 1);
}

static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    struct job *j = ctx;
    struct sched *s = j->sched;
    const uint64_t now = deq_now_ns();
    if (e->kind != DEQ_EVENT_END) {
        if (e->kind == DEQ_EVENT_TOKEN) {
            if (j->tokens++)
                metrics_observe(&s->metrics->itl_s, (double)(now - j->last_token_ns) * 1e-9);
            else
                metrics_observe(&s->metrics->ttft_s, (double)(now - j->arrived_ns) * 1e-9);
            j->last_token_ns = now;
            atomic_fetch_add(&s->metrics->generation_tokens, 1);
            metrics_observe(&s->metrics->iterations, e->evaluations);
            metrics_observe(&s->metrics->residual, (double)e->residual);
        }
        return j->on_event(j, e);
    }
    metrics_observe(&s->metrics->e2e_s, (double)(now - j->arrived_ns) * 1e-9);
    atomic_fetch_add(&s->metrics->finished[e->finish], 1);
    pthread_mutex_lock(&s->lock);
    unlink_running(s, j);
    s->service_s = s->service_s > 0 ? 0.9 * s->service_s + 0.1e-9 * (double)(now - j->admitted_ns) : 1e-9 * (double)(now - j->admitted_ns);
    const bool drained = s->end_all;
    pthread_mutex_unlock(&s->lock);
    if (e->finish == DEQ_FINISH_CANCELED) {
        if (!drained)
            atomic_fetch_add(&s->metrics->cancelled[CANCEL_RUNNING], 1);
        j->on_end(j, drained ? JOB_DRAINED : JOB_CANCELED, e->finish, NULL);
    } else {
        j->on_end(j, JOB_FINISHED, e->finish, e->message);
    }
    return DEQ_CONTINUE;
}

/* Takes jobs off the queue that will not run: cancelled, waited too long, or everything ends. They are returned as a list; with the lock. */
static struct job *take_dead(struct sched *s, uint64_t now)
{
    struct job *dead = NULL, **p = &s->queue;
    while (*p) {
        struct job *j = *p;
        if (atomic_load(&j->cancel) || s->end_all || now - j->arrived_ns > s->conf->queue_timeout_ms * 1000000ull) {
            *p = j->next;
            s->queued--;
            s->queued_tokens -= j->prompt.n;
            atomic_fetch_sub(&s->metrics->waiting, 1);
            j->next = dead;
            dead = j;
        } else {
            p = &j->next;
        }
    }
    s->queue_end = p;
    return dead;
}

static void bury(struct sched *s, struct job *dead, bool end_all)
{
    while (dead) {
        struct job *j = dead;
        dead = j->next;
        if (atomic_load(&j->cancel)) {
            atomic_fetch_add(&s->metrics->cancelled[CANCEL_QUEUED], 1);
            j->on_end(j, JOB_CANCELED, DEQ_FINISH_CANCELED, NULL);
        } else if (end_all) {
            j->on_end(j, JOB_DRAINED, DEQ_FINISH_CANCELED, NULL);
        } else {
            atomic_fetch_add(&s->metrics->rejected[REJECT_QUEUE_TIMEOUT], 1);
            j->on_end(j, JOB_QUEUE_TIMEOUT, DEQ_FINISH_CANCELED, NULL);
        }
    }
}

/* Moves jobs from the queue into the engine, in order, while there is room. */
static void admit(struct sched *s)
{
    for (;;) {
        pthread_mutex_lock(&s->lock);
        struct job *j = s->queue;
        pthread_mutex_unlock(&s->lock);
        if (!j || atomic_load(&j->cancel)) /* the next round takes a cancelled one off the queue */
            return;
        struct deq_err err;
        j->request.event = on_event;
        j->request.ctx = j;
        j->request.prompt = j->prompt.ids;
        j->request.n_prompt = j->prompt.n;
        const enum deq_rc rc = deq_submit(s->engine, &j->request, &j->id, &err);
        if (rc == DEQ_EFULL)
            return;
        const uint64_t now = deq_now_ns();
        pthread_mutex_lock(&s->lock);
        s->queue = j->next;
        if (!s->queue)
            s->queue_end = &s->queue;
        s->queued--;
        s->queued_tokens -= j->prompt.n;
        if (!rc) {
            j->admitted_ns = now;
            j->next = s->running;
            s->running = j;
            s->n_running++;
        }
        pthread_mutex_unlock(&s->lock);
        atomic_fetch_sub(&s->metrics->waiting, 1);
        if (rc) { /* the parser lets nothing through that the engine refuses, but memory may be short */
            j->on_end(j, JOB_REFUSED, DEQ_FINISH_CANCELED, err.text);
            continue;
        }
        atomic_fetch_add(&s->metrics->running, 1);
        atomic_fetch_add(&s->metrics->prompt_tokens, j->prompt.n);
        metrics_observe(&s->metrics->queue_s, (double)(now - j->arrived_ns) * 1e-9);
        if (j->on_admit)
            j->on_admit(j);
    }
}

static void cancel_running(struct sched *s, bool all)
{
    for (;;) { /* a job leaves the list when it ends, so start over after each */
        uint64_t id = 0;
        pthread_mutex_lock(&s->lock);
        for (struct job *j = s->running; j && !id; j = j->next)
            if (all || atomic_load(&j->cancel))
                id = j->id;
        pthread_mutex_unlock(&s->lock);
        if (!id || deq_cancel(s->engine, id))
            return;
    }
}

static void *engine_main(void *arg)
{
    struct sched *s = arg;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        while (!s->stop && !s->queue && !s->n_running && !s->end_all) {
            struct timespec until;
            atomic_store(&s->beat_ns, deq_now_ns());
            atomic_store(&s->metrics->last_step_ns, deq_now_ns());
            clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_nsec += IDLE_BEAT_MS * 1000000;
            if (until.tv_nsec >= 1000000000) {
                until.tv_nsec -= 1000000000;
                until.tv_sec++;
            }
            pthread_cond_timedwait(&s->wake, &s->lock, &until);
        }
        const bool stop = s->stop, end_all = s->end_all;
        struct job *dead = take_dead(s, deq_now_ns());
        pthread_mutex_unlock(&s->lock);
        bury(s, dead, end_all);
        if (end_all || atomic_exchange(&s->cancels, false))
            cancel_running(s, end_all);
        if (end_all) {
            pthread_mutex_lock(&s->lock);
            s->end_all = false;
            pthread_mutex_unlock(&s->lock);
        }
        if (stop)
            return NULL;
        admit(s);
        if (deq_active(s->engine)) {
            const struct deq_engine_stats before = deq_engine_stats(s->engine);
            const uint64_t t = deq_now_ns();
            deq_step(s->engine);
            const struct deq_engine_stats after = deq_engine_stats(s->engine);
            metrics_observe(&s->metrics->step_s, (double)(deq_now_ns() - t) * 1e-9);
            metrics_observe(&s->metrics->rows, (double)(after.rows - before.rows));
        }
        const struct deq_engine_stats now = deq_engine_stats(s->engine); /* also after cancellations without a step */
        metrics_engine(s->metrics, &now);
        atomic_store(&s->beat_ns, deq_now_ns());
        atomic_store(&s->metrics->last_step_ns, deq_now_ns());
    }
}

enum deq_rc sched_new(const struct conf *c, const struct deq_model *model, struct metrics *m, struct sched **ret, struct deq_err *err)
{
    struct sched *s = DEQ_NEW(struct sched);
    if (!s)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the scheduler");
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const struct deq_engine_opts o = {.threads = c->threads ? c->threads : (uint32_t)DEQ_MAX(cores, 1l),
                                      .max_sequences = c->max_sequences,
                                      .max_rows = c->max_rows,
                                      .max_positions = c->max_positions,
                                      .cache_bytes = c->cache_bytes};
    enum deq_rc rc = deq_engine_new(model, &o, &s->engine, err);
    if (rc) {
        deq_free(s);
        return rc;
    }
    const struct deq_engine_stats st = deq_engine_stats(s->engine);
    pthread_condattr_t attr;
    s->conf = c;
    s->metrics = m;
    s->max_positions = st.max_positions;
    s->queue_end = &s->queue;
    atomic_store(&s->beat_ns, deq_now_ns());
    atomic_store(&m->last_step_ns, deq_now_ns());
    metrics_engine(m, &st);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&s->thread, NULL, engine_main, s)) {
        sched_free(s);
        return deq_fail(err, DEQ_EIO, "cannot start the engine's thread");
    }
    s->started = true;
    *ret = s;
    return DEQ_OK;
}

enum submit sched_submit(struct sched *s, struct job *j)
{
    enum submit verdict = SUBMIT_OK;
    pthread_mutex_lock(&s->lock);
    if (s->draining || s->stop)
        verdict = SUBMIT_DRAINING;
    else if (s->queued >= s->conf->queue_requests && (s->queued || s->n_running >= s->conf->max_sequences))
        verdict = SUBMIT_QUEUE_FULL;
    else if (s->queued && s->queued_tokens + j->prompt.n > s->conf->queue_tokens)
        verdict = SUBMIT_TOKENS_FULL;
    if (verdict == SUBMIT_OK) {
        j->sched = s;
        j->next = NULL;
        *s->queue_end = j;
        s->queue_end = &j->next;
        s->queued++;
        s->queued_tokens += j->prompt.n;
        atomic_fetch_add(&s->metrics->waiting, 1);
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    static const enum reject_reason reasons[] = {[SUBMIT_QUEUE_FULL] = REJECT_QUEUE_FULL,
                                                 [SUBMIT_TOKENS_FULL] = REJECT_TOKENS_FULL,
                                                 [SUBMIT_DRAINING] = REJECT_DRAINING};
    if (verdict != SUBMIT_OK)
        atomic_fetch_add(&s->metrics->rejected[reasons[verdict]], 1);
    return verdict;
}

void sched_cancel(struct job *j)
{
    struct sched *s = j->sched;
    atomic_store(&j->cancel, true);
    atomic_store(&s->cancels, true);
    /* a busy engine looks before its next step; an idle one has no job that could be cancelled */
}

uint32_t sched_max_positions(const struct sched *s)
{
    return s->max_positions;
}

bool sched_alive(const struct sched *s, uint64_t stall_ms)
{
    return deq_now_ns() - atomic_load(&s->beat_ns) <= stall_ms * 1000000ull;
}

size_t sched_pending(const struct sched *cs)
{
    struct sched *s = (struct sched *)cs;
    pthread_mutex_lock(&s->lock);
    const size_t n = s->queued + s->n_running;
    pthread_mutex_unlock(&s->lock);
    return n;
}

unsigned sched_retry_ms(const struct sched *cs)
{
    struct sched *s = (struct sched *)cs;
    pthread_mutex_lock(&s->lock);
    /* the queue empties at max_sequences jobs per service time */
    const double ms = 1e3 * s->service_s * (double)(s->queued + 1) / s->conf->max_sequences;
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
    deq_engine_free(s->engine);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    deq_free(s);
}
