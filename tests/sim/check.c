/* What must hold after every event, seen from inside: the scheduler's lists, counts and rooms agree, pages that
 * sequences hold are those that jobs reserved, every job ends exactly once, the next one admitted is the one whose turn
 * it is, nobody is passed over for ever, limits of time and memory are kept, and a thread that sleeps has nothing to
 * do. The order of admission is worked out here anew from fair.h's words, with an account of service of its own. */
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "server/net/channel.h"
#include "server/work/sched_impl.h"
#include "tests/sim/sim.h"

enum {
    JOBS = 512,
    CHOICES = 32,
    SCHEDS = 8,
    CALLERS = 32,
    SLACK_MS = 300,
    PATIENCE_S = 120,
    STEPS = 3,           /* behind so many a cancelled job is gone, and one that came is looked at */
    GIVES_WAY_MS = 2200, /* a reader that kept its job from steps for so long gives way; fair.h's, and some */
    FLUSH_MS = 1500,     /* what a stream has to say is said within that */
    THREADS = 80,
    REQUESTS = 4096, /* of late, whose keys are known */
    TOLD = 256       /* of late, to be ended */
};
static const uint64_t PER_CONNECTION = 192 << 10, PROCESS = 8 << 20;

static struct {
    struct job *job;
    enum deq_verdict (*on_event)(struct job *j, const struct deq_event *e);
    void (*on_end)(struct job *j, enum job_end end, const char *message);
    bool single;                   /* of its exchange */
    unsigned choices, passed_over; /* passed_over: steps in a row */
    uint64_t submitted_ns, cancelled_ns, cancelled_step; /* cancelled: since when it is known to be */
    uint64_t news_ns;                                    /* since then its stream has something to say */
    uint64_t round, step;                                /* when it came: of admission, of the engine */
    bool ended[CHOICES];
} jobs[JOBS];

static struct {
    struct sched *sched;
    const struct job *chosen;
    struct {
        uint64_t id;
        double time;
    } service[CALLERS]; /* virtual time, as fair.h says */
    size_t n_service;
    double now;
    uint64_t steps, rounds; /* rounds: of admission */
} scheds[SCHEDS];

static struct deq_budget *budget;
static const struct metrics *metrics;
static uint64_t recent, live_before, model_bytes;
static int64_t places[THREADS]; /* how many more might wait, as a thread was told last; -1 is none too many */
static bool places_asked[THREADS];
static uint64_t told[TOLD], n_told; /* numbers of jobs */
static unsigned key_of[REQUESTS];
static uint64_t caller_of[KEYS]; /* 0: not seen yet */

/* SCHEDS: it has just begun. */
static size_t number_of(const struct sched *s)
{
    size_t i = 0;
    while (i < SCHEDS && scheds[i].sched != s)
        i++;
    return i;
}

/* --- Jobs: each ends once, each of its choices once --- */

static size_t find(const struct job *j)
{
    size_t i = 0;
    while (i < JOBS && jobs[i].job != j)
        i++;
    return i;
}

size_t check_jobs(void)
{
    size_t n = 0;
    for (size_t i = 0; i < JOBS; i++)
        n += jobs[i].job != NULL;
    return n;
}

uint64_t check_recent_number(void)
{
    return recent - DEQ_MIN(recent, sim_below(12));
}

void check_told_to_end(uint64_t number)
{
    told[n_told++ % TOLD] = number;
}

static bool was_told_to_end(uint64_t number)
{
    for (size_t i = 0; i < TOLD; i++)
        if (told[i] == number)
            return true;
    return false;
}

void check_asked(uint64_t request, unsigned key)
{
    key_of[request % REQUESTS] = key;
}

/* A job is its key's, with what the key's line says. */
static void check_caller(const struct job *j)
{
    const unsigned key = key_of[strtoull(j->request_id + 1, NULL, 10) % REQUESTS];
    if (!caller_of[key])
        caller_of[key] = j->caller.id;
    for (unsigned k = 0; k < KEYS; k++)
        if ((caller_of[k] == j->caller.id) != (k == key))
            sim_fail("the request %s of key %u is taken for another's", j->request_id, key);
    if (!j->caller.known || j->caller.weight != (key == 1 ? 3 : 1) || j->caller.priority != (key == 0))
        sim_fail("the request %s of key %u has another's rights", j->request_id, key);
}

