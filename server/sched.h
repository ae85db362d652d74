/* The scheduler: a bounded queue in front of the engine, and the one thread that runs it.
 *
 * HTTP threads submit jobs and cancel them; the engine thread admits them in order of arrival as sequences, rows and cache pages are free, makes
 * steps while there is work, and calls back. Lock order: channel before scheduler; the engine thread calls a job's functions without
 * the scheduler's lock. */
#ifndef DEQ_SERVER_SCHED_H
#define DEQ_SERVER_SCHED_H

#include <stdatomic.h>

#include "server/conf.h"
#include "server/metrics.h"

enum job_end { JOB_FINISHED, JOB_CANCELED, JOB_QUEUE_TIMEOUT, JOB_DRAINED, JOB_REFUSED };

struct job {
    /* set by the submitter */
    struct deq_request request;  /* event and ctx are the scheduler's */
    struct deq_tokens prompt;    /* owned */
    uint64_t arrived_ns;
    enum deq_verdict (*on_event)(struct job *j, const struct deq_event *e); /* engine thread; PROMPT and TOKEN */
    void (*on_admit)(struct job *j);                                        /* engine thread; may be NULL */
    /* engine thread, exactly once, last; frees the job. finish and message: of JOB_FINISHED; JOB_REFUSED: message says why */
    void (*on_end)(struct job *j, enum job_end end, enum deq_finish finish, const char *message);
    /* the scheduler's */
    struct job *next;
    struct sched *sched;
    uint64_t id, admitted_ns, last_token_ns;
    _Atomic bool cancel;
    uint32_t tokens;
};

enum submit { SUBMIT_OK, SUBMIT_QUEUE_FULL, SUBMIT_TOKENS_FULL, SUBMIT_DRAINING };

struct sched;

enum deq_rc sched_new(const struct conf *c, const struct deq_model *model, struct metrics *m, struct sched **ret, struct deq_err *err);
/* On SUBMIT_OK the job is the scheduler's; otherwise it stays the caller's. */
enum submit sched_submit(struct sched *s, struct job *j);
/* Takes note; the engine thread ends the job within a step. Any thread, also with a channel's lock. */
void sched_cancel(struct job *j);
uint32_t sched_max_positions(const struct sched *s);
/* The engine made a step, or has nothing to do. */
bool sched_alive(const struct sched *s, uint64_t stall_ms);
size_t sched_pending(const struct sched *s); /* waiting and running */
/* Estimate of when the queue has room, ms, from the measured rate. */
unsigned sched_retry_ms(const struct sched *s);
void sched_drain(struct sched *s);  /* new jobs are refused from now on */
void sched_end_all(struct sched *s); /* every job ends now, as JOB_DRAINED */
void sched_free(struct sched *s);   /* ends all, stops the thread */

#endif
