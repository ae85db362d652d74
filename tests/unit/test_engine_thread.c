/* What the engine's thread does with jobs: their order, signals, ends, and memory for their answers. */
#include "core/base/clock.h"
#include "tests/unit/jobs.h"

TEST(engine_thread_runs_jobs_to_their_end)
{
    struct job *all[3];
    struct reservation place;
    REQUIRE(jobs_begin(8));
    for (size_t i = 0; i < 3; i++) {
        jobs_prepare(i, i, 10 + (uint32_t)i);
        jobs.probe[i].job.request.n = (uint32_t)i;
        all[i] = &jobs.probe[i].job;
    }
    CHECK(sched_reserve(jobs.sched, &jobs.probe[0].job.caller, 3, &place) == SUBMIT_OK);
    CHECK(sched_submit(jobs.sched, &place, all, 3) == SUBMIT_OK && !place.sched);
    for (size_t i = 0; i < 3; i++) {
        struct probe *p = &jobs.probe[i];
        jobs_check_end(p, JOB_FINISHED);
        CHECK_EQ(p->tokens, (i ? i : 1) * (10 + i));
        CHECK(p->order && p->steps && p->job.admitted_ns >= p->job.arrived_ns);
    }
    CHECK_EQ(sched_pending(jobs.sched), 0);
    CHECK_EQ(jobs.metrics.generation_tokens, 10 + 11 + 2 * 12);
    CHECK_EQ(jobs.metrics.prompt_tokens, 3);
    CHECK_EQ(jobs.metrics.finished[DEQ_FINISH_LENGTH], 4);
    CHECK_EQ(jobs.metrics.running, 0);
    CHECK_EQ(jobs.metrics.waiting, 0);
    jobs_end();
}

/* One at a time: of a flood that was there first one job goes first, then the caller who had less, then the rest. */
TEST(engine_thread_admits_by_caller)
{
    sem_t hold;
    REQUIRE(jobs_begin(1));
    struct probe *first = jobs_hold_engine(0, 9, 5, &hold);
    for (size_t i = 1; i <= 5; i++) {
        jobs_prepare(i, i <= 4 ? 1 : 2, 5)->job.arrived_ns = jobs.probe[0].job.arrived_ns + i;
        CHECK(jobs_submit(&jobs.probe[i]) == SUBMIT_OK);
    }
    CHECK_EQ(jobs.metrics.waiting, 5);
    sem_post(&hold);
    jobs_check_end(first, JOB_FINISHED);
    static const unsigned order[] = {2, 4, 5, 6, 3};
    for (size_t i = 0; i < 5; i++) {
        jobs_check_end(&jobs.probe[i + 1], JOB_FINISHED);
        CHECK_EQ(jobs.probe[i + 1].order, order[i]);
    }
    jobs_end();
}

/* A job whose answer finds no memory waits for it, and nobody else waits for that job. */
TEST(engine_thread_reserves_memory_for_answers)
{
    struct deq_budget budget;
    sem_t hold;
    REQUIRE(jobs_begin(8));
    deq_budget_init(&budget, 100);
    struct probe *first = jobs_hold_engine(0, 1, 50, &hold);
    deq_allowance_open(&first->answer, &budget, 1);
    CHECK(deq_allowance_reserve(&first->answer, 80));
    for (size_t i = 1; i <= 2; i++) {
        jobs_prepare(i, 1 + i, 50);
        deq_allowance_open(&jobs.probe[i].answer, &budget, 1 + i);
        jobs.probe[i].job.answer_bytes = i == 1 ? 80 : 20;
        CHECK(jobs_submit(&jobs.probe[i]) == SUBMIT_OK);
    }
    sem_post(&hold);
    for (size_t i = 0; i <= 2; i++)
        jobs_check_end(&jobs.probe[i], JOB_FINISHED);
    CHECK_EQ(jobs.probe[2].order, 2);
    CHECK_EQ(jobs.probe[1].order, 3);
    CHECK_EQ(deq_budget_used(&budget), 0);
    jobs_end();
}