static enum deq_verdict on_event(struct job *j, const struct deq_event *e)
{
    const size_t i = find(j);
    if (i == JOBS)
        sim_fail("an event of a job that has ended");
    if (e->choice >= jobs[i].choices || jobs[i].ended[e->choice])
        sim_fail("an event of a choice that has ended");
    if (e->kind == DEQ_EVENT_TOKEN && j->paused && !j->seat.must)
        sim_fail("job %llu is paused, and has a token", (unsigned long long)j->number);
    jobs[i].ended[e->choice] = e->kind == DEQ_EVENT_END;
    if (e->kind == DEQ_EVENT_END && e->finish == DEQ_FINISH_DEADLINE && sim.now_ns < j->deadline_ns)
        sim_fail("a deadline passed %llu ns early", (unsigned long long)(j->deadline_ns - sim.now_ns));
    return jobs[i].on_event(j, e);
}

static void on_end(struct job *j, enum job_end end, const char *message)
{
    const size_t i = find(j);
    if (i == JOBS)
        sim_fail("a job ends twice");
    for (unsigned k = 0; end == JOB_FINISHED && k < jobs[i].choices; k++)
        if (!jobs[i].ended[k])
            sim_fail("a job has finished, and one of its choices has not");
    if ((end == JOB_DEADLINE && sim.now_ns < j->deadline_ns) ||
        (end == JOB_QUEUE_TIMEOUT && sim.now_ns - j->arrived_ns < j->sched->conf->queue_timeout_ms * 1000000ull))
        sim_fail("a limit of time ended a job before it had passed");
    if (end == JOB_ENDED && !was_told_to_end(j->number))
        sim_fail("an operator ended job %llu, and meant another", (unsigned long long)j->number);
    sim_note("job %llu ends: %d", (unsigned long long)j->number, end);
    jobs[i].job = NULL;
    jobs[i].on_end(j, end, message);
}

void check_submitted(struct job *submitted)
{
    for (struct job *j = submitted; j; j = j->next) {
        const size_t i = find(NULL);
        if (i == JOBS || j->request.n > CHOICES)
            sim_fail("more than %d jobs", JOBS);
        check_caller(j);
        jobs[i].job = j;
        jobs[i].on_event = j->on_event;
        jobs[i].on_end = j->on_end;
        jobs[i].choices = DEQ_MAX(j->request.n, 1u);
        jobs[i].passed_over = 0;
        jobs[i].single = !submitted->next;
        jobs[i].submitted_ns = sim.now_ns;
        jobs[i].cancelled_ns = jobs[i].news_ns = 0;
        jobs[i].round = scheds[number_of(j->sched)].rounds;
        jobs[i].step = scheds[number_of(j->sched)].steps;
        memset(jobs[i].ended, 0, sizeof jobs[i].ended);
        j->on_event = on_event;
        j->on_end = on_end;
    }
}

void check_refused(struct job *refused)
{
    for (struct job *j = refused; j; j = j->next) {
        const size_t i = find(j);
        j->on_event = jobs[i].on_event;
        j->on_end = jobs[i].on_end;
        jobs[i].job = NULL;
    }
}

void check_step(const struct deq_engine *e)
{
    for (size_t i = 0; i < SCHEDS; i++)
        scheds[i].steps += scheds[i].sched && scheds[i].sched->engine == e;
}

void check_admission(const struct sched *s)
{
    const size_t i = number_of(s);
    if (i < SCHEDS)
        scheds[i].rounds++;
}

void check_expired(uint64_t id)
{
    for (size_t i = 0; i < JOBS; i++) {
        const struct job *j = jobs[i].job;
        if (j && j->admitted_ns && j->admission.id == id && j->deadline_ns && j->seat.must)
            if (sim.now_ns < j->deadline_ns)
                sim_fail("job %llu is told that its deadline passed, %llu ns early", (unsigned long long)j->number,
                         (unsigned long long)(j->deadline_ns - sim.now_ns));
    }
}

/* --- Order --- */

bool check_drains(const struct sched *s)
{
    return s->draining;
}

