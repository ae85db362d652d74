/* The scheduler with a real engine on a small model, without sockets. Nothing here waits for time to pass: a job that
 * holds the engine's thread in its on_admit makes what happens meanwhile, and the order of what follows, certain. */
#include "server/work/sched.h"

#include <semaphore.h>
#include <time.h>

#include "core/base/clock.h"
#include "tests/unit/test.h"

enum { JOBS_MAX = 8, HANG_S = 120, NEVER = 100000 };

struct fixture {
    struct conf conf;
    struct deq_model *model;
    struct metrics metrics;
    struct sched *sched;
    atomic_uint admitted; /* so far */
    uint32_t token;       /* every prompt is this one */
};

struct probe {
    struct job job; /* first: callbacks get it */
    struct fixture *f;
    struct deq_allowance answer;
    sem_t *hold;       /* its on_admit waits for this; may be NULL */
    sem_t begun, paused, ended;
    unsigned order;    /* of its admission, from 1; 0: none */
    unsigned tokens, ends, steps;
    unsigned pause_at; /* it pauses itself at that token, and says so at the end of the step; 0: never */
    enum job_end end;
    bool message;
};

static struct fixture f;
static struct probe probe[JOBS_MAX];

/* The limit is a guard against a test that hangs, and no bound on anything. */
static bool wait_for(sem_t *s)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += HANG_S;
    return sem_timedwait(s, &until) == 0;
}

static void on_admit(struct job *j)
{
    struct probe *p = (struct probe *)j;
    p->order = ++p->f->admitted;
    sem_post(&p->begun);
    if (p->hold)
        CHECK(wait_for(p->hold));
}

static enum deq_verdict on_event(struct job *j, const struct deq_event *e)
{
    struct probe *p = (struct probe *)j;
    p->tokens += e->kind == DEQ_EVENT_TOKEN;
    if (e->kind == DEQ_EVENT_TOKEN && p->tokens == p->pause_at)
        sched_pause(j, true);
    return DEQ_CONTINUE;
}

static void on_step(struct job *j)
{
    struct probe *p = (struct probe *)j;
    p->steps++;
    if (p->pause_at && p->tokens >= p->pause_at)
        sem_post(&p->paused);
}

static void on_end(struct job *j, enum job_end end, const char *message)
{
    struct probe *p = (struct probe *)j;
    p->ends++;
    p->end = end;
    p->message = message != NULL;
    deq_allowance_close(&p->answer);
    sem_post(&p->ended);
}

static void begin_with(uint32_t max_sequences)
{
    struct deq_err err;
    f = (struct fixture){.token = 1};
    CHECK(deq_opt_defaults(&conf_table, &f.conf, &err) == DEQ_OK);
    f.conf.threads = 1;
    f.conf.max_sequences = max_sequences;
    f.conf.max_positions = NEVER + 100;
    f.conf.queue_timeout_ms = HANG_S * 1000;
    f.conf.stream_flush_ms = 0;
    metrics_init(&f.metrics);
    CHECK(deq_model_load("tests/golden/tiny", &f.model, &err) == DEQ_OK);
    CHECK_MSG(sched_new(&f.conf, f.model, &f.metrics, &f.sched, &err) == DEQ_OK, "%s", err.text);
}

static void end(void)
{
    sched_free(f.sched);
    deq_model_free(f.model);
}

/* A job of one prompt token that makes max_tokens, whatever comes. */
static struct probe *prepare(size_t i, uint64_t caller, uint32_t max_tokens)
{
    struct probe *p = &probe[i];
    *p = (struct probe){.f = &f,
                        .job = {.request = deq_request_defaults(f.model),
                                .prompt = {.ids = &f.token, .n = 1},
                                .caller = {.id = caller, .weight = 1},
                                .arrived_ns = deq_now_ns(),
                                .answer = &p->answer,
                                .on_admit = on_admit,
                                .on_event = on_event,
                                .on_step = on_step,
                                .on_end = on_end,
                                .sched = f.sched}};
    p->job.request.max_tokens = max_tokens;
    p->job.request.ignore_eos = true;
    sem_init(&p->begun, 0, 0);
    sem_init(&p->paused, 0, 0);
    sem_init(&p->ended, 0, 0);
    return p;
}

