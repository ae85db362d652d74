/* What other threads call: the queue's door, signals to jobs, and the scheduler's beginning and end. */
#define _GNU_SOURCE
#include "core/base/clock.h"
#include "core/base/cores.h"
#include "core/base/fault.h"
#include "core/base/mem.h"
#include "server/work/sched_impl.h"

#include <stdio.h>

static _Atomic uint64_t last_number; /* of a job, in this process */

struct deq_engine_opts sched_engine_opts(const struct conf *c)
{
    const uint32_t max_rows = c->max_rows ? c->max_rows : DEQ_MAX(8 * c->max_sequences, 64u);
    return (struct deq_engine_opts){.threads = c->threads ? c->threads : deq_cores(),
                                    .pin = (enum deq_pin)c->pin,
                                    .max_sequences = fair_with_eighth(c->max_sequences),
                                    .max_rows = fair_with_eighth(max_rows),
                                    .max_positions = c->max_positions,
                                    .cache_bytes = c->cache_bytes};
}

static void begin_locks(struct sched *s)
{
    pthread_condattr_t attr;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
}

enum deq_rc sched_new(const struct conf *c, const struct deq_model *model, struct metrics *m, struct sched **ret,
                      struct deq_err *err)
{
    struct sched *s = DEQ_NEW(struct sched);
    if (!s)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the scheduler");
    const struct deq_engine_opts o = sched_engine_opts(c);
    s->conf = c;
    s->metrics = m;
    s->elastic.objective_ns = c->depth_objective_ms * 1000000ull;
    s->queue_end = &s->queue;
    s->listed_end = &s->listed;
    begin_locks(s);
    enum deq_rc rc = deq_engine_new(model, &o, &s->engine, err);
    if (rc)
        goto fail;
    cache_begin(&s->cache, c, m, model, s->engine);
    const struct deq_engine_stats st = deq_engine_stats(s->engine);
    s->room = (struct fair_room){st.max_sequences, st.max_rows, st.pages};
    s->configured = fair_configured(&s->room);
    s->max_positions = deq_engine_max_positions(s->engine);
    metrics_engine(m, &s->seen, &st);
    s->seen = st;
    s->seats = DEQ_NEW_ARRAY(struct fair_seat *, st.max_sequences);
    if (!s->seats) {
        rc = deq_fail(err, DEQ_ENOMEM, "no memory for the scheduler");
        goto fail;
    }
    atomic_store(&s->heartbeat_ns, deq_now_ns());
    if (DEQ_THREAD(pthread_create(&s->thread, NULL, engine_thread, s))) {
        rc = deq_fail(err, DEQ_EIO, "cannot start the engine's thread");
        goto fail;
    }
    s->started = true;
    *ret = s;
    return DEQ_OK;
fail:
    sched_free(s);
    return rc;
}

void sched_stop(struct sched *s)
{
    if (!s->started)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = s->end_all = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    cache_end(&s->cache);
    s->started = false;
}

void sched_save_cache(struct sched *s)
{
    cache_save(&s->cache, s->engine);
}

void sched_retire(struct sched *s)
{
    cache_retire(&s->cache);
}

void sched_free(struct sched *s)
{
    if (!s)
        return;
    sched_stop(s);
    metrics_engine_gone(s->metrics, &s->seen);
    deq_engine_free(s->engine);
    deq_free(s->seats);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    deq_free(s);
}

/* --- The queue's door --- */

/* Caller holds s->lock. Whether n more requests with so many prompt tokens may wait, of that caller. */
static enum submit may_wait(const struct sched *s, const struct caller *caller, const struct account *a, size_t n,
                            uint64_t tokens)
{
    const size_t waiting = s->queued + s->reserved, waiting_tokens = s->queued_tokens + s->reserved_tokens;
    /* the queue's places, and those that the engine has free */
    const uint64_t idle = s->configured.sequences - DEQ_MIN(s->held.sequences, s->configured.sequences);
    if (s->draining || s->stop)
        return SUBMIT_DRAINING;
    if (waiting + n > idle + fair_places(a, s->conf->queue_requests))
        return SUBMIT_QUEUE_FULL;
    if (waiting_tokens && waiting_tokens + tokens > s->conf->queue_tokens)
        return SUBMIT_TOKENS_FULL;
    if (caller->known && s->conf->max_requests_per_key && a->in_flight + n > s->conf->max_requests_per_key)
        return SUBMIT_KEY_LIMIT;
    return SUBMIT_OK;
}

static enum submit count_refusal(struct sched *s, enum submit verdict)
{
    static const enum reject_reason reasons[] = {[SUBMIT_QUEUE_FULL] = REJECT_QUEUE_FULL,
                                                 [SUBMIT_TOKENS_FULL] = REJECT_TOKENS_FULL,
                                                 [SUBMIT_KEY_LIMIT] = REJECT_KEY_LIMIT,
                                                 [SUBMIT_DRAINING] = REJECT_DRAINING};
    _Static_assert(DEQ_COUNT(reasons) == SUBMIT_COUNT, "a reason for each refusal");
    if (verdict != SUBMIT_OK)
        atomic_fetch_add(&s->metrics->rejected[reasons[verdict]], 1);
    return verdict;
}