void check_sched(struct sched *s, bool there)
{
    const size_t i = number_of(there ? NULL : s);
    if (i == SCHEDS && there)
        sim_fail("more than %d models", SCHEDS);
    if (i == SCHEDS)
        return;
    memset(&scheds[i], 0, sizeof scheds[i]);
    scheds[i].sched = there ? s : NULL;
}

void check_places(const struct account *a, uint64_t configured)
{
    const size_t self = (size_t)pthread_self();
    for (size_t i = 0; i < SCHEDS; i++) {
        const struct sched *s = scheds[i].sched;
        if (!s || a < s->fair.account || a >= s->fair.account + FAIR_ACCOUNTS)
            continue;
        const uint64_t idle = s->configured.sequences - DEQ_MIN(s->held.sequences, s->configured.sequences);
        places[self] =
            (int64_t)(idle + configured - (a->waiting ? configured / 8 : 0)) - (int64_t)(s->queued + s->reserved);
        places_asked[self] = true;
    }
}

void check_verdict(size_t n, int verdict)
{
    const size_t self = (size_t)pthread_self();
    const bool room = (int64_t)n <= places[self];
    if (places_asked[self] && (verdict == SUBMIT_QUEUE_FULL ? room : !room && verdict != SUBMIT_DRAINING))
        sim_fail("%zu more may wait: %s, of %lld places", n, verdict == SUBMIT_QUEUE_FULL ? "no" : "yes",
                 (long long)places[self]);
    places_asked[self] = false;
}

static double *service_of(size_t i, uint64_t id)
{
    size_t k = 0;
    while (k < scheds[i].n_service && scheds[i].service[k].id != id)
        k++;
    if (k == CALLERS)
        sim_fail("more than %d callers", CALLERS);
    if (k == scheds[i].n_service) {
        scheds[i].service[k].id = id;
        scheds[i].service[k].time = 0;
        scheds[i].n_service++;
    }
    return &scheds[i].service[k].time;
}

static int64_t level_of(const struct job *j)
{
    return j->priority - (int64_t)((sim.now_ns - DEQ_MIN(j->arrived_ns, sim.now_ns)) / 1000000000u);
}

/* Whether k, which waits too and whose caller was not passed by, should have come before j. */
static bool comes_before(size_t i, const struct job *k, const struct job *j)
{
    const int pk = k->caller.priority ? k->priority : 0, pj = j->caller.priority ? j->priority : 0;
    if (pk != pj)
        return pk < pj;
    if (k->account == j->account)
        return level_of(k) != level_of(j) ? level_of(k) < level_of(j) : k->arrived_ns < j->arrived_ns;
    const double now = scheds[i].now, *tk = service_of(i, k->caller.id), *tj = service_of(i, j->caller.id);
    return DEQ_MAX(*tk, now) < DEQ_MAX(*tj, now);
}

void check_chosen(const void *allowance)
{
    for (size_t i = 0; i < SCHEDS; i++) {
        struct sched *s = scheds[i].sched;
        const struct job *chosen = s ? s->queue : NULL;
        while (chosen && chosen->answer != allowance)
            chosen = chosen->next;
        if (!chosen || mutex_is_free(&s->lock)) /* one of its exchange's own, elsewhere */
            continue;
        /* jobs of one exchange share the allowance: the one that was chosen is the first of them in order */
        for (const struct job *k = chosen->next; k; k = k->next)
            if (k->answer == allowance && comes_before(i, k, chosen))
                chosen = k;
        for (const struct job *k = s->queue; k; k = k->next)
            if (k != chosen && !k->account->barred && comes_before(i, k, chosen))
                sim_fail("job %llu is admitted before job %llu, whose turn it is", (unsigned long long)chosen->number,
                         (unsigned long long)k->number);
        const struct deq_engine_stats now = deq_engine_stats(s->engine);
        if (chosen->account->running && (s->held.sequences + chosen->room.sequences > s->configured.sequences ||
                                         now.rows_reserved + chosen->room.rows > s->configured.rows ||
                                         now.pages_reserved + chosen->room.pages > s->configured.pages))
            sim_fail("job %llu takes what is kept for callers that run nothing", (unsigned long long)chosen->number);
        if (jobs[find(chosen)].single && chosen->answer->reserved_bytes != chosen->answer_bytes)
            sim_fail("job %llu has %llu bytes reserved, and asked for %llu", (unsigned long long)chosen->number,
                     (unsigned long long)chosen->answer->reserved_bytes, (unsigned long long)chosen->answer_bytes);
        scheds[i].chosen = chosen;
    }
}

