/* The queue as the engine's thread sees it: who leaves it without having run, who comes next, and who finds room in the
 * engine. The rules are fair.h's. */
#include "core/base/bug.h"
#include "core/base/clock.h"
#include "server/work/sched_impl.h"

static struct fair_job in_line(const struct job *j)
{
    return (struct fair_job){j->account, j->priority, j->caller.priority, j->arrived_ns};
}

/* Caller holds s->lock. The link that points to the job that comes next, of callers that are not barred. */
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

/* Caller holds s->lock. j, which *link points to, waits no more. */
static void unlink_waiting(struct sched *s, struct job **link)
{
    struct job *j = *link;
    *link = j->next;
    if (!*link)
        s->queue_end = link;
    DEQ_BUG_ON(!s->queued || s->queued_tokens < j->prompt.n || !j->account->waiting);
    s->queued--;
    s->queued_tokens -= j->prompt.n;
    j->account->waiting--;
}

struct job *queue_expired(struct sched *s, uint64_t now)
{
    struct job *expired = NULL, **p = &s->queue;
    while (*p) {
        struct job *j = *p;
        if (atomic_load(&j->cancel) || s->end_all || (j->deadline_ns && now > j->deadline_ns) ||
            (now > j->arrived_ns && now - j->arrived_ns > s->conf->queue_timeout_ms * 1000000ull)) {
            unlink_waiting(s, p);
            sched_unlist(s, j);
            j->account->in_flight--;
            j->next = expired;
            expired = j;
        } else {
            p = &j->next;
        }
    }
    return expired;
}

void queue_finish(struct sched *s, struct job *expired, bool end_all)
{
    while (expired) {
        struct job *j = expired;
        expired = j->next;
        enum job_end end = JOB_DRAINED;
        if (atomic_load(&j->cancel)) {
            end = engine_count_cancel(s, j, CANCEL_QUEUED);
        } else if (!end_all) {
            end = j->deadline_ns && deq_now_ns() > j->deadline_ns ? JOB_DEADLINE : JOB_QUEUE_TIMEOUT;
            atomic_fetch_add(&s->metrics->rejected[end == JOB_DEADLINE ? REJECT_DEADLINE : REJECT_QUEUE_TIMEOUT], 1);
        }
        atomic_fetch_sub(&s->metrics->waiting, 1); /* last: a scrape that finds it gone finds it counted */
        j->on_end(j, end, NULL);
    }
}

/* --- Into the engine --- */

/* Caller holds s->lock. Whether the callers' shares of the engine, and the memory for answers, let j begin. */
static bool finds_room(struct sched *s, const struct job *j)
{
    const struct deq_engine_stats now = deq_engine_stats(s->engine);
    struct fair_room held = fair_plus(&s->held, &j->room);
    /* choices that ended have given theirs back, prompts that were read what they took beyond a choice's window */
    held.rows = now.rows_reserved + j->room.rows;
    held.pages = now.pages_reserved;
    bool may = fair_may_begin(j->account, &held, &s->room);
    if (s->first) { /* pages are known once they are reserved: one job may pass their eighth */
        const struct fair_room over = fair_plus(&s->overtakers, &j->room);
        may = may && fair_may_overtake(j->account, &over, &s->first->room, &s->room);
    }
    return may && deq_allowance_reserve(j->answer, j->answer_bytes);
}

/* Caller holds s->lock. The next job that finds room. A caller whose next job does not is passed by: nobody else waits
 * for what it holds, or for memory that others hold. */
static struct job *next_with_room(struct sched *s, uint64_t now)
{
    struct job **link;
    while ((link = next_in_line(s, now)) && !finds_room(s, *link))
        s->blocked = (*link)->account->barred = true;
    return link ? *link : NULL;
}

/* A job waits for a place: the one whose slow reader kept it from steps for longest ends, if any did for too long. */
static bool end_slowest_reader(struct sched *s, uint64_t now)
{
    struct job *slowest = NULL;
    for (struct job *j = s->running; j; j = j->next)
        if (fair_gives_way(&j->reader, j->admitted_ns, now) &&
            (!slowest || fair_slow_ns(&j->reader, now) > fair_slow_ns(&slowest->reader, now)))
            slowest = j;
    if (!slowest)
        return false;
    slowest->gave_way = true;
    atomic_fetch_add(&s->metrics->gave_way, 1);
    (void)deq_cancel(s->engine, slowest->admission.id);
    return true;
}

