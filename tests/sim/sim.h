/* The simulation of the whole daemon: the code of server/ from main() on, with all its threads, in one thread of one
 * process, on a clock, sockets, clients and an HTTP library that are simulated, all of it drawn from one seed.
 *
 * Nothing in the daemon is changed for it. Its objects are linked as they are; what they ask of the system is answered
 * here instead, by the linker's --wrap (the list is in the Makefile):
 *   threads.c  its threads are coroutines, which change at locks, waits and ends of a system call; the clock
 *   sockets.c  sockets with their fullness, epoll
 *   mhd*.c     libmicrohttpd's side of server/net/http*.c
 *   engine.c   the door to libdeq: how long a step takes, a token that makes states infinite, who was submitted
 * and looked at after each event by check.c, which knows the scheduler's inside. client.c asks what ask.c made up, and
 * reads (slowly, not to the end, not at all); judge.c holds it against what the same request was answered alone.
 *
 * An event is one turn of the loop in sim.c: a thread goes on to where it next waits or is held up, a client does
 * something, or the clock goes to the next thing that is waited for. */
#ifndef DEQ_SIM_H
#define DEQ_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/base.h"

/* --- sim.c --- */

struct sim {
    uint64_t seed, event, now_ns;
    uint64_t digest;      /* of everything that happened */
    bool chaos;           /* faults and many clients; else one request at a time */
    bool serving;         /* the daemon has said that it is ready, and was not told to stop */
    uint64_t longest_step_ns; /* of late */
    uint64_t head_ms;         /* so long a head may take, with the silence before it */
    unsigned switch_one_in; /* a thread is held up at so many locks; 0: never */
    uint64_t armed_from_ns, armed_to_ns; /* the last time that allocations or calls of the system were to fail */
    const char *dir, *cache_dir; /* for states and the prefix cache */
};
extern struct sim sim;

uint64_t sim_random(void);
uint64_t sim_below(uint64_t n);               /* 0 .. n-1 */
bool sim_one_in(uint64_t n);
uint64_t sim_between(uint64_t from, uint64_t to); /* both may come */
/* One line of the trace that a failure ends with; part of the digest. */
__attribute__((format(printf, 1, 2))) void sim_note(const char *format, ...);
void sim_mix(const void *bytes, size_t n); /* into the digest */
/* Prints what was broken, the last events and how to repeat it, and ends the process. */
__attribute__((format(printf, 1, 2), noreturn)) void sim_fail(const char *format, ...);
void sim_signal(int sig); /* to the daemon */
/* Memory that the daemon's accounts know nothing of; never NULL. */
void *sim_alloc(size_t bytes);
void *sim_realloc(void *p, size_t bytes);

/* --- threads.c --- */

typedef bool ready_fn(const void *on);
void thread_start(const char *name, void *(*fn)(void *), void *arg);
/* The thread waits until ready(on) says so or the clock is at until_ns (0: never), and for its turn. */
void thread_wait(ready_fn *ready, const void *on, uint64_t until_ns);
bool thread_is_one(void);        /* the caller is a thread of the daemon */
const char *thread_name(void);
void thread_maybe_switch(void);
/* One thread that can go on does, until it waits. False: none can. */
bool threads_go(void);
uint64_t threads_next_ns(void);  /* when one that waits wants to go on by the clock; UINT64_MAX: never */
size_t threads_alive(void);
/* Whether a thread lies in pthread_cond_*wait on cond, and nobody has woken it. */
bool thread_sleeps_on(const void *cond);
bool mutex_is_free(const void *mutex);

/* --- sockets.c --- */

