/* --health-probe: asks the daemon at the configured address whether it is ready, for containers without a shell. */
#ifndef DEQ_SERVER_PROBE_H
#define DEQ_SERVER_PROBE_H

#include "core/base/err.h"
#include "server/conf.h"

/* GET /health/ready at server.admin_listen, which has no TLS, or else at server.listen. DEQ_EINVAL: that one speaks
 * TLS; DEQ_EIO: nobody answers, or another status than 200. */
enum deq_rc probe_ready(const struct conf *c, struct deq_err *err);

#endif