static enum deq_rc submit(struct sched *s, struct job *j, struct deq_err *err)
{
    const uint64_t before = deq_engine_stats(s->engine).pages_reserved;
    j->request.event = engine_on_event;
    j->request.ctx = j;
    j->request.prompt = j->prompt.ids;
    j->request.n_prompt = j->prompt.n;
    j->open_choices = (uint32_t)j->room.sequences;
    const enum deq_rc rc = deq_submit(s->engine, &j->request, &j->admission, err);
    if (!rc)
        j->room.pages = deq_engine_stats(s->engine).pages_reserved - before;
    return rc;
}

/* Takes j, which the engine took (or refused for good), off the queue. */
static void leave_queue(struct sched *s, struct job *j, bool admitted)
{
    pthread_mutex_lock(&s->lock);
    struct job **link = &s->queue;
    while (*link != j) /* others may have come meanwhile */
        link = &(*link)->next;
    unlink_waiting(s, link);
    if (admitted) {
        const double tokens = (double)j->prompt.n + (double)j->room.sequences * j->request.max_tokens;
        fair_charge(&s->fair, j->account, tokens / j->seat.weight);
        s->n_running++;
        s->held = fair_plus(&s->held, &j->room);
        j->account->running++;
    } else {
        j->account->in_flight--;
        sched_unlist(s, j);
    }
    pthread_mutex_unlock(&s->lock);
    atomic_fetch_sub(&s->metrics->waiting, 1);
}

static void enter_engine(struct sched *s, struct job *j, uint64_t now)
{
    j->admitted_ns = now;
    atomic_store_explicit(&j->shown.admitted_ns, now, memory_order_relaxed);
    j->seat.last_turn = s->turn; /* behind those of its caller that wait already */
    j->overtook = s->first != NULL;
    if (j->overtook)
        s->overtakers = fair_plus(&s->overtakers, &j->room);
    j->next = s->running;
    s->running = j;
    if (j->deadline_ns && (!s->next_deadline_ns || j->deadline_ns < s->next_deadline_ns))
        s->next_deadline_ns = j->deadline_ns;
    atomic_fetch_add(&s->metrics->running, 1);
    atomic_fetch_add(&s->metrics->prompt_tokens, j->prompt.n);
    depth_enter(s, j);
    metrics_observe(&s->metrics->prompt_length, (double)j->prompt.n);
    metrics_observe(&s->metrics->max_tokens, j->request.max_tokens);
    metrics_observe(&s->metrics->choices, (double)j->room.sequences);
    metrics_observe(&s->metrics->queue_s, (double)(now - DEQ_MIN(j->arrived_ns, now)) * 1e-9);
    if (j->on_admit)
        j->on_admit(j);
}

void queue_admit(struct sched *s)
{
    s->blocked = false;
    s->first = NULL;
    pthread_mutex_lock(&s->lock);
    for (struct job *j = s->queue; j; j = j->next)
        j->account->barred = false;
    pthread_mutex_unlock(&s->lock);
    for (;;) {
        const uint64_t now = deq_now_ns();
        struct deq_err err;
        pthread_mutex_lock(&s->lock);
        struct job *j = next_with_room(s, now);
        pthread_mutex_unlock(&s->lock);
        s->next_try_ns = now + QUEUE_SCAN_MS * 1000000ull;
        if (!j) {
            if (s->blocked && end_slowest_reader(s, now))
                s->next_try_ns = now;
            return;
        }
        if (atomic_load(&j->cancel)) { /* the next round takes a cancelled one off the queue */
            deq_allowance_unreserve(j->answer, j->answer_bytes);
            return;
        }
        const enum deq_rc rc = submit(s, j, &err);
        if (rc == DEQ_EFULL) {
            deq_allowance_unreserve(j->answer, j->answer_bytes);
            if (end_slowest_reader(s, now))
                continue;
            s->blocked = j->account->barred = true;
            s->first = s->first ? s->first : j;
            continue;
        }
        leave_queue(s, j, rc == DEQ_OK);
        if (rc) /* the parser lets nothing through that the engine refuses, but memory may be short */
            j->on_end(j, rc == DEQ_ENOMEM ? JOB_NO_MEMORY : JOB_REFUSED, err.text);
        else
            enter_engine(s, j, now);
    }
}