static enum submit submit(struct probe *p)
{
    struct reservation place;
    struct job *job = &p->job;
    const enum submit verdict = sched_reserve(f.sched, &job->caller, 1, &place);
    return verdict == SUBMIT_OK ? sched_submit(f.sched, &place, &job, 1) : verdict;
}

/* A job that the engine's thread has begun, and in whose on_admit it stays. */
static struct probe *hold_engine(size_t i, uint64_t caller, uint32_t max_tokens, sem_t *hold)
{
    struct probe *p = prepare(i, caller, max_tokens);
    sem_init(hold, 0, 0);
    p->hold = hold;
    CHECK(submit(p) == SUBMIT_OK && wait_for(&p->begun));
    return p;
}

static void check_end(struct probe *p, enum job_end how)
{
    CHECK(wait_for(&p->ended));
    CHECK_EQ(p->ends, 1);
    CHECK_EQ(p->end, how);
}

TEST(sched_runs_jobs_to_their_end)
{
    struct job *jobs[3];
    struct reservation place;
    begin_with(8);
    for (size_t i = 0; i < 3; i++) {
        prepare(i, i, 10 + (uint32_t)i);
        probe[i].job.request.n = (uint32_t)i;
        jobs[i] = &probe[i].job;
    }
    CHECK(sched_reserve(f.sched, &probe[0].job.caller, 3, &place) == SUBMIT_OK);
    CHECK(sched_submit(f.sched, &place, jobs, 3) == SUBMIT_OK && !place.sched);
    for (size_t i = 0; i < 3; i++) {
        check_end(&probe[i], JOB_FINISHED);
        CHECK_EQ(probe[i].tokens, (i ? i : 1) * (10 + i));
        CHECK(probe[i].order && probe[i].steps && probe[i].job.admitted_ns >= probe[i].job.arrived_ns);
    }
    CHECK_EQ(sched_pending(f.sched), 0);
    CHECK_EQ(f.metrics.generation_tokens, 10 + 11 + 2 * 12);
    CHECK_EQ(f.metrics.prompt_tokens, 3);
    CHECK_EQ(f.metrics.finished[DEQ_FINISH_LENGTH], 4);
    CHECK_EQ(f.metrics.running, 0);
    CHECK_EQ(f.metrics.waiting, 0);
    end();
}

/* 8 places in the queue, one of them for callers that have nothing waiting. */
TEST(sched_keeps_places_in_the_queue)
{
    const struct caller flood = {.id = 1, .weight = 1}, other = {.id = 2, .weight = 1};
    struct reservation place[8], none;
    sem_t hold;
    begin_with(1);
    f.conf.queue_requests = 8;
    struct probe *first = hold_engine(0, 3, 5, &hold);
    for (size_t i = 0; i < 7; i++)
        CHECK(sched_reserve(f.sched, &flood, 1, &place[i]) == SUBMIT_OK);
    CHECK(sched_reserve(f.sched, &flood, 1, &none) == SUBMIT_QUEUE_FULL);
    CHECK(sched_reserve(f.sched, &other, 1, &place[7]) == SUBMIT_OK);
    CHECK(sched_reserve(f.sched, &other, 1, &none) == SUBMIT_QUEUE_FULL);
    sched_release(&place[0]);
    sched_release(&place[0]); /* given back once */
    CHECK(sched_reserve(f.sched, &flood, 1, &none) == SUBMIT_QUEUE_FULL);
    sched_release(&place[1]);
    CHECK(sched_reserve(f.sched, &flood, 1, &place[0]) == SUBMIT_OK);
    CHECK_EQ(f.metrics.rejected[REJECT_QUEUE_FULL], 3);
    sched_release(&place[0]);
    for (size_t i = 2; i < 8; i++)
        sched_release(&place[i]);
    sem_post(&hold);
    check_end(first, JOB_FINISHED);
    end();
}

