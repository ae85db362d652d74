/* What other threads call of the scheduler: the queue's door, its limits, its beginning and end. */
#include "core/base/clock.h"
#include "server/work/sched_impl.h"
#include "tests/unit/jobs.h"

/* 8 places in the queue, one of them for callers that have nothing waiting. */
TEST(sched_keeps_places_in_the_queue)
{
    const struct caller flood = {.id = 1, .weight = 1}, other = {.id = 2, .weight = 1};
    struct reservation place[8], none;
    sem_t hold;
    REQUIRE(jobs_begin(1));
    jobs.conf.queue_requests = 8;
    CHECK_EQ(sched_retry_ms(jobs.sched), 100); /* the least: nothing is known yet */
    struct probe *first = jobs_hold_engine(0, 3, 5, &hold);
    for (size_t i = 0; i < 7; i++)
        CHECK(sched_reserve(jobs.sched, &flood, 1, &place[i]) == SUBMIT_OK);
    CHECK(sched_reserve(jobs.sched, &flood, 1, &none) == SUBMIT_QUEUE_FULL);
    CHECK(sched_reserve(jobs.sched, &other, 1, &place[7]) == SUBMIT_OK);
    CHECK(sched_reserve(jobs.sched, &other, 1, &none) == SUBMIT_QUEUE_FULL);
    sched_release(&place[0]);
    sched_release(&place[0]); /* given back once */
    CHECK(sched_reserve(jobs.sched, &flood, 1, &none) == SUBMIT_QUEUE_FULL);
    sched_release(&place[1]);
    CHECK(sched_reserve(jobs.sched, &flood, 1, &place[0]) == SUBMIT_OK);
    CHECK_EQ(jobs.metrics.rejected[REJECT_QUEUE_FULL], 3);
    sched_release(&place[0]);
    for (size_t i = 2; i < 8; i++)
        sched_release(&place[i]);
    sem_post(&hold);
    jobs_check_end(first, JOB_FINISHED);
    jobs_end();
}

TEST(sched_limits_waiting_tokens_and_a_keys_requests)
{
    const struct caller known = {.id = 1, .weight = 1, .known = true}, unknown = {.id = 2, .weight = 1};
    struct reservation place[3], none;
    REQUIRE(jobs_begin(4));
    jobs.conf.queue_tokens = 100;
    jobs.conf.max_requests_per_key = 2;
    CHECK(sched_reserve(jobs.sched, &unknown, 1000, &place[0]) == SUBMIT_OK); /* nothing waits: no size is impossible */
    CHECK(sched_reserve(jobs.sched, &unknown, 1, &none) == SUBMIT_TOKENS_FULL);
    sched_release(&place[0]);
    CHECK(sched_reserve(jobs.sched, &known, 50, &place[0]) == SUBMIT_OK);
    CHECK(sched_reserve(jobs.sched, &known, 50, &place[1]) == SUBMIT_OK);
    CHECK(sched_reserve(jobs.sched, &known, 0, &none) == SUBMIT_KEY_LIMIT);
    CHECK(sched_reserve(jobs.sched, &unknown, 0, &place[2]) == SUBMIT_OK);
    CHECK(sched_reserve(jobs.sched, &unknown, 1, &none) == SUBMIT_TOKENS_FULL);
    for (size_t i = 0; i < 3; i++)
        sched_release(&place[i]);
    CHECK_EQ(jobs.metrics.rejected[REJECT_TOKENS_FULL], 2);
    CHECK_EQ(jobs.metrics.rejected[REJECT_KEY_LIMIT], 1);
    for (size_t i = 0; i < 3; i++) /* who has no key has no limit of his own */
        CHECK(sched_reserve(jobs.sched, &unknown, 0, &place[i]) == SUBMIT_OK);
    for (size_t i = 0; i < 3; i++)
        sched_release(&place[i]);
    jobs.conf.max_requests_per_key = 0; /* nor has anybody */
    for (size_t i = 0; i < 3; i++)
        CHECK(sched_reserve(jobs.sched, &known, 0, &place[i]) == SUBMIT_OK);
    for (size_t i = 0; i < 3; i++)
        sched_release(&place[i]);
    sched_drain(jobs.sched);
    CHECK(sched_reserve(jobs.sched, &unknown, 1, &none) == SUBMIT_DRAINING);
    CHECK_EQ(jobs.metrics.rejected[REJECT_DRAINING], 1);
    jobs_end();
}

