/* What is behind the daemon's sockets, on the tiny model, once for a process. */
#ifndef DEQ_FUZZ_SERVICE_H
#define DEQ_FUZZ_SERVICE_H

#include "server/api/service.h"
#include "server/net/http.h"

/* The configuration's defaults with one thread and little room; states are kept in fuzz_dir("states"). */
struct service *fuzz_service(void);
/* Of the same service, for http_start. */
struct http_handler fuzz_handler(struct service *s);

#endif
