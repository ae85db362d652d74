/* The only file that sees libmicrohttpd. It turns connections into struct exchange (one request and its response) and hands complete requests
 * to the router; bytes come back through struct channel.
 *
 * Threads: libmicrohttpd's pool runs everything here but the reaper, one thread that watches sockets for deadlines and for clients that left
 * (libmicrohttpd sees neither while a connection waits for the engine). */
#ifndef DEQ_SERVER_HTTP_H
#define DEQ_SERVER_HTTP_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "core/base/buf.h"
#include "server/conf.h"
#include "server/metrics.h"

struct MHD_Connection;

/* The way of a response from the engine to a connection: bytes with a lock around them. Two owners, the connection and the job; the
 * last one to let go frees it. Producers append under the lock; the connection's reader takes. */
struct channel {
    pthread_mutex_t lock;
    struct MHD_Connection *conn; /* NULL once the connection is done; guarded by lock, like everything below */
    struct deq_buf bytes;        /* body not yet handed to the socket */
    unsigned refs;
    bool suspended;              /* the connection sleeps until there is something for it */
    bool streaming;              /* headers are out or may go out: bytes flow as they come */
    bool done;                   /* nothing more will come */
    bool failed;                 /* end the connection without a clean end */
    bool gone;                   /* the client left or stalled: producers stop */
    int status;                  /* of a response that does not stream */
    const char *content_type;
    char retry_after_ms[16];     /* header, or "" */
    uint64_t last_write_ns, last_read_ns;
    void (*on_gone)(void *ctx);  /* called once, with the lock held, when the client left; it must only take note. The job resets it when it ends */
    void *on_gone_ctx;
};

struct channel *channel_new(size_t max_bytes);
void channel_ref(struct channel *c);
void channel_unref(struct channel *c);
/* Appends and wakes the connection. Returns false when nobody reads any more, or the reader is too slow (then the client counts as gone). */
bool channel_write(struct channel *c, const void *bytes, size_t n);
/* Streaming starts: the connection may send its headers now. At most max_unread bytes wait for a slow reader. */
void channel_start_stream(struct channel *c, size_t max_unread);
/* Who is told when the client leaves; NULL: nobody any more. */
void channel_on_gone(struct channel *c, void (*fn)(void *ctx), void *ctx);
/* The end of a stream, or a whole response of `status`. failed: the connection is cut instead of ended cleanly. */
void channel_finish(struct channel *c, int status, const char *content_type, bool failed);

struct exchange {
    const char *method, *path;
    const char *accept;             /* header, or NULL */
    char request_id[132];
    struct deq_buf body;
    struct channel *channel;        /* where the response goes */
    uint64_t arrived_ns;
    /* the answer of an endpoint that does not wait: status 0 means that the channel will carry it */
    int status;
    const char *content_type;       /* literal; NULL: application/json */
    struct deq_buf reply;
    const char *allow;              /* of 405 */
    char retry_after_ms[16];
    char header_name[2][32], header_value[2][32]; /* more headers, "" when unused */
};

struct http;
typedef void (*http_handler)(void *ctx, struct exchange *x);

enum deq_rc http_parse_listen(const char *text, struct sockaddr_storage *ret, socklen_t *ret_len, struct deq_err *err);
/* Listens and serves. The address in use (port 0 resolved) goes to ret_address [64]. */
enum deq_rc http_start(const struct conf *c, struct metrics *m, http_handler handler, void *ctx, struct http **ret, char *ret_address,
                       struct deq_err *err);
/* New connections are refused; open ones go on. */
void http_stop_accepting(struct http *h);
size_t http_open_exchanges(const struct http *h);
/* Ends everything that is still open. */
void http_stop(struct http *h);

#endif
