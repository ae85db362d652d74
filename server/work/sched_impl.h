/* The state that sched.c (what any thread calls) and the engine's thread (engine_thread.c, admission.c, depth.c) share.
 * sched.c starts the thread and calls nothing else of theirs; they call nothing of sched.c. */
#ifndef DEQ_SERVER_SCHED_IMPL_H
#define DEQ_SERVER_SCHED_IMPL_H

#include <pthread.h>

#include "server/work/cache.h"
#include "server/work/elastic.h"
#include "server/work/sched.h"

struct sched {
    /* constant while the thread runs */
    const struct conf *conf;
    struct metrics *metrics;
    struct fair_room room;       /* all that the engine has */
    struct fair_room configured; /* of that, without the eighth for callers that run nothing */
    uint32_t max_positions;
    pthread_t thread;
    bool started;

    /* the engine's thread alone */
    struct deq_engine *engine;
    struct deq_engine_stats seen; /* what the metrics hold of this engine */
    struct job *running;
    uint64_t outside_since_ns; /* its CPU time when the last step ended */
    uint64_t next_deadline_ns; /* of running jobs; 0: none */
    uint64_t next_scan_ns;     /* of the queue */
    struct step_cost cost;
    struct elastic elastic;
    struct cache cache;
    uint64_t turn;             /* number of the step */
    bool sharing;              /* some job is throttled */
    struct fair_seat **seats;  /* [room.sequences] of the running jobs, for one step's sharing */
    bool blocked;              /* some job found no room, and none has ended since */
    uint64_t next_try_ns;      /* then it is tried again: readers give room without a word */
    const struct job *first;   /* came next and found no room; during one round of admission */
    struct fair_room overtakers; /* what jobs hold that began before such a one */

    pthread_mutex_t lock; /* guards what follows, and the accounts */
    pthread_cond_t wake;
    struct job *queue, **queue_end; /* in order of arrival */
    struct job *listed, **listed_end; /* all that wait or run, in order of arrival */
    size_t queued, queued_tokens, reserved, reserved_tokens, n_running;
    struct fair_room held; /* by running jobs */
    bool stop, draining, end_all;
    bool attention; /* some job's cancel or pause was set */
    bool arrivals;  /* jobs came since the last look at the queue */
    struct fair fair;
    double service_s; /* moving average of a job's time in the engine */

    _Atomic uint64_t heartbeat_ns; /* last sign of life */
};

/* Caller holds s->lock. j is to end: nobody finds it from now on. */
static inline void sched_unlist(struct sched *s, struct job *j)
{
    *j->listed = j->next_listed;
    if (j->next_listed)
        j->next_listed->listed = j->listed;
    else
        s->listed_end = j->listed;
}

/* depth.c: elastic depth of the jobs that run, on the engine's thread. */

/* j was admitted: its tolerance is that of the level. */
void depth_enter(struct sched *s, struct job *j);
/* A token of j came so long after its last. */
void depth_gap(struct sched *s, struct job *j, uint64_t gap_ns);
/* Behind a step, or where none is to be made. */
void depth_follow(struct sched *s);

/* admission.c: the queue, on the engine's thread. */

enum { QUEUE_SCAN_MS = 10 /* it is searched for expired jobs so often */ };
/* Caller holds s->lock. Takes jobs off the queue that will not run, as a list: cancelled, waited too long, or
 * everything ends; then, without the lock, their ends. */
struct job *queue_expired(struct sched *s, uint64_t now);
void queue_finish(struct sched *s, struct job *expired, bool end_all);
/* Moves jobs from the queue into the engine while there is room. */
void queue_admit(struct sched *s);

/* engine_thread.c */

/* What the engine tells of a running job, ctx. */
enum deq_verdict engine_on_event(void *ctx, const struct deq_event *e);
/* Which end a cancelled job comes to. */
enum job_end engine_count_cancel(struct sched *s, const struct job *j, enum cancel_phase phase);
/* The thread's function; returns when s->stop is set and every job has ended. */
void *engine_thread(void *sched);

#endif