TEST(sched_limits_waiting_tokens_and_a_keys_requests)
{
    const struct caller known = {.id = 1, .weight = 1, .known = true}, unknown = {.id = 2, .weight = 1};
    struct reservation place[3], none;
    begin_with(4);
    f.conf.queue_tokens = 100;
    f.conf.max_requests_per_key = 2;
    CHECK(sched_reserve(f.sched, &unknown, 1000, &place[0]) == SUBMIT_OK); /* nothing waits: no size is impossible */
    CHECK(sched_reserve(f.sched, &unknown, 1, &none) == SUBMIT_TOKENS_FULL);
    sched_release(&place[0]);
    CHECK(sched_reserve(f.sched, &known, 50, &place[0]) == SUBMIT_OK);
    CHECK(sched_reserve(f.sched, &known, 50, &place[1]) == SUBMIT_OK);
    CHECK(sched_reserve(f.sched, &known, 0, &none) == SUBMIT_KEY_LIMIT);
    CHECK(sched_reserve(f.sched, &unknown, 0, &place[2]) == SUBMIT_OK);
    CHECK(sched_reserve(f.sched, &unknown, 1, &none) == SUBMIT_TOKENS_FULL);
    for (size_t i = 0; i < 3; i++)
        sched_release(&place[i]);
    CHECK_EQ(f.metrics.rejected[REJECT_TOKENS_FULL], 2);
    CHECK_EQ(f.metrics.rejected[REJECT_KEY_LIMIT], 1);
    sched_drain(f.sched);
    CHECK(sched_reserve(f.sched, &unknown, 1, &none) == SUBMIT_DRAINING);
    CHECK_EQ(f.metrics.rejected[REJECT_DRAINING], 1);
    end();
}

/* One at a time: of a flood that was there first one job goes first, then the caller who had less, then the rest. */
TEST(sched_admits_by_caller)
{
    sem_t hold;
    begin_with(1);
    struct probe *first = hold_engine(0, 9, 5, &hold);
    for (size_t i = 1; i <= 5; i++) {
        prepare(i, i <= 4 ? 1 : 2, 5)->job.arrived_ns = probe[0].job.arrived_ns + i;
        CHECK(submit(&probe[i]) == SUBMIT_OK);
    }
    CHECK_EQ(f.metrics.waiting, 5);
    sem_post(&hold);
    check_end(first, JOB_FINISHED);
    static const unsigned order[] = {2, 4, 5, 6, 3};
    for (size_t i = 0; i < 5; i++) {
        check_end(&probe[i + 1], JOB_FINISHED);
        CHECK_EQ(probe[i + 1].order, order[i]);
    }
    end();
}

/* A job whose answer finds no memory waits for it, and nobody else waits for that job. */
TEST(sched_reserves_memory_for_answers)
{
    struct deq_budget budget;
    sem_t hold;
    begin_with(8);
    deq_budget_init(&budget, 100);
    struct probe *first = hold_engine(0, 1, 50, &hold);
    deq_allowance_open(&first->answer, &budget, 1);
    CHECK(deq_allowance_reserve(&first->answer, 80));
    for (size_t i = 1; i <= 2; i++) {
        prepare(i, 1 + i, 50);
        deq_allowance_open(&probe[i].answer, &budget, 1 + i);
        probe[i].job.answer_bytes = i == 1 ? 80 : 20;
        CHECK(submit(&probe[i]) == SUBMIT_OK);
    }
    sem_post(&hold);
    for (size_t i = 0; i <= 2; i++)
        check_end(&probe[i], JOB_FINISHED);
    CHECK_EQ(probe[2].order, 2);
    CHECK_EQ(probe[1].order, 3);
    CHECK_EQ(deq_budget_used(&budget), 0);
    end();
}

