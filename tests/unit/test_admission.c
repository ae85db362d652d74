/* server/work/admission.c: who of those that wait comes next, finds room, or waited too long. */
#include "tests/unit/jobs.h"

/* One at a time: of a flood that was there first one job goes first, then the caller who had less, then the rest. */
TEST(admission_is_by_caller)
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
TEST(admission_reserves_memory_for_answers)
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

TEST(admission_ends_what_waits_too_long)
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

/* Callers that had as much come in the order of their waits, wherever their accounts lie. */
TEST(admission_of_equal_callers_is_in_order_of_arrival)
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
TEST(admission_first_tokens_come_in_order_of_arrival)
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
