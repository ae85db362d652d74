/* server/work/engine_thread.c: what the engine's thread does with jobs that run, their signals and their ends. */
#include <unistd.h>

#include "core/base/clock.h"
#include "server/work/sched_impl.h"
#include "tests/unit/jobs.h"

static uint64_t observed(const struct histogram *h)
{
    uint64_t n = 0;
    for (size_t i = 0; i <= HIST_BUCKETS_MAX; i++)
        n += h->count[i];
    return n;
}

TEST(engine_thread_runs_jobs_to_their_end)
{
    struct reservation place;
    REQUIRE(jobs_begin(8));
    for (size_t i = 0; i < 3; i++) {
        jobs_prepare(i, i, 10 + (uint32_t)i);
        jobs.probe[i].job.request.n = (uint32_t)i;
        jobs.probe[i].job.next = i < 2 ? &jobs.probe[i + 1].job : NULL;
    }
    CHECK(sched_reserve(jobs.sched, &jobs.probe[0].job.caller, 3, &place) == SUBMIT_OK);
    CHECK(sched_submit(jobs.sched, &place, &jobs.probe[0].job) == SUBMIT_OK && !place.sched);
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
    const struct metrics *m = &jobs.metrics;
    CHECK(observed(&m->e2e_s) == 3 && observed(&m->ttft_s) == 3 && observed(&m->decode_s) == 3);
    CHECK(observed(&m->tpot_s) == 3 && observed(&m->itl_s) == 9 + 10 + 11 && observed(&m->queue_s) == 3);
    CHECK_EQ(jobs.metrics.generation_length.sum_micro, 1000000 * (10 + 11 + 2 * 12));
    /* one token has no time between tokens, and none no first one */
    CHECK(jobs_submit(jobs_prepare(3, 1, 1)) == SUBMIT_OK);
    jobs_check_end(&jobs.probe[3], JOB_FINISHED);
    CHECK(observed(&m->e2e_s) == 4 && observed(&m->decode_s) == 4 && observed(&m->tpot_s) == 3);
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
    sched_pause(&slow->job, true);
    sched_pause(&slow->job, false);
    jobs_check_end(slow, JOB_FINISHED);
    CHECK_EQ(slow->tokens, 300);
    CHECK_EQ(jobs.metrics.paused, 1); /* it was paused once */
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

static double sum_s(const struct histogram *h)
{
    return 1e-6 * (double)h->sum_micro;
}

/* What a job's times add up to, against what they are times of: its wait, its tokens, its steps. */
TEST(engine_thread_measures)
{
    enum { TOKENS = 3, LONG = 300 };
    const double rounded = 2e-5; /* sums are of whole microseconds, and clocks are read one after the other */
    const double cpu_s = deq_process_cpu_s();
    sem_t hold;
    REQUIRE(jobs_begin(1));
    const struct metrics *m = &jobs.metrics;
    struct probe *p = jobs_prepare(0, 1, TOKENS), *again = jobs_prepare(1, 1, LONG);
    p->job.request.solve.window = again->job.request.solve.window = 1; /* a token a step */
    p->token_us = 3000;
    CHECK(jobs_submit(p) == SUBMIT_OK);
    jobs_check_end(p, JOB_FINISHED);
    struct probe *holder = jobs_hold_engine(2, 1, 1, &hold); /* all of it is counted */
    const struct job *j = &p->job;
    const double decode = 1e-9 * (double)(j->last_token_ns - j->first_token_ns), first = jobs.sched->service_s;
    CHECK(decode >= 0.006 && fabs(sum_s(&m->itl_s) - decode) < rounded);
    CHECK(fabs(sum_s(&m->tpot_s) * (TOKENS - 1) - decode) < rounded);
    CHECK(fabs(sum_s(&m->ttft_s) - 1e-9 * (double)(j->first_token_ns - j->arrived_ns)) < rounded);
    CHECK(fabs(sum_s(&m->prefill_s) - 1e-9 * (double)(j->first_token_ns - j->admitted_ns)) < rounded);
    CHECK(sum_s(&m->decode_s) >= decode && sum_s(&m->decode_s) < sum_s(&m->e2e_s));
    CHECK(sum_s(&m->e2e_s) < 1e-9 * (double)(deq_now_ns() - j->arrived_ns));
    CHECK(fabs(sum_s(&m->e2e_s) - 1e-9 * (double)(j->admitted_ns - j->arrived_ns) - first) < rounded);
    CHECK(sum_s(&m->queue_s) < 2e-9 * (double)(deq_now_ns() - j->arrived_ns)); /* of both */
    CHECK(observed(&m->iterations) == TOKENS && observed(&m->residual) == TOKENS);
    CHECK_EQ(m->start_tokens[j->request.solve.warm_start], TOKENS);
    CHECK_EQ(m->iterations.sum_micro, 1000000 * m->start_evaluations[j->request.solve.warm_start]);
    CHECK_EQ(m->rows.sum_micro, 1000000 * m->engine.rows);
    CHECK_EQ(m->step_tokens.sum_micro, 1000000 * m->engine.positions);
    CHECK(observed(&m->rows) == m->engine.steps && observed(&m->step_s) == m->engine.steps);
    sem_post(&hold);
    jobs_check_end(holder, JOB_FINISHED);
    const double before = sum_s(&m->e2e_s) - sum_s(&m->queue_s), second = jobs.sched->service_s;
    CHECK(fabs(second - (0.9 * first + 0.1 * (before - first))) < rounded);
    CHECK(jobs_submit(again) == SUBMIT_OK);
    jobs_check_end(again, JOB_FINISHED);
    CHECK(1e-9 * (double)m->outside_ns < deq_process_cpu_s() - cpu_s);
    jobs_end();
}

/* The loop of elastic depth hears of each gap between tokens that the engine made, and of none that a reader did. */
TEST(engine_thread_tells_of_gaps)
{
    enum { TOKENS = 40 };
    sem_t hold;
    REQUIRE(jobs_begin(2));
    jobs.sched->elastic.objective_ns = HANG_S * 1000000000ull; /* no period ends */
    jobs.sched->elastic.began_ns = deq_now_ns();
    struct probe *p = jobs_prepare(0, 1, TOKENS);
    p->job.request.solve.window = 1;
    p->pause_at = 20;
    CHECK(jobs_submit(p) == SUBMIT_OK && jobs_wait(&p->paused));
    struct probe *other = jobs_prepare(1, 2, 1);
    CHECK(jobs_submit(other) == SUBMIT_OK);
    jobs_check_end(other, JOB_FINISHED); /* its steps were without the paused one */
    sched_pause(&p->job, false);
    jobs_check_end(p, JOB_FINISHED);
    struct probe *holder = jobs_hold_engine(2, 1, 1, &hold);
    const struct elastic *e = &jobs.sched->elastic;
    CHECK(e->gaps == TOKENS - 2 && !e->late && !e->near);
    sem_post(&hold);
    jobs_check_end(holder, JOB_FINISHED);
    jobs_end();
}

/* With nothing to do it shows that it lives five times a second, and rests in between, whatever waits in the engine. */
TEST(engine_thread_rests)
{
    enum { LOOKS = 50, MS = 1000000 };
    REQUIRE(jobs_begin(2));
    for (unsigned paused = 0; paused < 2; paused++) {
        struct probe *p = &jobs.probe[0];
        if (paused) {
            p = jobs_prepare(0, 1, NEVER);
            p->pause_at = 1;
            CHECK(jobs_submit(p) == SUBMIT_OK && jobs_wait(&p->paused));
        }
        uint64_t last = sched_last_step_ns(jobs.sched), longest = 0;
        for (int look = 0; look < LOOKS && longest < 200 * MS; look++) { /* it may have something to do at first */
            uint64_t shown = last;
            for (int k = 0; k < HANG_S * 1000 && shown == last; k++) {
                usleep(1000);
                shown = sched_last_step_ns(jobs.sched);
            }
            longest = DEQ_MAX(longest, shown - last);
            last = shown;
        }
        CHECK_MSG(longest >= 200 * MS, "%u: %.3f s", paused, 1e-9 * (double)longest);
    }
    sched_cancel(&jobs.probe[0].job);
    jobs_check_end(&jobs.probe[0], JOB_CANCELED);
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
