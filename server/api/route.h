/* From method and path to an endpoint. The table in route.c is the list of everything that is served. On the threads of
 * the HTTP server. */
#ifndef DEQ_SERVER_ROUTE_H
#define DEQ_SERVER_ROUTE_H

#include "server/net/http.h"

/* The two halves of struct http_handler; ctx is the service. */
void route_check(void *ctx, struct exchange *x, const struct credential *keys, size_t n);
void route_handle(void *ctx, struct exchange *x);
/* Prints method and path of every route, a line each. */
void route_print(void);
/* Prints every field that the bodies of requests may hold, and the objects in them. */
void route_print_fields(void);

#endif