enum submit sched_reserve(struct sched *s, const struct caller *caller, uint64_t tokens, struct reservation *ret)
{
    pthread_mutex_lock(&s->lock);
    struct account *a = fair_account(&s->fair, caller->id);
    const enum submit verdict = may_wait(s, caller, a, 1, tokens);
    if (verdict == SUBMIT_OK) {
        s->reserved++;
        s->reserved_tokens += tokens;
        a->in_flight++;
        a->waiting++;
        *ret = (struct reservation){s, tokens, a};
    }
    pthread_mutex_unlock(&s->lock);
    return count_refusal(s, verdict);
}

/* Caller holds s->lock. */
static void give_back(struct reservation *r)
{
    struct sched *s = r->sched;
    s->reserved--;
    s->reserved_tokens -= r->tokens;
    r->account->in_flight--;
    r->account->waiting--;
    r->sched = NULL;
}

void sched_release(struct reservation *r)
{
    struct sched *s = r->sched;
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    give_back(r);
    pthread_mutex_unlock(&s->lock);
}

/* Caller holds s->lock. */
static void enqueue(struct sched *s, struct job *j, struct account *a)
{
    const uint32_t n = DEQ_MAX(j->request.n, 1u);
    const struct deq_solve_params *p = &j->request.solve;
    j->sched = s;
    j->account = a;
    j->room = (struct fair_room){.sequences = n, .rows = deq_window_rows(n, p->window, p->prefill_window)};
    j->seat = (struct fair_seat){.caller = j->caller.id, .weight = DEQ_MAX(j->caller.weight, 1u)};
    j->next = NULL;
    *s->queue_end = j;
    s->queue_end = &j->next;
    j->number = ++last_number;
    j->next_listed = NULL;
    j->listed = s->listed_end;
    *s->listed_end = j;
    s->listed_end = &j->next_listed;
    s->queued++;
    s->queued_tokens += j->prompt.n;
    a->in_flight++;
    a->waiting++;
}

enum submit sched_submit(struct sched *s, struct reservation *r, struct job *jobs)
{
    uint64_t tokens = 0;
    size_t n = 0;
    for (const struct job *j = jobs; j; j = j->next, n++)
        tokens += j->prompt.n;
    pthread_mutex_lock(&s->lock);
    give_back(r);
    struct account *a = fair_account(&s->fair, jobs->caller.id);
    const enum submit verdict = may_wait(s, &jobs->caller, a, n, tokens);
    if (verdict == SUBMIT_OK) {
        for (struct job *j = jobs, *next; j; j = next) {
            next = j->next;
            enqueue(s, j, a);
        }
        s->arrivals = true;
        atomic_fetch_add(&s->metrics->waiting, (int64_t)n);
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    return count_refusal(s, verdict);
}

/* --- Signals to running and waiting jobs --- */

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

/* --- What others ask --- */

size_t job_prompt_tokens(const struct job *j)
{
    return (j->request.state ? deq_state_info(j->request.state).n_tokens : 0) + j->prompt.n;
}

static struct sched_job look_at(struct job *j, uint64_t now)
{
    const uint64_t admitted = atomic_load(&j->shown.admitted_ns);
    struct sched_job ret = {.number = j->number,
                            .caller = j->caller.id,
                            .state = !admitted                       ? SCHED_WAITING
                                     : atomic_load(&j->shown.paused) ? SCHED_PAUSED
                                                                     : SCHED_RUNNING,
                            .age_ns = now - DEQ_MIN(j->arrived_ns, now),
                            .choices = (uint32_t)j->room.sequences,
                            .max_tokens = j->request.max_tokens,
                            .tokens = atomic_load(&j->shown.tokens),
                            .prompt_tokens = job_prompt_tokens(j),
                            .evaluations = atomic_load(&j->shown.evaluations),
                            .tol = j->request.solve.tol};
    ret.queue_ns = admitted ? admitted - DEQ_MIN(j->arrived_ns, admitted) : ret.age_ns;
    snprintf(ret.request_id, sizeof ret.request_id, "%s", j->request_id ? j->request_id : "");
    return ret;
}

size_t sched_list(struct sched *s, struct sched_job *out, size_t max)
{
    const uint64_t now = deq_now_ns();
    size_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (struct job *j = s->listed; j; j = j->next_listed, n++)
        if (n < max)
            out[n] = look_at(j, now);
    pthread_mutex_unlock(&s->lock);
    return n;
}

bool sched_end(struct sched *s, uint64_t number)
{
    pthread_mutex_lock(&s->lock);
    struct job *j = s->listed;
    while (j && j->number != number)
        j = j->next_listed;
    if (j) {
        atomic_store(&j->ended, true);
        atomic_store(&j->cancel, true);
        s->attention = true;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    return j != NULL;
}

uint32_t sched_max_positions(const struct sched *s)
{
    return s->max_positions;
}

uint32_t sched_max_rows(const struct sched *s)
{
    return (uint32_t)s->configured.rows;
}

uint64_t sched_last_step_ns(const struct sched *s)
{
    return atomic_load(&s->heartbeat_ns);
}

bool sched_alive(const struct sched *s, uint64_t stall_ms)
{
    /* a sum: the engine may show life between the two reads, and a difference would then lie below zero */
    return deq_now_ns() <= atomic_load(&s->heartbeat_ns) + stall_ms * 1000000ull;
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
    /* the queue empties at so many sequences per service time */
    const double ms = 1e3 * s->service_s * (double)(s->queued + 1) / (double)s->configured.sequences;
    pthread_mutex_unlock(&s->lock);
    return (unsigned)DEQ_MIN(DEQ_MAX(ms, 100.0), 60000.0);
}
