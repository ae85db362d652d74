/* What the daemon is made of, as endpoints see it: read-only but for the atomics behind the pointers. Any thread. */
#ifndef DEQ_SERVER_SERVICE_H
#define DEQ_SERVER_SERVICE_H

#include "server/api/request.h"
#include "server/auth.h"
#include "server/metrics.h"
#include "server/net/tls.h"
#include "server/work/store.h"

enum server_state { SERVER_STARTING, SERVER_READY, SERVER_DRAINING, SERVER_STATE_COUNT };

struct service {
    const struct conf *conf;
    struct store *store;
    struct states *states;
    struct auth *auth;
    struct tls *tls; /* or NULL */
    struct metrics *metrics;
    struct deq_budget *budget; /* of bodies and answers */
    _Atomic int state; /* enum server_state */
    uint64_t started_ms; /* wall time */
};

/* What a request's body is read against. */
struct request_context service_context(const struct service *s, const struct served *m);
/* Keys and certificate: what SIGHUP and POST /admin/reload read again beside the model. Both are tried; *err is the
 * first failure. */
enum deq_rc service_reload_secrets(struct service *s, struct deq_err *err);

#endif
