/* The scheduler: a bounded queue in front of the engine, and the one thread that runs it.
 *
 * HTTP threads reserve a place, submit jobs, and cancel or pause them (sched.c); the engine's thread (engine_thread.c)
 * admits jobs as sequences, rows and cache pages are free, makes steps while there is work, and calls back. The rules
 * are fair.h's. Next is the caller with the least service so far (prompt + max_tokens, by weight), and of its jobs the
 * one with the lowest priority number. A job that finds no room is waited for, but for narrow jobs of callers that run
 * nothing; an eighth of the engine's places is kept for those. While jobs wait, one whose reader is slow gives its
 * place back: its answer ends with an error.
 *
 * Among running jobs of several callers the rows of a step are shared too: a caller above its share has its own jobs
 * rotated, so that a flood of one caller does not make everybody's steps long. A throttled sequence is paused, which
 * changes no bit of it.
 *
 * Lock order: channel before scheduler; the engine's thread calls a job's functions without the scheduler's lock. */
#ifndef DEQ_SERVER_SCHED_H
#define DEQ_SERVER_SCHED_H

#include <stdatomic.h>

#include "server/auth.h"
#include "server/conf.h"
#include "server/metrics.h"
#include "server/wakeups.h"
#include "server/work/fair.h"
#include "server/work/flush.h"

enum job_end {
    JOB_FINISHED,
    JOB_CANCELED,
    JOB_QUEUE_TIMEOUT,
    JOB_DEADLINE,
    JOB_DRAINED,
    JOB_REFUSED,
    JOB_NO_MEMORY,
    JOB_GAVE_WAY,
    JOB_ENDED,
};
enum { JOB_END_COUNT = JOB_ENDED + 1 };

struct job {
    /* set by the submitter */
    struct deq_request request; /* event, ctx and prompt are the scheduler's */
    struct deq_tokens prompt;   /* owned */
    struct caller caller;
    int priority;
    bool elastic;               /* its tolerance, which it has, may open */
    const char *request_id; /* for whoever looks what runs; NULL: none */
    struct deq_allowance *answer; /* what its answer counts against; answer_bytes of it are reserved at admission */
    uint64_t answer_bytes;
    uint64_t arrived_ns, deadline_ns; /* 0: none */
    /* engine's thread: PROMPT, TOKEN and END of every choice */
    enum deq_verdict (*on_event)(struct job *j, const struct deq_event *e);
    void (*on_admit)(struct job *j); /* engine's thread; may be NULL. admission is filled */
    /* engine's thread, behind a step: what its TOKENs gave goes out, its reader is woken with w's; may be NULL */
    void (*on_step)(struct job *j, struct wakeups *w);
    /* engine's thread, exactly once, last; frees the job. JOB_FINISHED: every choice had its END. JOB_REFUSED and
     * JOB_NO_MEMORY: message says why. JOB_GAVE_WAY: other jobs waited, and its reader was slow. JOB_ENDED:
     * sched_end */
    void (*on_end)(struct job *j, enum job_end end, const char *message);
    /* set by the submitter, for sched_cancel and sched_pause before sched_submit */
    struct sched *sched;
    /* the scheduler's; readable in callbacks */
    struct deq_admission admission;
    struct job *next; /* of a list: at submission the others that come with it, later the scheduler's */
    struct account *account; /* the caller's, from submission on */
    struct fair_room room;   /* what it takes of the engine; its pages are known once it is admitted */
    struct fair_seat seat;   /* of a running job; it must take part once its deadline passed */
    struct fair_reader reader;
    struct flush_stream flush; /* what on_step was not called for yet */
    uint64_t admitted_ns, first_token_ns, last_token_ns; /* the last of choice 0 */
    _Atomic bool cancel, pause;
    _Atomic bool ended; /* the cancel is an operator's */
    struct job *next_listed, **listed; /* among all that wait or run, in order of arrival; with the scheduler's lock */
    uint64_t number;    /* among all jobs of the process, from 1 */
    struct {            /* what others may read of the fields below, as of the last step */
        _Atomic uint64_t admitted_ns, evaluations;
        _Atomic uint32_t tokens;
        _Atomic bool paused;
    } shown;
    bool paused;     /* in the engine: throttled, or its reader is slow */
    bool waited;     /* it was paused since its last token */
    bool gave_way;
    unsigned levels; /* at so many its tolerance is as open as it may be */
    bool overtook;   /* began before one that came next and found no room */
    uint32_t open_choices, tokens, first_choice_tokens;
};

