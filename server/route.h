/* From method and path to an endpoint. The table in route.c is the list of everything that is served. */
#ifndef DEQ_SERVER_ROUTE_H
#define DEQ_SERVER_ROUTE_H

#include "server/http.h"
#include "server/request.h"
#include "server/sched.h"

enum server_state { SERVER_STARTING, SERVER_READY, SERVER_DRAINING };

/* What endpoints share: read-only but for the atomics behind the pointers. */
struct service {
    const struct conf *conf;
    const struct deq_model *model;
    const char *model_name;
    struct sched *sched;
    struct metrics *metrics;
    _Atomic int state; /* enum server_state */
    uint64_t started_ms; /* wall time */
};

void route(void *service, struct exchange *x);

/* Fills x's answer with an error. param NULL: none. */
void exchange_error(struct exchange *x, int status, const char *code, const char *param, const char *message);
void exchange_request_error(struct exchange *x, const struct request_error *e);
/* An error for a job that was not taken, with its Retry-After. */
void exchange_not_submitted(struct exchange *x, const struct service *s, enum submit verdict);
struct request_context service_context(const struct service *s);

/* Endpoints: each answers x, or hands a job that will answer through x->channel (status stays 0). */
void ep_completions(struct service *s, struct exchange *x);
void ep_logits(struct service *s, struct exchange *x);
void ep_tokenize(struct service *s, struct exchange *x);
void ep_detokenize(struct service *s, struct exchange *x);
void ep_models(struct service *s, struct exchange *x);
void ep_version(struct service *s, struct exchange *x);
void ep_live(struct service *s, struct exchange *x);
void ep_ready(struct service *s, struct exchange *x);
void ep_startup(struct service *s, struct exchange *x);
void ep_metrics(struct service *s, struct exchange *x);

#endif
