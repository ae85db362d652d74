/* What endpoints have in common: errors, with their status, code and when to try again; and the way of a body to the
 * scheduler: a place in the queue, before anything costs, then what is asked for, as jobs. On the thread of the
 * endpoint, but where something else is said. */
#ifndef DEQ_SERVER_EXCHANGE_H
#define DEQ_SERVER_EXCHANGE_H

#include "server/api/service.h"
#include "server/net/http.h"
#include "server/work/states.h"

/* Fills x's answer with an error. param NULL: none. */
void exchange_error(struct exchange *x, int status, const char *code, const char *param, const char *message);
/* Nobody's fault: 503, to be tried again. */
void exchange_no_memory(struct exchange *x);
void exchange_request_error(struct exchange *x, const struct request_error *e);

/* What a body asks for: jobs, and who makes an answer of what they leave. What source.ctx points to holds the model
 * and has two references, the source's and the jobs' together, which their last on_end gives back; either is given
 * back by source.drop. */
struct exchange_work {
    struct job *jobs; /* a list */
    struct channel_events events;
    struct channel_source source;
};
/* Reads x's body. at: which of several endpoints it is, as exchange_run got it. False: x is answered, and m is still
 * the caller's. */
typedef bool exchange_reader(struct service *s, struct served *m, struct exchange *x, int at,
                             struct exchange_work *ret);
/* Hands x's work to m's scheduler, or answers x. Takes m. Whoever is refused a place costs no reading. */
void exchange_run(struct service *s, struct served *m, struct exchange *x, exchange_reader *read, int at);

/* Of jobs that ended so and gave nothing: what is answered, once they have ended. JOB_FINISHED: the solver diverged.
 * Any thread. */
struct exchange_failure {
    enum job_end end;
    char message[256];
};
/* message: the scheduler's; NULL: what is usually said of such an end. */
void exchange_failure(struct exchange_failure *f, enum job_end end, const char *message);
int exchange_failure_status(const struct exchange_failure *f);
const char *exchange_failure_code(const struct exchange_failure *f);
/* Ends c by it, with when to try again. On the connection's thread. */
void exchange_fail(struct channel *c, struct sched *s, const struct exchange_failure *f);

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
/* The one that x's body is; name: for messages. False: x is answered. */
bool exchange_parse_state(struct exchange *x, const struct served *m, const char *name, struct exchange_state *ret);
void exchange_free_state(struct exchange_state *s);

#endif
