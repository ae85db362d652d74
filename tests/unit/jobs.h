/* Jobs for the tests of the scheduler: a real engine on a small model, without sockets. Nothing waits for time to pass:
 * a job that holds the engine's thread in its on_admit makes what happens meanwhile, and the order of what follows,
 * certain. One scheduler at a time. */
#ifndef DEQ_TEST_JOBS_H
#define DEQ_TEST_JOBS_H

#include <semaphore.h>

#include "server/work/sched.h"
#include "tests/unit/test.h"

enum { JOBS_MAX = 130, HANG_S = 120, NEVER = 100000 /* tokens: a job of so many ends in another way */ };

struct probe {
    struct job job; /* first: callbacks get it */
    struct deq_allowance answer;
    sem_t *hold; /* its on_admit waits for this; may be NULL */
    sem_t begun, paused, ended;
    unsigned order; /* of its admission, from 1; 0: none */
    unsigned first; /* jobs whose first token came in earlier steps than its own; of a job that outlives that step */
    unsigned tokens, ends, steps;
    unsigned token_us; /* how long its on_event stays at a token, and with it the step */
    unsigned pause_at; /* it pauses itself at that token, and says so at the end of the step; 0: never */
    enum job_end end;
    bool message;
};

struct jobs {
    struct conf conf;
    struct deq_model *model;
    struct metrics metrics;
    struct sched *sched;
    struct probe probe[JOBS_MAX];
    unsigned admitted; /* so far; the engine's thread's, like: */
    unsigned started;  /* jobs that have a token */
    unsigned flushed;  /* and those of them that had it when a step last ended */
    uint32_t token;    /* every prompt is this one */
};
extern struct jobs jobs;

bool jobs_begin(uint32_t max_sequences);
void jobs_end(void);
/* jobs.probe[i] as a job of one prompt token that makes max_tokens, whatever comes. */
struct probe *jobs_prepare(size_t i, uint64_t caller, uint32_t max_tokens);
enum submit jobs_submit(struct probe *p);
/* A job that the engine's thread has begun, and in whose on_admit it stays until *hold is posted. */
struct probe *jobs_hold_engine(size_t i, uint64_t caller, uint32_t max_tokens, sem_t *hold);
/* False when nobody posts for HANG_S: a guard against a test that hangs, and no bound on anything. */
bool jobs_wait(sem_t *s);
/* Waits for the job's end: it came once, and was that one. */
void jobs_check_end(struct probe *p, enum job_end how);

#endif