/* What waits is counted by its own tokens, not by what was reserved for it. */
TEST(sched_counts_the_tokens_that_wait)
{
    static uint32_t ids[60];
    sem_t hold;
    REQUIRE(jobs_begin(1));
    jobs.conf.queue_tokens = 100;
    struct probe *holder = jobs_hold_engine(0, 1, 5, &hold);
    for (size_t i = 1; i <= 3; i++) {
        jobs_prepare(i, 1, 5)->job.prompt = (struct deq_tokens){.ids = ids, .n = i == 1 ? 60 : i == 2 ? 40 : 1};
        CHECK(jobs_submit(&jobs.probe[i]) == (i < 3 ? SUBMIT_OK : SUBMIT_TOKENS_FULL));
    }
    sem_post(&hold);
    jobs_check_end(holder, JOB_FINISHED);
    jobs_check_end(&jobs.probe[1], JOB_FINISHED);
    jobs_check_end(&jobs.probe[2], JOB_FINISHED);
    CHECK_EQ(jobs.metrics.prompt_tokens, 1 + 60 + 40);
    jobs_end();
}

static unsigned retry_ms_after(double service_s)
{
    pthread_mutex_lock(&jobs.sched->lock);
    jobs.sched->service_s = service_s;
    pthread_mutex_unlock(&jobs.sched->lock);
    return sched_retry_ms(jobs.sched);
}

/* Whoever is refused comes back when the queue has emptied, at so many sequences per service time; within bounds. */
TEST(sched_tells_when_to_come_again)
{
    static const struct {
        double service_s;
        unsigned alone_ms, behind_one_ms;
    } t[] = {{0, 100, 100}, {0.4, 200, 400}, {3, 1500, 3000}, {1000, 60000, 60000}};
    sem_t hold;
    REQUIRE(jobs_begin(2));
    struct probe *one = jobs_hold_engine(0, 1, 2, &hold), *two = jobs_prepare(1, 1, 2);
    for (size_t i = 0; i < DEQ_COUNT(t); i++)
        CHECK_EQ(retry_ms_after(t[i].service_s), t[i].alone_ms);
    CHECK(jobs_submit(two) == SUBMIT_OK); /* it waits: the engine's thread is held */
    for (size_t i = 0; i < DEQ_COUNT(t); i++)
        CHECK_EQ(retry_ms_after(t[i].service_s), t[i].behind_one_ms);
    sem_post(&hold);
    jobs_check_end(one, JOB_FINISHED);
    jobs_check_end(two, JOB_FINISHED);
    jobs_end();
}

/* It lives as long as its engine's thread shows it in time; whoever holds that thread stops it. */
TEST(sched_is_alive)
{
    sem_t hold;
    REQUIRE(jobs_begin(1));
    CHECK_EQ(jobs.sched->elastic.objective_ns, jobs.conf.depth_objective_ms * 1000000ull);
    struct probe *p = jobs_hold_engine(0, 1, 5, &hold);
    const uint64_t ago = deq_now_ns() - 5000000000ull;
    atomic_store(&jobs.sched->heartbeat_ns, ago);
    CHECK_EQ(sched_last_step_ns(jobs.sched), ago);
    CHECK(!sched_alive(jobs.sched, 4900) && sched_alive(jobs.sched, HANG_S * 1000));
    sem_post(&hold);
    jobs_check_end(p, JOB_FINISHED);
    jobs_end();
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
    REQUIRE(jobs_begin(8));
    CHECK_EQ(sched_max_rows(jobs.sched), 64);
    CHECK_EQ(sched_max_positions(jobs.sched), NEVER + 100);
    struct probe *wide = jobs_prepare(0, 1, 5), *wider = jobs_prepare(1, 1, 5);
    wide->job.request.n = 4;
    wide->job.request.solve.window = 16;
    wider->job.request.n = 5; /* the parser refuses it; the engine would too */
    wider->job.request.solve.window = 16;
    CHECK(jobs_submit(wide) == SUBMIT_OK && jobs_submit(wider) == SUBMIT_OK);
    jobs_check_end(wide, JOB_FINISHED);
    jobs_check_end(wider, JOB_REFUSED);
    CHECK(wider->message && !wider->order);
    jobs_end();
}

/* A reload: another scheduler takes over, and the first goes with its engine. No counter runs backwards, no gauge
 * stays. */
