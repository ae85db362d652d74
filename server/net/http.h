/* HTTP over libmicrohttpd, which http*.c alone see. It turns connections into struct exchange (one request and its
 * response) and hands requests to the router: `check` when the headers are there, `handle` when the body is; bytes come
 * back through struct channel.
 *
 * Threads: libmicrohttpd's pool runs everything here, but for large bodies, which a thread of ours hands over one by
 * one; watch.h has another for what libmicrohttpd does not see. */
#ifndef DEQ_SERVER_HTTP_H
#define DEQ_SERVER_HTTP_H

#include "server/auth.h"
#include "server/conf.h"
#include "server/metrics.h"
#include "server/net/channel.h"
#include "server/net/listen.h"
#include "server/net/origin.h"
#include "server/net/tls.h"

/* One that an answer has beside those of all answers. */
struct reply_header {
    const char *name, *value; /* literals */
};

enum { ETAG_MAX_BYTES = 32 };

struct exchange {
    /* from the headers */
    const char *method, *path;
    const char *content_type;       /* or NULL */
    bool is_encoded;                /* Content-Encoding is another than identity */
    const char *if_none_match;      /* or NULL */
    bool wants_octets;              /* Accept: application/octet-stream rather than JSON */
    char request_id[132];
    char trace_id[33], parent_id[17]; /* of a valid W3C traceparent, or "" */
    uint32_t timeout_ms;            /* X-Request-Timeout-Ms, or 0 */
    struct caller caller;
    bool admin_listener;
    bool wrong_host;                /* a name that server.hosts does not allow */
    bool browser;                   /* a page's request: Origin or Sec-Fetch-... is there */
    enum origin_verdict page;
    const char *origin;             /* page is ORIGIN_ALLOWED: what Access-Control-Allow-Origin says */
    bool preflight;                 /* OPTIONS that asks for another request's sake; answered 204 */
    const char *ask_headers;        /* of it: Access-Control-Request-Headers, or NULL */
    bool ask_private;               /* of it: Access-Control-Request-Private-Network */
    bool overfull;                  /* all connections are taken: only probes are answered */
    uint64_t arrived_ns;
    const void *route;              /* the router's */
    bool probe;                     /* the router's: counted apart, not logged */
    /* then */
    struct deq_buf body;            /* the router may set its max, and what that comes from */
    const char *body_limit;
    struct channel *channel;        /* where the response goes */
    /* the answer of an endpoint that does not wait: status 0 means that the channel will carry it */
    int status;
    const char *reply_type;         /* literal; NULL: application/json */
    struct deq_buf reply;
    const struct reply_header *headers; /* up to one without a name; or NULL */
    char etag[ETAG_MAX_BYTES];      /* quoted; "": none */
    const char *allow;              /* of 405 */
    const char *accept_encoding;    /* of 415 */
    bool authenticate;              /* of 401 */
    unsigned retry_after_ms;        /* 0: none */
};

struct http_handler {
    /* The headers are there; status is set when they are refused already. Sets status and reply to refuse without
     * reading the body. keys [n]: what the client shows; one that is right is enough. */
    void (*check)(void *ctx, struct exchange *x, const struct credential *keys, size_t n);
    void (*handle)(void *ctx, struct exchange *x);
    /* Fills the answer with an error, as everything that this server refuses is told: for what is refused here. */
    void (*refuse)(struct exchange *x, int status, const char *code, const char *param, const char *message);
    const char *no_memory; /* a literal: the body of a 503 when there is no memory to write one */
    unsigned retry_ms;     /* when to try again after that */
    void *ctx;
    struct deq_budget *budget; /* what requests' bodies and answers count against */
};

struct http;

/* Addresses and lists of names, which the configuration holds as text. */
enum deq_rc http_check_conf(const struct conf *c, struct deq_err *err);
/* Listens on server.listen and, where given, server.admin_listen, or on the sockets that were inherited in their place,
 * which are its own then. tls may be NULL; it serves the main one only. The addresses in use (port 0 resolved) go to
 * ret_address and ret_admin [160].
 *
 * An inherited main socket is left alone until http_serve: clients wait in it, also for a model that is being loaded;
 * whoever passed it needs no probes. Otherwise http_serve does nothing. */
enum deq_rc http_start(const struct conf *c, const struct listen_inherited *given, struct metrics *m, struct tls *tls,
                       const struct http_handler *handler, struct http **ret, char *ret_address, char *ret_admin,
                       struct deq_err *err);
enum deq_rc http_serve(struct http *h, struct deq_err *err);
/* Every answer from now on ends its connection. */
void http_close_connections(struct http *h);
/* New connections are refused, or wait in an inherited socket for the daemon that comes next; open ones go on. Once. */
void http_stop_accepting(struct http *h);
bool http_inherited(const struct http *h);
/* Connections to the main listener. */
size_t http_connections(const struct http *h);
size_t http_open_exchanges(const struct http *h);
/* Ends everything that is still open. */
void http_stop(struct http *h);

#endif