TEST(engine_thread_cancels_what_waits_and_what_runs)
{
    sem_t hold;
    REQUIRE(jobs_begin(1));
    struct probe *runs = jobs_hold_engine(0, 1, NEVER, &hold), *waits = jobs_prepare(1, 2, 5);
    CHECK(jobs_submit(waits) == SUBMIT_OK);
    CHECK_EQ(sched_pending(jobs.sched), 2);
    sched_cancel(&waits->job);
    sem_post(&hold);
    jobs_check_end(waits, JOB_CANCELED);
    CHECK_EQ(waits->order, 0);
    CHECK_EQ(jobs.metrics.cancelled[CANCEL_QUEUED], 1);
    sched_cancel(&runs->job);
    jobs_check_end(runs, JOB_CANCELED);
    CHECK(runs->tokens < NEVER);
    CHECK_EQ(jobs.metrics.cancelled[CANCEL_PREFILL] + jobs.metrics.cancelled[CANCEL_DECODE], 1);
    CHECK_EQ(jobs.metrics.finished[DEQ_FINISH_CANCELED], 1);
    jobs_end();
}

TEST(engine_thread_ends_what_waits_too_long)
{
    sem_t hold;
    REQUIRE(jobs_begin(1));
    struct probe *runs = jobs_hold_engine(0, 1, NEVER, &hold);
    struct probe *late = jobs_prepare(1, 2, 5), *timeout = jobs_prepare(2, 3, 5);
    late->job.deadline_ns = late->job.arrived_ns;
    timeout->job.arrived_ns -= 10000000; /* ten milliseconds ago, with a millisecond allowed */
    jobs.conf.queue_timeout_ms = 1;
    CHECK(jobs_submit(late) == SUBMIT_OK && jobs_submit(timeout) == SUBMIT_OK);
    sem_post(&hold);
    jobs_check_end(late, JOB_DEADLINE);
    jobs_check_end(timeout, JOB_QUEUE_TIMEOUT);
    CHECK(!late->order && !timeout->order);
    CHECK_EQ(jobs.metrics.rejected[REJECT_DEADLINE], 1);
    CHECK_EQ(jobs.metrics.rejected[REJECT_QUEUE_TIMEOUT], 1);
    sched_end_all(jobs.sched);
    jobs_check_end(runs, JOB_DRAINED);
    jobs_end();
}

/* A running job whose deadline passes is finished with what it has, also while its reader is slow. */
TEST(engine_thread_finishes_a_running_job_at_its_deadline)
{
    sem_t hold;
    REQUIRE(jobs_begin(1));
    struct probe *p = jobs_prepare(0, 1, NEVER);
    sem_init(&hold, 0, 0);
    p->hold = &hold;
    p->pause_at = 2;
    p->job.deadline_ns = deq_now_ns() + 3600ull * 1000000000u;
    CHECK(jobs_submit(p) == SUBMIT_OK && jobs_wait(&p->begun));
    p->job.deadline_ns = 1; /* while the engine's thread is held */
    sem_post(&hold);
    jobs_check_end(p, JOB_FINISHED);
    CHECK(p->tokens > 2 && p->tokens < NEVER);
    CHECK_EQ(jobs.metrics.finished[DEQ_FINISH_DEADLINE], 1);
    jobs_end();
}

TEST(engine_thread_pauses_a_job)
{
    REQUIRE(jobs_begin(4));
    struct probe *slow = jobs_prepare(0, 1, 300), *other = jobs_prepare(1, 2, 100);
    slow->pause_at = 3;
    CHECK(jobs_submit(slow) == SUBMIT_OK && jobs_wait(&slow->paused));
    const unsigned had = slow->tokens;
    CHECK(jobs_submit(other) == SUBMIT_OK);
    jobs_check_end(other, JOB_FINISHED);
    CHECK_EQ(slow->tokens, had);
    CHECK_EQ(jobs.metrics.paused, 1);
    sched_pause(&slow->job, false);
    jobs_check_end(slow, JOB_FINISHED);
    CHECK_EQ(slow->tokens, 300);
    jobs_end();
}

