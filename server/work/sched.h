/* The scheduler: a bounded queue in front of the engine, and the one thread that runs it.
 *
 * HTTP threads reserve a place, submit jobs, and cancel or pause them; the engine thread admits jobs as sequences, rows and cache pages are free, makes
 * steps while there is work, and calls back. Who comes next is fair.h's: the caller who had the least of the engine so far (prompt + max_tokens, by
 * weight), and of his jobs the one with the lowest priority number. The one at the head waits until it fits; nobody overtakes it. An eighth of the engine's
 * places is kept for callers who run nothing, and while somebody waits a job whose reader is slow gives its place back: its answer ends with an error.
 *
 * Among running jobs of several callers the rows of a step are shared too: whoever has more of them than the one with the least takes turns with
 * himself, so that a flood of one caller does not make everybody's steps long. A sequence that waits a turn is paused, which changes no bit of it.
 *
 * Lock order: channel before scheduler; the engine thread calls a job's functions without the scheduler's lock. */
#ifndef DEQ_SERVER_SCHED_H
#define DEQ_SERVER_SCHED_H

#include <stdatomic.h>

#include "server/auth.h"
#include "server/conf.h"
#include "server/work/fair.h"
#include "server/metrics.h"

enum job_end { JOB_FINISHED, JOB_CANCELED, JOB_QUEUE_TIMEOUT, JOB_DEADLINE, JOB_DRAINED, JOB_REFUSED, JOB_NO_MEMORY, JOB_GAVE_WAY };

struct job {
    /* set by the submitter */
    struct deq_request request; /* event and ctx are the scheduler's */
    struct deq_tokens prompt;   /* owned */
    struct caller caller;
    int priority;
    struct deq_allowance *answer; /* what its answer counts against; so much of that is reserved when it is admitted, and not before */
    uint64_t answer_bytes;
    uint64_t arrived_ns, deadline_ns; /* 0: none */
    /* engine thread: PROMPT, TOKEN and END of every choice */
    enum deq_verdict (*on_event)(struct job *j, const struct deq_event *e);
    void (*on_admit)(struct job *j); /* engine thread; may be NULL. admission is filled */
    void (*on_step)(struct job *j);  /* engine thread, after a step: what its TOKENs gave goes out; may be NULL */
    /* engine thread, exactly once, last; frees the job. JOB_FINISHED: every choice had its END. JOB_REFUSED and JOB_NO_MEMORY: message says why. JOB_GAVE_WAY: others waited, and its reader was slow */
    void (*on_end)(struct job *j, enum job_end end, const char *message);
    /* the scheduler's */
    struct deq_admission admission;
    struct job *next;
    struct sched *sched;
    struct account *account; /* the caller's, from the first place on */
    uint64_t admitted_ns, first_token_ns, last_token_ns; /* the last of choice 0 */
    _Atomic bool cancel, pause;
    bool paused, expired;
    bool gave_way;
    bool overtook;              /* began before one that came next and found no room */
    uint64_t pages;             /* that its sequences reserved */
    struct fair_reader reader;
    bool held;         /* waits its turn in this step */
    uint64_t last_turn; /* the step it last took part in */
    bool touched; /* had a TOKEN that was not handed over */
    uint64_t handed_ns; /* when that was last done */
    uint32_t open_choices, tokens, first_choice_tokens;
};

enum submit { SUBMIT_OK, SUBMIT_QUEUE_FULL, SUBMIT_TOKENS_FULL, SUBMIT_KEY_LIMIT, SUBMIT_DRAINING };

/* A place in the queue, taken before the prompt is read: whoever is refused costs nothing. */
struct place {
    struct sched *sched; /* NULL: none */
    uint64_t tokens;
    struct account *account;
};

struct sched;

/* What the configuration says of the engine. */
struct deq_engine_opts sched_engine_opts(const struct conf *c);
enum deq_rc sched_new(const struct conf *c, const struct deq_model *model, struct metrics *m, struct sched **ret, struct deq_err *err);
/* tokens: an estimate from the body's size. */
enum submit sched_reserve(struct sched *s, const struct caller *caller, uint64_t tokens, struct place *ret);
void sched_release(struct place *p);
/* All or none. Gives the place back. On SUBMIT_OK the jobs are the scheduler's; otherwise they stay the caller's. */
enum submit sched_submit(struct sched *s, struct place *p, struct job *const *jobs, size_t n);
/* These take note; the engine thread acts before its next step. Any thread, also with a channel's lock. */
void sched_cancel(struct job *j);
void sched_pause(struct job *j, bool pause);
uint32_t sched_max_positions(const struct sched *s);
/* The engine made a step, or has nothing to do. */
bool sched_alive(const struct sched *s, uint64_t stall_ms);
uint64_t sched_last_step_ns(const struct sched *s);
size_t sched_pending(struct sched *s); /* waiting and running */
/* Estimate of when the queue has room, ms, from the measured rate. */
unsigned sched_retry_ms(struct sched *s);
void sched_drain(struct sched *s);   /* new jobs are refused from now on */
void sched_end_all(struct sched *s); /* every job ends now, as JOB_DRAINED */
void sched_free(struct sched *s);    /* ends all, stops the thread; not from that thread */

#endif