void check_charged(const struct fair *f, const struct account *a, double tokens)
{
    for (size_t i = 0; i < SCHEDS; i++) {
        const struct job *j = scheds[i].chosen;
        if (!scheds[i].sched || &scheds[i].sched->fair != f || !j)
            continue;
        double *time = service_of(i, a->id);
        const double all = (double)j->prompt.n + (double)DEQ_MAX(j->request.n, 1u) * j->request.max_tokens;
        scheds[i].now = DEQ_MAX(scheds[i].now, *time);
        *time = scheds[i].now + all / DEQ_MAX(j->caller.weight, 1u);
        if (a->virtual_time < *time || a->virtual_time > *time)
            sim_fail("job %llu is charged %g, to %g, and should stand at %g", (unsigned long long)j->number, tokens,
                     a->virtual_time, *time);
        scheds[i].chosen = NULL;
    }
}

/* Of each caller one takes part, and nobody is passed over more often than others of his caller's take part. */
void check_shared(struct fair_seat *const *seats, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        size_t of_caller = 0, part = 0;
        for (size_t m = 0; m < n; m++) {
            const bool same = seats[m]->caller == seats[k]->caller;
            of_caller += same;
            part += same && fair_takes_part(seats[m]);
        }
        const struct job *j = (const struct job *)((const char *)seats[k] - offsetof(struct job, seat));
        const size_t i = find(j);
        if (i == JOBS)
            continue;
        if (!seats[k]->idle && !part)
            sim_fail("job %llu: no job of its caller takes part in the step", (unsigned long long)j->number);
        jobs[i].passed_over = seats[k]->throttled && !seats[k]->idle ? jobs[i].passed_over + 1 : 0;
        if (jobs[i].passed_over > 2 * of_caller + 2)
            sim_fail("job %llu starves: %u steps went by without it, %zu of its caller run",
                     (unsigned long long)j->number, jobs[i].passed_over, of_caller);
    }
}

/* --- The scheduler's state; its lock is free --- */

static void check_queue(const struct sched *s)
{
    size_t queued = 0, tokens = 0, listed = 0;
    for (const struct job *j = s->queue; j; j = j->next) {
        queued++;
        tokens += j->prompt.n;
        if (!j->next && s->queue_end != &j->next)
            sim_fail("the queue's end is not behind its last job");
    }
    for (const struct job *j = s->listed; j; j = j->next_listed) {
        listed++;
        if (*j->listed != j || find(j) == JOBS)
            sim_fail("a job is listed that has ended");
    }
    if (queued != s->queued || tokens != s->queued_tokens || listed != queued + s->n_running)
        sim_fail("counts: %zu wait and %zu are counted, %zu of %zu tokens, %zu listed, %zu run", queued, s->queued,
                 tokens, s->queued_tokens, listed, s->n_running);
    if (s->reserved + queued > s->conf->queue_requests + s->configured.sequences)
        sim_fail("%zu wait beside %zu reservations, of %u places", queued, s->reserved, s->conf->queue_requests);
}

static void check_accounts(const struct sched *s)
{
    size_t in_flight = 0, waiting = 0, running = 0;
    for (size_t i = 0; i < FAIR_ACCOUNTS; i++) {
        in_flight += s->fair.account[i].in_flight;
        waiting += s->fair.account[i].waiting;
        running += s->fair.account[i].running;
    }
    for (size_t i = 0; i < FAIR_ACCOUNTS && s->conf->max_requests_per_key; i++)
        for (unsigned k = 0; k < KEYS; k++)
            if (caller_of[k] && s->fair.account[i].id == caller_of[k] &&
                s->fair.account[i].in_flight > s->conf->max_requests_per_key)
                sim_fail("key %u has %zu requests, of %u", k, (size_t)s->fair.account[i].in_flight,
                         s->conf->max_requests_per_key);
    if (in_flight != s->reserved + s->queued + s->n_running || waiting != s->reserved + s->queued ||
        running != s->n_running)
        sim_fail("accounts: %zu in flight, %zu waiting, %zu running; %zu reserved, %zu queued, %zu run", in_flight,
                 waiting, running, s->reserved, s->queued, s->n_running);
}

