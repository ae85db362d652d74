/* server/work/admission.c: who of those that wait comes next, finds room, or waited too long. */
#include "core/base/clock.h"
#include "server/work/sched_impl.h"
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

static struct job *expired_at(uint64_t now)
{
    pthread_mutex_lock(&jobs.sched->lock);
    struct job *expired = queue_expired(jobs.sched, now);
    pthread_mutex_unlock(&jobs.sched->lock);
    return expired;
}

/* To the nanosecond: a timeout and a deadline are over behind their last. The clock may have been read before a job
 * came. */
TEST(admission_ends_what_waits_in_time)
{
    enum { TIMEOUT_MS = 7 };
    sem_t hold;
    REQUIRE(jobs_begin(1));
    struct probe *holder = jobs_hold_engine(0, 1, 5, &hold), *timeout = jobs_prepare(1, 2, 5),
                 *late = jobs_prepare(2, 3, 5), *both = jobs_prepare(3, 4, 5);
    jobs.conf.queue_timeout_ms = TIMEOUT_MS;
    const uint64_t now = deq_now_ns(), in_time = now + TIMEOUT_MS * 1000000ull;
    timeout->job.arrived_ns = late->job.arrived_ns = both->job.arrived_ns = now;
    late->job.deadline_ns = now + 5;
    both->job.deadline_ns = now + 3600 * 1000000000ull;
    CHECK(jobs_submit(timeout) == SUBMIT_OK && jobs_submit(late) == SUBMIT_OK && jobs_submit(both) == SUBMIT_OK);
    CHECK(!expired_at(now - 1) && !expired_at(now) && !expired_at(now + 5));
    struct job *expired = expired_at(now + 6);
    CHECK(expired == &late->job && !expired->next);
    queue_finish(jobs.sched, expired, false);
    jobs_check_end(late, JOB_DEADLINE);
    CHECK(!expired_at(in_time));
    queue_finish(jobs.sched, expired_at(in_time + 1), false);
    jobs_check_end(timeout, JOB_QUEUE_TIMEOUT);
    jobs_check_end(both, JOB_QUEUE_TIMEOUT);
    CHECK_EQ(jobs.metrics.waiting, 0);
    CHECK_EQ(jobs.metrics.rejected[REJECT_DEADLINE], 1);
    CHECK_EQ(jobs.metrics.rejected[REJECT_QUEUE_TIMEOUT], 2);
    sem_post(&hold);
    jobs_check_end(holder, JOB_FINISHED);
    jobs_end();
}

static struct probe *prepare_rows(size_t i, uint64_t caller, uint32_t tokens, uint32_t rows)
{
    struct probe *p = jobs_prepare(i, caller, tokens);
    p->job.request.solve.window = rows;
    p->job.request.solve.prefill_window = 0;
    return p;
}

/* A job of that many rows whose on_admit the engine's thread stays in. */
static struct probe *hold_rows(size_t i, uint64_t caller, uint32_t rows, sem_t *hold)
{
    struct probe *p = prepare_rows(i, caller, NEVER, rows);
    sem_init(hold, 0, 0);
    p->hold = hold;
    CHECK(jobs_submit(p) == SUBMIT_OK && jobs_wait(&p->begun));
    return p;
}

/* 64 rows and 8 sequences are configured: a caller that runs something has no more of them, the eighth beside them is
 * for others. */