TEST(sched_cancels_what_waits_and_what_runs)
{
    sem_t hold;
    begin_with(1);
    struct probe *runs = hold_engine(0, 1, NEVER, &hold), *waits = prepare(1, 2, 5);
    CHECK(submit(waits) == SUBMIT_OK);
    CHECK_EQ(sched_pending(f.sched), 2);
    sched_cancel(&waits->job);
    sem_post(&hold);
    check_end(waits, JOB_CANCELED);
    CHECK_EQ(waits->order, 0);
    CHECK_EQ(f.metrics.cancelled[CANCEL_QUEUED], 1);
    sched_cancel(&runs->job);
    check_end(runs, JOB_CANCELED);
    CHECK(runs->tokens < NEVER);
    CHECK_EQ(f.metrics.cancelled[CANCEL_PREFILL] + f.metrics.cancelled[CANCEL_DECODE], 1);
    CHECK_EQ(f.metrics.finished[DEQ_FINISH_CANCELED], 1);
    end();
}

TEST(sched_ends_what_waits_too_long)
{
    sem_t hold;
    begin_with(1);
    struct probe *runs = hold_engine(0, 1, NEVER, &hold), *late = prepare(1, 2, 5), *timeout = prepare(2, 3, 5);
    late->job.deadline_ns = late->job.arrived_ns;
    timeout->job.arrived_ns -= 10000000; /* ten milliseconds ago, with a millisecond allowed */
    f.conf.queue_timeout_ms = 1;
    CHECK(submit(late) == SUBMIT_OK && submit(timeout) == SUBMIT_OK);
    sem_post(&hold);
    check_end(late, JOB_DEADLINE);
    check_end(timeout, JOB_QUEUE_TIMEOUT);
    CHECK(!late->order && !timeout->order);
    CHECK_EQ(f.metrics.rejected[REJECT_DEADLINE], 1);
    CHECK_EQ(f.metrics.rejected[REJECT_QUEUE_TIMEOUT], 1);
    sched_end_all(f.sched);
    check_end(runs, JOB_DRAINED);
    end();
}

/* A running job whose deadline passes is finished with what it has, also while its reader is slow. */
TEST(sched_finishes_a_running_job_at_its_deadline)
{
    sem_t hold;
    begin_with(1);
    struct probe *p = prepare(0, 1, NEVER);
    sem_init(&hold, 0, 0);
    p->hold = &hold;
    p->pause_at = 2;
    p->job.deadline_ns = deq_now_ns() + 3600ull * 1000000000u;
    CHECK(submit(p) == SUBMIT_OK && wait_for(&p->begun));
    p->job.deadline_ns = 1; /* while the engine's thread is held */
    sem_post(&hold);
    check_end(p, JOB_FINISHED);
    CHECK(p->tokens > 2 && p->tokens < NEVER);
    CHECK_EQ(f.metrics.finished[DEQ_FINISH_DEADLINE], 1);
    end();
}

TEST(sched_pauses_a_job)
{
    begin_with(4);
    struct probe *slow = prepare(0, 1, 300), *other = prepare(1, 2, 100);
    slow->pause_at = 3;
    CHECK(submit(slow) == SUBMIT_OK && wait_for(&slow->paused));
    const unsigned had = slow->tokens;
    CHECK(submit(other) == SUBMIT_OK);
    check_end(other, JOB_FINISHED);
    CHECK_EQ(slow->tokens, had);
    CHECK_EQ(f.metrics.paused, 1);
    sched_pause(&slow->job, false);
    check_end(slow, JOB_FINISHED);
    CHECK_EQ(slow->tokens, 300);
    end();
}

TEST(sched_ends_everything)
{
    sem_t hold;
    begin_with(1);
    struct probe *runs = hold_engine(0, 1, NEVER, &hold), *waits = prepare(1, 2, 5), *late = prepare(2, 2, 5);
    CHECK(submit(waits) == SUBMIT_OK);
    sched_end_all(f.sched);
    CHECK(submit(late) == SUBMIT_DRAINING);
    sem_post(&hold);
    check_end(runs, JOB_DRAINED);
    check_end(waits, JOB_DRAINED);
    CHECK(sched_alive(f.sched, HANG_S * 1000));
    end();
}