/* Whether a round of admission has begun since j came. */
static bool was_seen(const struct sched *s, const struct job *j)
{
    return jobs[find(j)].round != scheds[number_of(s)].rounds;
}

static void check_times(const struct sched *s, uint64_t steps)
{
    const uint64_t slack = SLACK_MS * 1000000ull + 3 * sim.longest_step_ns;
    for (const struct job *j = s->queue; j; j = j->next) {
        const uint64_t since = DEQ_MAX(j->arrived_ns, jobs[find(j)].submitted_ns); /* its body may have come later */
        if (sim.now_ns > since + s->conf->queue_timeout_ms * 1000000ull + slack)
            sim_fail("job %llu waits longer than queue.timeout_ms", (unsigned long long)j->number);
        if (steps - jobs[find(j)].step > STEPS && !was_seen(s, j))
            sim_fail("job %llu is not looked at, though the engine goes on", (unsigned long long)j->number);
    }
    for (const struct job *j = s->listed; j; j = j->next_listed) {
        const size_t i = find(j);
        if (j->deadline_ns && sim.now_ns > DEQ_MAX(j->deadline_ns, jobs[i].submitted_ns) + slack)
            sim_fail("job %llu goes on behind its deadline", (unsigned long long)j->number);
        if (j->flush.has == FLUSH_NOTHING)
            jobs[i].news_ns = 0;
        else if (!jobs[i].news_ns)
            jobs[i].news_ns = sim.now_ns;
        else if (sim.now_ns > jobs[i].news_ns + FLUSH_MS * 1000000ull + slack)
            sim_fail("job %llu has tokens that its stream is not told of", (unsigned long long)j->number);
        const char *const answer = (const char *)j->answer;
        const struct channel *c = (const struct channel *)(answer - offsetof(struct channel, allowance));
        if (!atomic_load(&j->cancel) && !c->gone)
            continue;
        if (!jobs[i].cancelled_ns) {
            jobs[i].cancelled_ns = sim.now_ns;
            jobs[i].cancelled_step = steps;
        }
        if (sim.now_ns - jobs[i].cancelled_ns > slack || steps - jobs[i].cancelled_step > STEPS)
            sim_fail("job %llu goes on though it was cancelled, or its client left", (unsigned long long)j->number);
    }
}

/* Of what the engine's thread alone has, while it lies in wait. */
static void check_engine(const struct sched *s)
{
    const struct deq_engine_stats now = deq_engine_stats(s->engine);
    struct fair_room held = {0};
    uint64_t choices = 0, n = 0;
    for (const struct job *j = s->running; j; j = j->next) {
        held = fair_plus(&held, &j->room);
        choices += j->open_choices;
        n++;
        const uint64_t ran = sim.now_ns - j->admitted_ns - fair_slow_ns(&j->reader, sim.now_ns);
        if (ran > PATIENCE_S * 1000000000ull)
            sim_fail("job %llu starves: it has run for %d s", (unsigned long long)j->number, PATIENCE_S);
        const uint64_t slow_ns = fair_slow_ns(&j->reader, sim.now_ns);
        const uint64_t some_ns = (GIVES_WAY_MS - 2000) * 1000000ull + sim.longest_step_ns;
        if (s->queue && s->blocked && j->reader.slow && slow_ns > 2000000000u + some_ns &&
            2 * (slow_ns - some_ns) > sim.now_ns - j->admitted_ns)
            sim_fail("job %llu, which its reader keeps from steps, does not give way to those that wait",
                     (unsigned long long)j->number);
    }
    if (n != s->n_running || held.sequences != s->held.sequences || held.rows != s->held.rows ||
        held.pages != s->held.pages)
        sim_fail("held: %llu jobs with %llu sequences and %llu pages; counted %zu, %llu, %llu", (unsigned long long)n,
                 (unsigned long long)held.sequences, (unsigned long long)held.pages, s->n_running,
                 (unsigned long long)s->held.sequences, (unsigned long long)s->held.pages);
    if (now.sequences != choices || now.pages_used > now.pages_reserved || now.pages_reserved > held.pages ||
        now.pages_reserved > now.pages || now.rows_reserved > now.max_rows || (!n && now.pages_reserved))
        sim_fail("pages: %llu used, %llu reserved, %llu by jobs, %llu there; %llu sequences, %llu choices",
                 (unsigned long long)now.pages_used, (unsigned long long)now.pages_reserved,
                 (unsigned long long)held.pages, (unsigned long long)now.pages, (unsigned long long)now.sequences,
                 (unsigned long long)choices);
    for (const struct job *j = s->queue; j; j = j->next)
        if (!was_seen(s, j))
            sim_fail("the engine's thread sleeps, and has not looked at job %llu", (unsigned long long)j->number);
    if (s->attention || s->end_all || s->stop || s->arrivals)
        sim_fail("the engine's thread sleeps though it is called (attention %d, end %d, stop %d, arrivals %d)",
                 s->attention, s->end_all, s->stop, s->arrivals);
}