TEST(admission_keeps_an_eighth_for_others)
{
    enum { SEQUENCES = 8 };
    sem_t hold;
    REQUIRE(jobs_begin(SEQUENCES));
    struct probe *wide = prepare_rows(0, 1, NEVER, 56);
    CHECK(jobs_submit(wide) == SUBMIT_OK && jobs_wait(&wide->begun));
    struct probe *narrow = hold_rows(1, 1, 8, &hold), *more = prepare_rows(2, 1, 5, 8),
                 *other = prepare_rows(3, 2, 5, 8);
    CHECK(jobs_submit(more) == SUBMIT_OK && jobs_submit(other) == SUBMIT_OK);
    sem_post(&hold);
    jobs_check_end(other, JOB_FINISHED);
    CHECK_EQ(more->order, 0);
    CHECK(narrow->job.room.pages && narrow->job.room.pages <= wide->job.room.pages);
    sched_cancel(&narrow->job);
    jobs_check_end(narrow, JOB_CANCELED);
    jobs_check_end(more, JOB_FINISHED);
    sched_cancel(&wide->job);
    jobs_check_end(wide, JOB_CANCELED);

    for (size_t i = 0; i < SEQUENCES - 1; i++) {
        struct probe *p = prepare_rows(i, 1, NEVER, 1);
        CHECK(jobs_submit(p) == SUBMIT_OK && jobs_wait(&p->begun));
    }
    struct probe *last = hold_rows(SEQUENCES - 1, 1, 1, &hold);
    more = prepare_rows(SEQUENCES, 1, 5, 1);
    other = prepare_rows(SEQUENCES + 1, 2, 5, 1);
    CHECK(jobs_submit(more) == SUBMIT_OK && jobs_submit(other) == SUBMIT_OK);
    sem_post(&hold);
    jobs_check_end(other, JOB_FINISHED);
    CHECK_EQ(more->order, 0);
    sched_cancel(&last->job);
    jobs_check_end(more, JOB_FINISHED);
    jobs_end();
}

/* A wide job comes next and finds no room. Narrow ones of callers that run nothing begin before it, in an eighth of the
 * engine together; those of a caller that runs something wait behind it. */
TEST(admission_of_narrow_jobs_before_a_wide_one)
{
    sem_t hold;
    REQUIRE(jobs_begin(8));
    struct probe *runs = hold_rows(0, 1, 56, &hold), *wide = prepare_rows(1, 3, 5, 32),
                 *narrow = prepare_rows(2, 4, 20, 8), *next = prepare_rows(3, 5, 20, 8),
                 *own = prepare_rows(4, 1, 5, 8);
    CHECK(jobs_submit(wide) == SUBMIT_OK && jobs_submit(narrow) == SUBMIT_OK);
    CHECK(jobs_submit(next) == SUBMIT_OK && jobs_submit(own) == SUBMIT_OK);
    sem_post(&hold);
    jobs_check_end(narrow, JOB_FINISHED);
    jobs_check_end(next, JOB_FINISHED);
    CHECK(next->job.admitted_ns >= narrow->job.last_token_ns);
    CHECK(!wide->order && !own->order);
    sched_cancel(&runs->job);
    jobs_check_end(runs, JOB_CANCELED);
    jobs_check_end(wide, JOB_FINISHED);
    jobs_check_end(own, JOB_FINISHED);
    CHECK(narrow->order == 2 && next->order == 3 && wide->order == 4 && own->order == 5);
    jobs_end();
}

/* A job that waits for a place gets that of the one whose reader was slow for longest; also where it is its own
 * caller's, who may have no more places. */
TEST(admission_takes_a_slow_readers_place)
{
    enum { SECOND = 1000000000 };
    for (unsigned of_its_own = 0; of_its_own < 2; of_its_own++) {
        sem_t hold;
        REQUIRE(jobs_begin(3));
        struct probe *slow[2];
        for (size_t i = 0; i < 2; i++) {
            slow[i] = jobs_prepare(i, 1 + i, NEVER);
            slow[i]->pause_at = 1;
            CHECK(jobs_submit(slow[i]) == SUBMIT_OK && jobs_wait(&slow[i]->paused));
        }
        struct probe *holder = jobs_hold_engine(2, 3, NEVER, &hold), *waits = jobs_prepare(3, of_its_own ? 1 : 4, 5);
        for (size_t i = 0; i < 2; i++) { /* as if they had begun eight seconds ago */
            slow[i]->job.admitted_ns -= 8ull * SECOND;
            slow[i]->job.reader.total_ns = (i ? 5ull : 7ull) * SECOND;
        }
        CHECK(jobs_submit(waits) == SUBMIT_OK);
        sem_post(&hold);
        jobs_check_end(slow[0], JOB_GAVE_WAY);
        jobs_check_end(waits, JOB_FINISHED);
        CHECK_EQ(jobs.metrics.gave_way, 1);
        CHECK(!slow[1]->ends && !holder->ends);
        jobs_end();
        jobs_check_end(slow[1], JOB_DRAINED);
        jobs_check_end(holder, JOB_DRAINED);
    }
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