TEST(sched_counters_outlive_their_engine)
{
    struct sched *second;
    struct deq_err err;
    REQUIRE(jobs_begin(2));
    CHECK(jobs_submit(jobs_prepare(0, 1, 50)) == SUBMIT_OK);
    jobs_check_end(&jobs.probe[0], JOB_FINISHED);
    REQUIRE(sched_new(&jobs.conf, jobs.model, &jobs.metrics, &second, &err) == DEQ_OK);
    CHECK_EQ(jobs.metrics.engine.max_sequences, 2 * 2);
    sched_free(jobs.sched);
    jobs.sched = second;
    const uint64_t steps = jobs.metrics.engine.steps, positions = jobs.metrics.engine.positions;
    CHECK(steps > 0 && positions >= 50);
    CHECK_EQ(jobs.metrics.engine.max_sequences, 2);
    CHECK(jobs_submit(jobs_prepare(1, 1, 50)) == SUBMIT_OK);
    jobs_check_end(&jobs.probe[1], JOB_FINISHED);
    sched_free(jobs.sched);
    jobs.sched = NULL;
    CHECK_EQ(jobs.metrics.engine.positions, 2 * positions);
    CHECK(jobs.metrics.engine.steps > steps);
    CHECK(!jobs.metrics.engine.max_sequences && !jobs.metrics.engine.pages && !jobs.metrics.engine.memory_bytes);
    jobs_end();
}

/* Freeing it ends what is there. */
TEST(sched_free_ends_everything)
{
    sem_t hold;
    REQUIRE(jobs_begin(1));
    struct probe *runs = jobs_hold_engine(0, 1, NEVER, &hold), *waits = jobs_prepare(1, 2, 5);
    CHECK(jobs_submit(waits) == SUBMIT_OK);
    sem_post(&hold);
    jobs_end();
    jobs_check_end(runs, JOB_DRAINED);
    jobs_check_end(waits, JOB_DRAINED);
}

TEST(sched_refuses_an_engine_that_cannot_be)
{
    struct deq_err err;
    struct sched *none = NULL;
    REQUIRE(jobs_begin(1));
    jobs.conf.max_sequences = 70000;
    CHECK(sched_new(&jobs.conf, jobs.model, &jobs.metrics, &none, &err) == DEQ_EINVAL && !none);
    CHECK_EQ(jobs.metrics.engine.max_sequences, 1);
    jobs_end();
}

/* What waits and runs is listed, oldest first, and each ends by its number: in the queue, in the engine; once. */
TEST(sched_lists_and_ends)
{
    struct sched_job seen[4];
    sem_t hold;
    REQUIRE(jobs_begin(1));
    struct probe *runs = jobs_hold_engine(0, 7, NEVER, &hold), *waits = jobs_prepare(1, 7, 5);
    waits->job.request_id = "second";
    CHECK(jobs_submit(waits) == SUBMIT_OK);
    seen[1].number = 0;
    CHECK_EQ(sched_list(jobs.sched, seen, 1), 2u);
    CHECK(seen[0].number && !seen[1].number); /* no more than there is room for */
    const uint64_t before = deq_now_ns();
    CHECK_EQ(sched_list(jobs.sched, seen, DEQ_COUNT(seen)), 2u);
    CHECK(seen[0].state == SCHED_RUNNING && seen[1].state == SCHED_WAITING);
    CHECK(seen[0].number < seen[1].number && seen[0].caller == 7 && seen[0].choices == 1);
    CHECK(seen[0].prompt_tokens == 1 && seen[0].max_tokens == NEVER && seen[0].tokens == 0);
    CHECK(seen[0].queue_ns <= seen[0].age_ns && seen[1].queue_ns == seen[1].age_ns);
    for (size_t i = 0; i < 2; i++) {
        const uint64_t arrived = jobs.probe[i].job.arrived_ns;
        CHECK(seen[i].age_ns >= before - arrived && seen[i].age_ns <= deq_now_ns() - arrived);
    }
    CHECK_EQ((const char *)seen[0].request_id, "");
    CHECK_EQ((const char *)seen[1].request_id, "second");
    CHECK(!sched_end(jobs.sched, 0) && !sched_end(jobs.sched, seen[1].number + 1));
    CHECK(sched_end(jobs.sched, seen[1].number) && sched_end(jobs.sched, seen[0].number));
    sem_post(&hold);
    jobs_check_end(waits, JOB_ENDED);
    jobs_check_end(runs, JOB_ENDED);
    CHECK_EQ(sched_list(jobs.sched, seen, DEQ_COUNT(seen)), 0u);
    CHECK(!sched_end(jobs.sched, seen[0].number));
    CHECK(jobs.metrics.ended == 2 && jobs.metrics.cancelled[CANCEL_QUEUED] == 0);
    jobs_end();
}
