#include "server/api/service.h"

#include "server/log.h"

struct request_context service_context(const struct service *s, const struct served *m)
{
    return (struct request_context){.model = m->model,
                                    .conf = s->conf,
                                    .model_name = m->name,
                                    .max_positions = sched_max_positions(m->sched),
                                    .max_rows = sched_max_rows(m->sched)};
}

enum deq_rc service_reload_secrets(struct service *s, struct deq_err *err)
{
    struct deq_err tls_err;
    enum deq_rc rc = auth_reload(s->auth, err);
    if (rc)
        log_line(LOG_ERROR, "keys not reloaded, the old ones stay", log_text("reason", err->text));
    const enum deq_rc tls = s->tls ? tls_reload(s->tls, &tls_err) : DEQ_OK;
    if (tls)
        log_line(LOG_ERROR, "certificate not reloaded, the old one stays", log_text("reason", tls_err.text));
    if (tls && !rc) {
        *err = tls_err;
        rc = tls;
    }
    return rc;
}
