/* Fairness between callers as arithmetic: which job comes next, which jobs take part in a step, which job gives its
 * place to another. Pure: no locks, clock or engine. The scheduler passes what is needed and acts on the answer.
 *
 * Order (start-time fair queueing, Goyal, Vin and Cheng 1996): an account's tag is the virtual time up to which its
 * caller was served, in tokens over weight, and never before the tag of the last one that was served; the account with
 * the smallest tag is next. Within an account the lower priority number comes first, where every second of waiting
 * counts as one level; then the earlier arrival. Across accounts priority counts only for callers that may (auth.h),
 * and age never does: a caller that keeps the queue full would then be served first come, first served. */
#ifndef DEQ_SERVER_FAIR_H
#define DEQ_SERVER_FAIR_H

#include "core/base/base.h"

enum {
    FAIR_ACCOUNTS = 2048, /* callers that are told apart at once; power of two */
    FAIR_CALLERS = 64,    /* told apart in the sharing of steps; further ones count as the last */
};

/* What a caller had and has. */
struct account {
    uint64_t id;
    uint32_t in_flight;  /* requests reserved, waiting and running */
    uint32_t waiting;    /* of them, reserved or in the queue */
    double virtual_time; /* at which its next job may begin: tokens / weight */
    uint64_t oldest_ns;  /* earliest arrival among its waiting jobs; fair_see */
    uint32_t running;    /* jobs that were admitted */
    bool barred;         /* its next job found no room; valid during one round of admission */
};

struct fair {
    struct account account[FAIR_ACCOUNTS];
    double now; /* virtual time where the last job that was admitted began */
};

/* A job that waits. */
struct fair_job {
    struct account *account;
    int priority;
    bool across;         /* its priority counts before fairness */
    uint64_t arrived_ns;
};

/* A caller with a request in flight keeps its account; of the idle accounts the one with the least virtual time is
 * replaced by a new caller's. Where all are busy the last one is shared: then two callers count as one. */
struct account *fair_account(struct fair *f, uint64_t id);
/* Before jobs are compared all are passed to fair_forget, then all to fair_see, which finds each account's longest
 * wait. */
void fair_forget(const struct fair_job *j);
void fair_see(const struct fair_job *j);
/* a comes before b: a strict order of the jobs that were passed. now_ns: not before their arrivals. */
bool fair_before(const struct fair *f, const struct fair_job *a, const struct fair_job *b, uint64_t now_ns);
/* The account's job begins; it is to take so many tokens / weight. */
void fair_charge(struct fair *f, struct account *a, double tokens);
/* How many of a queue's places the account's caller may see taken. The last eighth is for callers that have nothing
 * waiting: no caller fills the queue alone. */
uint64_t fair_places(const struct account *a, uint64_t places);

/* What a job, or all of them, or the engine has: sequences, rows of a step, pages of the cache. */
struct fair_room {
    uint64_t sequences, rows, pages;
};
struct fair_room fair_plus(const struct fair_room *a, const struct fair_room *b);
struct fair_room fair_minus(const struct fair_room *a, const struct fair_room *b);
/* The engine has an eighth more than is configured. That is for callers that run nothing, so that no caller, with
 * however many or wide requests, keeps others waiting for a place. */
uint32_t fair_with_eighth(uint32_t configured);
/* What is configured, of all that the engine has: exactly n of fair_with_eighth(n). */
struct fair_room fair_configured(const struct fair_room *all);
/* Whether the account's job may begin that makes the engine hold `held`, of `all`. What the engine lacks altogether is
 * not asked here. */
bool fair_may_begin(const struct account *a, const struct fair_room *held, const struct fair_room *all);
/* Whether the account's job may begin before `first`, which comes next and finds no room: of callers that run nothing,
 * as many as such overtakers, this one with them, hold an eighth. So narrow jobs do not wait for a wide one that waits
 * for half of the engine, and it fits as soon as those are gone that were there before it. */
bool fair_may_overtake(const struct account *a, const struct fair_room *overtakers, const struct fair_room *first,
                       const struct fair_room *all);

/* How long a slow reader kept its job from steps. */
struct fair_reader {
    bool slow;
    uint64_t since_ns, total_ns;
};
void fair_reader_is(struct fair_reader *r, bool slow, uint64_t now_ns);
uint64_t fair_slow_ns(const struct fair_reader *r, uint64_t now_ns);
/* While others wait for its place: its reader is slow now, was for two seconds in all, and for most of the time since
 * the job began. */
bool fair_gives_way(const struct fair_reader *r, uint64_t began_ns, uint64_t now_ns);

/* A running job, for the sharing of steps. */
struct fair_seat {
    uint64_t caller;
    double weight, rows;
    uint64_t last_turn;  /* the step it last took part in */
    bool idle;           /* its reader is slow: it takes no part, unless it must */
    bool must;           /* takes part whatever the others do */
    bool throttled;      /* the answer: it waits for a later step */
    size_t caller_index; /* scratch: number of its caller */
};
bool fair_takes_part(const struct fair_seat *seat);
/* Decides who takes part in step number `turn`. Each caller may have as many rows (by weight) as the caller with the
 * fewest, and those that cost next to nothing; a caller above its share has its own jobs rotated, longest wait first,
 * and at least one takes part. True: somebody is throttled. */
bool fair_share(struct fair_seat *const *seat, size_t n, double free_rows, uint64_t turn);

/* What a step costs: seconds = fixed + each * rows, by least squares over the last few hundred steps. */
struct step_cost {
    double w, x, y, xx, xy;
};
void step_cost_add(struct step_cost *c, double rows, double seconds);
/* Rows that cost as much as the fixed part: so many more of them at most double a step that has none. Where weights are
 * streamed from memory that is many, and no job is throttled. */
double step_cost_free_rows(const struct step_cost *c);

#endif
