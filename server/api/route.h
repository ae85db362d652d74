/* From method and path to an endpoint. The table in route.c is the list of everything that is served. */
#ifndef DEQ_SERVER_ROUTE_H
#define DEQ_SERVER_ROUTE_H

#include "server/net/http.h"
#include "server/api/request.h"
#include "server/work/sched.h"
#include "server/work/store.h"

enum server_state { SERVER_STARTING, SERVER_READY, SERVER_DRAINING };

/* What endpoints share: read-only but for the atomics behind the pointers. */
struct service {
    const struct conf *conf;
    struct store *store;
    struct auth *auth;
    struct tls *tls; /* or NULL */
    struct metrics *metrics;
    struct deq_budget *budget; /* of bodies and answers */
    _Atomic int state; /* enum server_state */
    uint64_t started_ms; /* wall time */
};

/* The two halves of struct http_handler; ctx is the service. */
void route_check(void *ctx, struct exchange *x, const struct credential *keys, size_t n);
void route_handle(void *ctx, struct exchange *x);
/* Prints method and path of every route, a line each. */
void route_print(void);

/* Fills x's answer with an error. param NULL: none. */
void exchange_error(struct exchange *x, int status, const char *code, const char *param, const char *message);
/* Nobody's fault: 503, to be tried again. */
void exchange_no_memory(struct exchange *x);
void exchange_request_error(struct exchange *x, const struct request_error *e);
/* An error for work that was not taken, with its Retry-After. */
void exchange_not_submitted(struct exchange *x, struct sched *sched, enum submit verdict);
struct request_context service_context(const struct service *s, const struct served *m);

/* Keys and certificate: what SIGHUP and POST /admin/reload read again beside the model. Both are tried; *err is the first failure. */
enum deq_rc service_reload_secrets(struct service *s, struct deq_err *err);

/* Endpoints: each answers x, or hands work that will answer through x->channel (status stays 0). m: the model at hand, theirs to release; NULL for
 * endpoints that need none. */
void ep_completions(struct service *s, struct served *m, struct exchange *x);
void ep_chat(struct service *s, struct served *m, struct exchange *x);
void ep_responses(struct service *s, struct served *m, struct exchange *x);
void ep_logits(struct service *s, struct served *m, struct exchange *x);
void ep_tokenize(struct service *s, struct served *m, struct exchange *x);
void ep_detokenize(struct service *s, struct served *m, struct exchange *x);
void ep_tokenizer_info(struct service *s, struct served *m, struct exchange *x);
void ep_models(struct service *s, struct served *m, struct exchange *x);
void ep_model(struct service *s, struct served *m, struct exchange *x);
void ep_version(struct service *s, struct served *m, struct exchange *x);
void ep_openapi(struct service *s, struct served *m, struct exchange *x);
void ep_live(struct service *s, struct served *m, struct exchange *x);
void ep_ready(struct service *s, struct served *m, struct exchange *x);
void ep_startup(struct service *s, struct served *m, struct exchange *x);
void ep_metrics(struct service *s, struct served *m, struct exchange *x);
void ep_reload(struct service *s, struct served *m, struct exchange *x);

#endif