struct socket {
    int fd;                  /* the one it was made with */
    unsigned refs;
    char *in;                /* [n_in] from the client, not yet read */
    size_t n_in, cap_in;
    uint64_t received;
    uint64_t room;           /* bytes that may be written before the client reads */
    bool fin, reset;         /* the client will send nothing more; is not there any more */
    bool left;               /* it has closed: what is written is answered by a reset */
    uint64_t left_ns;        /* since then */
    bool shut_read, shut_write, closed; /* by the daemon */
    unsigned interim;        /* 1xx answers */
    void *client;            /* client.c's, or NULL */
};
struct socket *socket_new(void *client);
void socket_close(int fd);
void socket_send(struct socket *s, const char *bytes, size_t n); /* from the client */
void socket_unref(struct socket *s);
struct socket *socket_of_fd(int fd);
bool socket_dead(const struct socket *s); /* nothing can be written */
void socket_wrote(struct socket *s);      /* the daemon wrote: who left says so */

/* --- mhd.c --- */

/* A client connects; false: nobody listens. */
bool mhd_connect(struct socket *s);
void mhd_check(void);

/* --- client.c --- */

void client_begin(void);
/* What the connection gives to its client: the answer's head, bytes, its end (clean or not). */
void client_head(void *client, unsigned status, bool close, unsigned retry_ms);
void client_bytes(void *client, const char *bytes, size_t n);
void client_end(void *client, bool clean);
void client_closed(void *client); /* the socket is */
/* Clients whose time has come do something; false: none. */
bool clients_go(void);
uint64_t clients_next_ns(void);
size_t clients_asking(void);
void clients_rest(bool yes);   /* nobody asks anew */
void clients_saw_drain(void);
/* In the morning: all requests of the day, one after the other; false: all have been answered. */
bool clients_rehearse(void);
void clients_count(uint64_t *asked, uint64_t *whole, uint64_t *judged);

/* --- ask.c --- */

struct ask {
    const char *method, *path;
    char *body;
    bool stream, responses, judged; /* judged: its text is the same alone and beside others */
    char *alone; /* what was answered then; NULL: not yet */
    unsigned alone_status;
};
enum { ASKS = 40 };
void asks_begin(void);
struct ask *ask_number(size_t i);
/* One text for all that an answer says, whatever pieces it came in; NULL: it is none. partial: it was cut. */
char *answer_canonical(const struct ask *a, const char *body, size_t n, bool partial);
/* Whether the texts of an answer begin those of another. */
bool answer_begins(const char *part, const char *whole);

/* --- engine.c and check.c --- */

enum { KEYS = 4 };    /* of sim.c's file of keys: k0 has priority, k1 a weight of 3 */
enum { POISON = 94 }; /* the token of '~': states at it are not numbers */

struct deq_engine;
struct deq_event;
struct fair;
struct account;
struct fair_seat;
struct job;
struct sched;
void check_event(void);
void check_quiet(void);  /* nobody asks: everything is given back */
void check_begins(void); /* the daemon will begin */
void check_ended(void);  /* it has ended */
void check_model(uint64_t bytes); /* what its model and engine are declared to take */
uint64_t check_recent_number(void); /* of a job of late, for the operator */
void check_told_to_end(uint64_t number);          /* the operator asks for it */
void check_asked(uint64_t request, unsigned key); /* the request's number, and whose key it has */
size_t check_jobs(void);           /* submitted, and not ended */
uint64_t check_answer_bytes(void); /* that count against limits.answer_bytes */

/* What engine.c saw. */
void check_sched(struct sched *s, bool there);
void check_submitted(struct job *jobs); /* lists */
void check_refused(struct job *jobs);
bool check_drains(const struct sched *s);
/* With the scheduler's lock: who waits is to be admitted next. */
void check_chosen(const void *allowance);
void check_charged(const struct fair *f, const struct account *a, double tokens);
void check_expired(uint64_t id);
void check_step(const struct deq_engine *e); /* one begins */
void check_admission(const struct sched *s); /* a round of it begins */
/* With the scheduler's lock: may more wait? Then the answer, to one that asked for n. */
void check_places(const struct account *a, uint64_t places);
void check_verdict(size_t n, int verdict);
void check_shared(struct fair_seat *const *seats, size_t n);
void check_budget(void *budget);
void check_metrics(const void *metrics);

#endif