enum submit { SUBMIT_OK, SUBMIT_QUEUE_FULL, SUBMIT_TOKENS_FULL, SUBMIT_KEY_LIMIT, SUBMIT_DRAINING, SUBMIT_COUNT };

/* A place in the queue, taken before the prompt is read: a request that is refused costs nothing. */
struct reservation {
    struct sched *sched; /* NULL: none */
    uint64_t tokens;
    struct account *account;
};

struct sched;

/* What the configuration says of the engine. */
struct deq_engine_opts sched_engine_opts(const struct conf *c);
enum deq_rc sched_new(const struct conf *c, const struct deq_model *model, struct metrics *m, struct sched **ret,
                      struct deq_err *err);
/* tokens: an estimate from the body's size. */
enum submit sched_reserve(struct sched *s, const struct caller *caller, uint64_t tokens, struct reservation *ret);
void sched_release(struct reservation *r);
/* A list of jobs (next), of one caller: all or none. Ends the reservation. On SUBMIT_OK they are the scheduler's;
 * otherwise they, and the list, stay the caller's. */
enum submit sched_submit(struct sched *s, struct reservation *r, struct job *jobs);
/* These take note; the engine's thread acts before its next step. Any thread, also with a channel's lock. */
void sched_cancel(struct job *j);
void sched_pause(struct job *j, bool pause);
/* A job that waits or runs, as others may see it. */
struct sched_job {
    uint64_t number, caller;
    char request_id[132];
    enum { SCHED_WAITING, SCHED_RUNNING, SCHED_PAUSED } state;
    uint64_t age_ns, queue_ns; /* since it came; of that, until it was admitted or until now */
    uint32_t choices, max_tokens, tokens; /* tokens, evaluations: so far, of its text */
    uint64_t prompt_tokens, evaluations;
    float tol;
};
/* Of the text that a job begins with: its saved state's and its prompt's. */
size_t job_prompt_tokens(const struct job *j);
/* Those there are, at most `max` of them into out, oldest first. Returns how many there are. */
size_t sched_list(struct sched *s, struct sched_job *out, size_t max);
/* The job of that number ends as JOB_ENDED, before the engine's next step. False: there is none. */
bool sched_end(struct sched *s, uint64_t number);
/* Limits of one request: positions of a sequence; rows of all its choices' windows, without the eighth (fair.h). */
uint32_t sched_max_positions(const struct sched *s);
uint32_t sched_max_rows(const struct sched *s);
/* The engine made a step, or has nothing to do. */
bool sched_alive(const struct sched *s, uint64_t stall_ms);
uint64_t sched_last_step_ns(const struct sched *s);
size_t sched_pending(struct sched *s); /* waiting and running */
/* Estimate of when the queue has room, ms, from the measured rate. */
unsigned sched_retry_ms(struct sched *s);
void sched_drain(struct sched *s);   /* new jobs are refused from now on */
void sched_end_all(struct sched *s); /* every job ends now, as JOB_DRAINED */
void sched_stop(struct sched *s);    /* ends all, then the thread, behind its step; not from that thread */
void sched_save_cache(struct sched *s); /* the prefix cache, for the next run; behind sched_stop */
void sched_retire(struct sched *s);  /* another takes its place: its prefix cache is saved no more */
void sched_free(struct sched *s);    /* the same where that was not done, and gives its memory back */

#endif
