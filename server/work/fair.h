/* Fairness between callers as arithmetic: who comes next, who takes part in a step, whose place another gets. Not locking, time, or the engine: the
 * scheduler gives what is needed and acts on the answer, so every rule can be tried without either.
 *
 * Order (start-time fair queueing, Goyal, Vin and Cheng 1996): an account's tag is the virtual time up to which its caller was served, in tokens over weight,
 * and never before the tag of the last one that was served; the account with the smallest tag is next. Within an account the lower priority number comes
 * first, where every second of waiting counts as one level; then who came first. Across accounts priority counts only for callers that may (auth.h);
 * nobody's age does, or whoever keeps the queue full would be served first come, first served. */
#ifndef DEQ_SERVER_FAIR_H
#define DEQ_SERVER_FAIR_H

#include "core/base/base.h"

enum {
    FAIR_ACCOUNTS = 2048, /* callers that are told apart at once; power of two */
    FAIR_CALLERS = 64,    /* running at once and told apart in the sharing of steps; further ones share the last place */
};

/* What a caller had and has. */
struct account {
    uint64_t id;
    uint32_t in_flight; /* requests reserved, waiting and running */
    uint32_t waiting;   /* of them, reserved or in the queue */
    double had;         /* virtual time at which its next job may begin: tokens / weight */
    uint64_t oldest_ns; /* arrival of the first of its jobs that wait; fair_see */
    uint32_t running;   /* jobs that were admitted */
    bool barred;        /* the first of its jobs found no room; while jobs are admitted */
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

/* Whoever has a request under way keeps his account; of the others the one that had least is forgotten for a new caller. Where all places are busy the
 * last one is shared: then two callers count as one. */
struct account *fair_account(struct fair *f, uint64_t id);
/* Before jobs are compared each is shown, in two rounds: forget, then remember whose wait is the longest. */
void fair_forget(const struct fair_job *j);
void fair_see(const struct fair_job *j);
/* a comes before b: a strict order of the jobs that were shown. now_ns: not before their arrivals. */
bool fair_before(const struct fair *f, const struct fair_job *a, const struct fair_job *b, uint64_t now_ns);
/* The account's job begins; it is to take so many tokens / weight. */
void fair_charge(struct fair *f, struct account *a, double tokens);
/* How many of a queue's places the account's caller may see taken. The last eighth is for those who have nothing waiting: nobody fills it alone. */
uint64_t fair_places(const struct account *a, uint64_t places);

/* The engine's places, rows and pages have an eighth more than is configured. That is for callers who run nothing, so that nobody, with however many or wide
 * requests, keeps others waiting for a place. */
struct fair_room {
    uint64_t sequences, rows, pages;
};
/* Whether the account's job may begin that makes the engine hold `held`, of `all`. What is not there at all is not asked here. */
bool fair_may_begin(const struct account *a, const struct fair_room *held, const struct fair_room *all);

/* Whether the account's job may begin before `first`, which comes next and finds no room: of callers who run nothing, as many as such overtakers, this one
 * with them, hold an eighth. So narrow jobs do not wait for a wide one that waits for half of the engine, and it fits as soon as those are gone that were there
 * before it. */
bool fair_may_overtake(const struct account *a, const struct fair_room *overtakers, const struct fair_room *first, const struct fair_room *all);

/* How long a reader kept his job from its turns. */
struct fair_reader {
    bool slow;
    uint64_t since_ns, total_ns;
};
void fair_reader_is(struct fair_reader *r, bool slow, uint64_t now_ns);
uint64_t fair_slow_ns(const struct fair_reader *r, uint64_t now_ns);
/* While others wait for its place: its reader is slow now, and was for two seconds in all, and for most of the time since it began. */
bool fair_gives_way(const struct fair_reader *r, uint64_t began_ns, uint64_t now_ns);

/* A running job, for the sharing of one step. */
struct fair_seat {
    uint64_t caller;
    double weight, rows;
    uint64_t last_turn; /* the step it last took part in */
    bool idle;          /* its reader is slow: it takes no part anyway */
    bool must;          /* takes part whatever the others do */
    bool held;          /* the answer: it waits its turn */
    size_t of;          /* scratch: number of its caller */
};

/* Each caller may have as many rows (by weight) as the one with the least, and those that cost next to nothing; of his jobs those come first that waited
 * longest, and at least one takes part. */
void fair_share(struct fair_seat *seat, size_t n, double free_rows);

/* What a step costs: seconds = fixed + each * rows, by least squares over the last few hundred steps. */
struct step_cost {
    double w, x, y, xx, xy;
};
void step_cost_add(struct step_cost *c, double rows, double seconds);
/* Rows that cost as much as the fixed part: so many more of them at most double a step that has none. Where weights are streamed from memory that is
 * many, and nobody has to wait a turn. */
double step_cost_free_rows(const struct step_cost *c);

#endif