/* Freeing it ends what is there. */
TEST(sched_free_ends_everything)
{
    sem_t hold;
    begin_with(1);
    struct probe *runs = hold_engine(0, 1, NEVER, &hold), *waits = prepare(1, 2, 5);
    CHECK(submit(waits) == SUBMIT_OK);
    sem_post(&hold);
    end();
    check_end(runs, JOB_DRAINED);
    check_end(waits, JOB_DRAINED);
}

/* What one request may take is what is configured; the eighth more that the engine has is for others beside it. */
TEST(sched_rows_of_a_request_are_those_configured)
{
    static const uint32_t configured[][3] = {/* max_sequences, max_rows, rows */
                                             {32, 0, 256}, {1, 0, 64}, {9, 0, 72},
                                             {8, 64, 64}, {3, 1000, 1000}, {7, 71, 71}};
    for (size_t i = 0; i < DEQ_COUNT(configured); i++) {
        const struct conf c = {.max_sequences = configured[i][0], .max_rows = configured[i][1]};
        const struct deq_engine_opts o = sched_engine_opts(&c);
        const struct fair_room all = {o.max_sequences, o.max_rows, 0}, of_one = fair_configured(&all);
        CHECK_EQ(of_one.sequences, configured[i][0]);
        CHECK_EQ(of_one.rows, configured[i][2]);
    }
    begin_with(8);
    CHECK_EQ(sched_max_rows(f.sched), 64);
    CHECK_EQ(sched_max_positions(f.sched), NEVER + 100);
    struct probe *wide = prepare(0, 1, 5), *wider = prepare(1, 1, 5);
    wide->job.request.n = 4;
    wide->job.request.solve.window = 16;
    wider->job.request.n = 5; /* the parser refuses it; the engine would too */
    wider->job.request.solve.window = 16;
    CHECK(submit(wide) == SUBMIT_OK && submit(wider) == SUBMIT_OK);
    check_end(wide, JOB_FINISHED);
    check_end(wider, JOB_REFUSED);
    CHECK(wider->message && !wider->order);
    end();
}

/* A reload: another scheduler takes over, and the first goes with its engine. No counter runs backwards, no gauge
 * stays. */
TEST(sched_counters_outlive_their_engine)
{
    struct sched *second;
    struct deq_err err;
    begin_with(2);
    CHECK(submit(prepare(0, 1, 50)) == SUBMIT_OK);
    check_end(&probe[0], JOB_FINISHED);
    REQUIRE(sched_new(&f.conf, f.model, &f.metrics, &second, &err) == DEQ_OK);
    CHECK_EQ(f.metrics.engine.max_sequences, 2 * 2);
    sched_free(f.sched);
    f.sched = second;
    const uint64_t steps = f.metrics.engine.steps, positions = f.metrics.engine.positions;
    CHECK(steps > 0 && positions >= 50);
    CHECK_EQ(f.metrics.engine.max_sequences, 2);
    CHECK(submit(prepare(1, 1, 50)) == SUBMIT_OK);
    check_end(&probe[1], JOB_FINISHED);
    sched_free(f.sched);
    f.sched = NULL;
    CHECK_EQ(f.metrics.engine.positions, 2 * positions);
    CHECK(f.metrics.engine.steps > steps);
    CHECK(!f.metrics.engine.max_sequences && !f.metrics.engine.pages && !f.metrics.engine.memory_bytes);
    end();
}

TEST(sched_refuses_an_engine_that_cannot_be)
{
    struct deq_err err;
    struct sched *none = NULL;
    begin_with(1);
    f.conf.max_sequences = 70000;
    CHECK(sched_new(&f.conf, f.model, &f.metrics, &none, &err) == DEQ_EINVAL && !none);
    CHECK_EQ(f.metrics.engine.max_sequences, 1);
    end();
}