/* A step takes three milliseconds at least, so the next one ends after the four that tokens may be kept back. */
TEST(engine_thread_keeps_no_token_of_a_slow_stream)
{
    REQUIRE(jobs_begin(1));
    jobs.conf.stream_flush_ms = 4;
    struct probe *p = jobs_prepare(0, 1, 10);
    p->job.request.solve.window = 1; /* a token a step */
    p->token_us = 3000;
    CHECK(jobs_submit(p) == SUBMIT_OK);
    jobs_check_end(p, JOB_FINISHED);
    CHECK_EQ(p->tokens, 10);
    CHECK_MSG(p->steps + 1 >= p->tokens, "went out %u times", p->steps); /* the last one goes with the end */
    jobs_end();
}

TEST(engine_thread_ends_everything)
{
    sem_t hold;
    REQUIRE(jobs_begin(1));
    struct probe *runs = jobs_hold_engine(0, 1, NEVER, &hold);
    struct probe *waits = jobs_prepare(1, 2, 5), *late = jobs_prepare(2, 2, 5);
    CHECK(jobs_submit(waits) == SUBMIT_OK);
    sched_end_all(jobs.sched);
    CHECK(jobs_submit(late) == SUBMIT_DRAINING);
    sem_post(&hold);
    jobs_check_end(runs, JOB_DRAINED);
    jobs_check_end(waits, JOB_DRAINED);
    CHECK(sched_alive(jobs.sched, HANG_S * 1000));
    jobs_end();
}

/* Callers that had as much come in the order of their waits, wherever their accounts lie. */
TEST(sched_equal_callers_come_in_order_of_arrival)
{
    static const uint64_t caller[] = {9, 3, 5, 4};
    sem_t hold;
    REQUIRE(jobs_begin(1));
    struct probe *holder = jobs_hold_engine(DEQ_COUNT(caller), 1, 1, &hold);
    for (size_t i = 0; i < DEQ_COUNT(caller); i++)
        CHECK(jobs_submit(jobs_prepare(i, caller[i], 1)) == SUBMIT_OK);
    sem_post(&hold);
    for (size_t i = 0; i < DEQ_COUNT(caller); i++) {
        jobs_check_end(&jobs.probe[i], JOB_FINISHED);
        CHECK_EQ(jobs.probe[i].order, holder->order + 1 + i);
    }
    jobs_check_end(holder, JOB_FINISHED);
    jobs_end();
}

/* Many more requests than places: nobody who came later has a first token in an earlier step. All of them cost the
 * same, and wait before the first one begins. */
TEST(sched_first_tokens_come_in_order_of_arrival)
{
    enum { CLIENTS = 128, PLACES = 4, TOKENS = 3 };
    sem_t hold;
    REQUIRE(jobs_begin(PLACES));
    jobs.conf.queue_requests = 2 * CLIENTS;
    struct probe *holder = jobs_hold_engine(CLIENTS, 1, 1, &hold);
    for (size_t i = 0; i < CLIENTS; i++)
        CHECK(jobs_submit(jobs_prepare(i, 1, TOKENS)) == SUBMIT_OK);
    sem_post(&hold);
    for (size_t i = 0; i < CLIENTS; i++)
        jobs_check_end(&jobs.probe[i], JOB_FINISHED);
    jobs_check_end(holder, JOB_FINISHED);
    for (size_t i = 1; i < CLIENTS; i++) {
        CHECK_EQ(jobs.probe[i].order, jobs.probe[i - 1].order + 1);
        CHECK(jobs.probe[i].first >= jobs.probe[i - 1].first);
    }
    CHECK(jobs.probe[CLIENTS - 1].first >= CLIENTS / 2); /* they did not all come at once */
    jobs_end();
}
