/* A client as client.c moves it and judge.c judges it. */
#ifndef DEQ_SIM_CLIENT_H
#define DEQ_SIM_CLIENT_H

#include "tests/sim/sim.h"

enum { MS = 1000000 };

/* What was done so far that may end others' requests. */
struct past {
    uint64_t drains, deletes;
};
extern struct past clients_past;

enum manner {
    PROMPT,       /* sends at once, reads at once */
    SLOW,         /* reads a little now and then */
    STALLED,      /* stops reading */
    LEAVES,       /* closes in the middle */
    RESETS,       /* is gone in the middle, at once */
    HALF_CLOSES,  /* says that it will send no more, and reads on */
    DRIPS,        /* sends in small pieces */
    NEVER_SENDS,  /* the end of its request */
    MANNERS
};

struct client {
    struct socket *socket; /* NULL: none */
    enum manner manner;
    bool asking, reused, head_there, ended, clean, closed, close_after;
    struct ask *ask, other; /* ask: one of the day's, or &other */
    char *out;              /* [n_out] its request, sent up to `sent` */
    size_t n_out, sent;
    char *got;              /* [n_got] of the body, read up to `read` */
    size_t n_got, cap_got, read;
    size_t leave_at;        /* closes when it has read so much, or at leave_ns */
    uint64_t leave_ns, next_ns, asked_ns, sent_ns, idle_ns, deadline_ms;
    unsigned status, retry_ms;
    struct past before; /* when it asked */
};

void judge_whole(const struct client *c); /* a whole answer, or an error in its place */
void judge_cut(const struct client *c);   /* the connection ended first, by whomever */
void judge_deadline(const struct client *c);
void judge_count(uint64_t *ret_whole, uint64_t *ret_judged);

#endif