static void check_memory(void)
{
    size_t n = 1; /* and one that is being loaded */
    for (size_t i = 0; i < SCHEDS; i++)
        n += scheds[i].sched != NULL;
    const uint64_t declared = live_before + n * model_bytes + budget->max_bytes +
                              (uint64_t)atomic_load(&metrics->connections) * PER_CONNECTION + PROCESS;
    if (model_bytes && deq_mem_live() > declared)
        sim_fail("memory: %llu bytes are held, %llu declared", (unsigned long long)deq_mem_live(),
                 (unsigned long long)declared);
    if (!mutex_is_free(&budget->lock))
        return;
    uint64_t used = 0;
    for (const struct deq_allowance *a = budget->open; a; a = a->next)
        used += DEQ_MAX(a->reserved_bytes, a->taken_bytes);
    if (used != budget->used_bytes || used > budget->max_bytes)
        sim_fail("answers: %llu bytes, counted %llu, of %llu", (unsigned long long)used,
                 (unsigned long long)budget->used_bytes, (unsigned long long)budget->max_bytes);
}

void check_event(void)
{
    for (size_t i = 0; i < SCHEDS; i++) {
        const struct sched *s = scheds[i].sched;
        if (!s || !mutex_is_free(&s->lock))
            continue;
        check_queue(s);
        check_times(s, scheds[i].steps);
        if (thread_sleeps_on(&s->wake))
            check_engine(s);
        if (sim.event % 32 == 0)
            check_accounts(s);
    }
    if (budget)
        check_memory();
    mhd_check();
}

/* --- Moments of rest --- */

void check_metrics(const void *m)
{
    metrics = m;
}

void check_budget(void *b)
{
    budget = b;
}

uint64_t check_answer_bytes(void)
{
    return budget->used_bytes;
}

void check_quiet(void)
{
    if (check_jobs() || budget->used_bytes || atomic_load(&metrics->waiting) || atomic_load(&metrics->running))
        sim_fail("at rest: %zu jobs, %llu bytes of answers, %lld waiting, %lld running", check_jobs(),
                 (unsigned long long)budget->used_bytes, (long long)atomic_load(&metrics->waiting),
                 (long long)atomic_load(&metrics->running));
    for (size_t i = 0; i < SCHEDS; i++) {
        const struct sched *s = scheds[i].sched;
        if (s && (s->reserved || s->queued || s->n_running || deq_engine_stats(s->engine).pages_used))
            sim_fail("at rest: %zu reserved, %zu queued, %zu running, %llu pages", s->reserved, s->queued, s->n_running,
                     (unsigned long long)deq_engine_stats(s->engine).pages_used);
    }
}

void check_begins(void)
{
    live_before = deq_mem_live();
}

void check_model(uint64_t bytes)
{
    model_bytes = bytes;
}

void check_ended(void)
{
    if (check_jobs() || threads_alive() || atomic_load(&metrics->connections))
        sim_fail("ended: with %zu jobs, %zu threads, %lld connections", check_jobs(), threads_alive(),
                 (long long)atomic_load(&metrics->connections));
    if (deq_mem_live() != live_before)
        sim_fail("ended: %lld bytes leaked", (long long)(deq_mem_live() - live_before));
    budget = NULL;
}
