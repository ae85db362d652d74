#include "tests/unit/jobs.h"

#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"

struct jobs jobs;

bool jobs_wait(sem_t *s)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += HANG_S;
    return sem_timedwait(s, &until) == 0;
}

static void on_admit(struct job *j)
{
    struct probe *p = (struct probe *)j;
    p->order = ++jobs.admitted;
    sem_post(&p->begun);
    if (p->hold)
        CHECK(jobs_wait(p->hold));
}

static enum deq_verdict on_event(struct job *j, const struct deq_event *e)
{
    struct probe *p = (struct probe *)j;
    if (e->kind != DEQ_EVENT_TOKEN)
        return DEQ_CONTINUE;
    if (!p->tokens++) {
        p->first = jobs.flushed;
        jobs.started++;
    }
    if (p->tokens == p->pause_at)
        sched_pause(j, true);
    usleep(p->token_us);
    return DEQ_CONTINUE;
}

static void on_step(struct job *j, struct wakeups *w)
{
    (void)w;
    struct probe *p = (struct probe *)j;
    p->steps++;
    jobs.flushed = jobs.started;
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

bool jobs_begin(uint32_t max_sequences)
{
    struct deq_err err;
    jobs = (struct jobs){.token = 1};
    CHECK(deq_opt_defaults(&conf_table, &jobs.conf, &err) == DEQ_OK);
    jobs.conf.threads = 1;
    jobs.conf.max_sequences = max_sequences;
    jobs.conf.max_positions = NEVER + 100;
    jobs.conf.queue_timeout_ms = HANG_S * 1000;
    jobs.conf.stream_flush_ms = 0;
    metrics_init(&jobs.metrics);
    const bool ok = !deq_model_load("tests/golden/tiny", NULL, &jobs.model, &err) &&
                    !sched_new(&jobs.conf, jobs.model, &jobs.metrics, &jobs.sched, &err);
    CHECK_MSG(ok, "%s", err.text);
    return ok;
}

void jobs_end(void)
{
    sched_free(jobs.sched);
    deq_model_free(jobs.model);
}

struct probe *jobs_prepare(size_t i, uint64_t caller, uint32_t max_tokens)
{
    struct probe *p = &jobs.probe[i];
    *p = (struct probe){.job = {.request = deq_request_defaults(jobs.model),
                                .prompt = {.ids = &jobs.token, .n = 1},
                                .caller = {.id = caller, .weight = 1},
                                .arrived_ns = deq_now_ns(),
                                .answer = &p->answer,
                                .on_admit = on_admit,
                                .on_event = on_event,
                                .on_step = on_step,
                                .on_end = on_end,
                                .sched = jobs.sched}};
    p->job.request.max_tokens = max_tokens;
    p->job.request.ignore_eos = true;
    sem_init(&p->begun, 0, 0);
    sem_init(&p->paused, 0, 0);
    sem_init(&p->ended, 0, 0);
    return p;
}

enum submit jobs_submit(struct probe *p)
{
    struct reservation place;
    const enum submit verdict = sched_reserve(jobs.sched, &p->job.caller, 1, &place);
    return verdict == SUBMIT_OK ? sched_submit(jobs.sched, &place, &p->job) : verdict;
}

struct probe *jobs_hold_engine(size_t i, uint64_t caller, uint32_t max_tokens, sem_t *hold)
{
    struct probe *p = jobs_prepare(i, caller, max_tokens);
    sem_init(hold, 0, 0);
    p->hold = hold;
    CHECK(jobs_submit(p) == SUBMIT_OK && jobs_wait(&p->begun));
    return p;
}

void jobs_check_end(struct probe *p, enum job_end how)
{
    CHECK(jobs_wait(&p->ended));
    CHECK_EQ(p->ends, 1);
    CHECK_EQ(p->end, how);
}
