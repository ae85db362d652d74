/* What endpoints have in common: errors, with their status, code and when to try again; and the place in the queue that
 * comes before anything costs. On the thread of the endpoint. */
#ifndef DEQ_SERVER_EXCHANGE_H
#define DEQ_SERVER_EXCHANGE_H

#include "server/api/request.h"
#include "server/net/http.h"
#include "server/work/states.h"
#include "server/work/store.h"

/* Fills x's answer with an error. param NULL: none. */
void exchange_error(struct exchange *x, int status, const char *code, const char *param, const char *message);
/* Nobody's fault: 503, to be tried again. */
void exchange_no_memory(struct exchange *x);
void exchange_request_error(struct exchange *x, const struct request_error *e);
/* What is answered for a job that ended so and gave nothing; of JOB_FINISHED: its solver diverged. */
struct exchange_outcome {
    int status;
    const char *code, *message;
};
struct exchange_outcome exchange_outcome(enum job_end end);
/* An error for work that was not taken, with its Retry-After. */
void exchange_not_submitted(struct exchange *x, struct sched *sched, enum submit verdict);
/* A place in m's queue before the body is read: whoever will be refused costs no tokenising. False: x is answered. */
bool exchange_reserve(struct exchange *x, const struct served *m, struct reservation *ret);

/* A saved state that a request names, in memory that counts against the exchange's. */
struct exchange_state {
    struct deq_state *state; /* NULL: none */
    size_t tokens;
    uint64_t bytes;
    struct channel *channel; /* borrowed */
};
/* name "": none. False: x is answered. */
bool exchange_load_state(struct exchange *x, struct states *states, const struct served *m, const char *name,
                         struct exchange_state *ret);
void exchange_free_state(struct exchange_state *s);

#endif
