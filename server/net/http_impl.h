/* What http.c (connections, requests), http_head.c (a request's head), http_body.c (large bodies), http_send.c (what
 * goes back) and http_wake.c (sleep) share: the only files that see libmicrohttpd. */
#ifndef DEQ_SERVER_HTTP_IMPL_H
#define DEQ_SERVER_HTTP_IMPL_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "server/net/http.h"
#include "server/net/watch.h"

enum {
    DISCARD_MAX_BYTES = 64 << 10, /* of a body whose request is refused by its headers: a larger one is not read, and
                                     the connection ends */
};

/* One socket that listens, and the daemon behind it. */
struct listener {
    struct http *http;
    struct MHD_Daemon *daemon;
    int fd;
    bool admin, tls;
    bool loopback;  /* pages of any site reach it under names that their owner chose: see origin.h */
    bool inherited; /* the supervisor has it too */
    bool quiesced;  /* nobody can connect any more */
};

struct http {
    const struct conf *conf;
    struct metrics *metrics;
    struct tls *tls; /* or NULL */
    struct http_handler handler;
    struct watch *watch;
    struct listener main, admin;
    _Atomic size_t connections; /* of the main listener */
    _Atomic size_t exchanges;
    _Atomic bool closing; /* every answer is its connection's last: the client finds another server */
    _Atomic uint64_t next_request;
    /* large bodies; lock order: channel, then work_lock */
    pthread_t worker;
    bool worker_started, worker_stop;
    pthread_mutex_t work_lock;
    pthread_cond_t work_there;
    struct request_state *work, **work_end;
    unsigned n_work;
    uint64_t run_id; /* random: request ids of two runs differ */
};

struct request_state { /* libmicrohttpd's con_cls: one exchange */
    struct exchange x;
    struct http *http;
    struct client *client; /* the watcher's */
    struct MHD_Connection *conn;
    pthread_t thread;           /* libmicrohttpd's, that serves the connection */
    struct wakeup wakeup;       /* while it is woken with others */
    struct wakeup *followers;   /* it was woken for these too, which still sleep: connections of the same thread */
    bool too_large, starved, dispatched, answered; /* starved: no memory for its body */
    bool working;               /* the worker has it; guarded by http.work_lock, changed with the channel's lock too */
    bool orphan;                /* its connection is done meanwhile: the worker frees it; guarded by http.work_lock */
    char *words;                /* method and path, where the worker needs them longer than the connection may live */
    struct request_state *next; /* behind it in the worker's queue */
    bool last_request;   /* of its connection */
    bool close_after_reply; /* the headers are such that nothing behind them on the connection can be trusted */
    uint64_t body_bytes; /* announced; DISCARD_MAX_BYTES + 1 when unknown */
    bool refused; /* from the headers; the body is read and thrown away, so that the connection can go on */
};

struct socket_state { /* libmicrohttpd's socket context */
    struct client *client;
    uint32_t requests;
    bool refused;
    /* of the request that is being read */
    bool bad_target, long_target;
    const char *target_end; /* one past the zero behind it */
};

/* The handler, on whichever thread. */
void http_handle(struct request_state *s);
void http_state_free(struct request_state *s);

/* http_wake.c */

/* The connection sleeps until its channel is woken. On its thread, with the channel's lock. */
void http_sleep(struct request_state *s);
/* The channel's `resume`, of its request_state. */
void http_wake(void *state, struct wakeups *w);
/* First of all that is done for a connection that may have been woken; on its thread, without locks. */
void http_wake_followers(struct request_state *s);

/* http_body.c */
enum large_body {
    LARGE_TAKEN, /* the connection sleeps until the worker has read it */
    LARGE_GONE,  /* the client left */
    LARGE_TOO_MANY,
    LARGE_NO_MEMORY,
};
bool http_body_start(struct http *h);
void http_body_stop(struct http *h);
enum large_body http_body_hand_over(struct request_state *s);
bool http_body_working(struct request_state *s); /* caller holds the channel's lock */
/* Its connection is done. True: the worker has the request, and frees it. */
bool http_body_leave(struct request_state *s);

/* http_send.c */

unsigned http_silence_s(const struct conf *c);
/* A connection that wakes up is read from before its answer is asked for, and the end of what a half-closed client
 * sends is then taken for the end of the connection. Those with a limit on silence of their own are asked for their
 * answer first, in every round of the thread: a connection is one of them while it waits for the answer. */
void http_ask_before_reading(struct request_state *s, bool yes);
/* The endpoint's own answer. */
enum MHD_Result http_send_reply(struct request_state *s, bool close_after);
enum MHD_Result http_send_error(struct request_state *s, int status, const char *code, const char *message);
/* The channel has something to say: a stream begins, a whole response is there, or the client left. */
enum MHD_Result http_send_channel(struct request_state *s);

/* http_head.c */

/* MHD_OPTION_URI_LOG_CALLBACK: the target as it came, before libmicrohttpd cuts it. */
void *http_on_uri(void *cls, const char *uri, struct MHD_Connection *conn);
/* What the head decides: an answer, or that the body is wanted. */
void http_check_head(struct request_state *s, const struct listener *l, const struct socket_state *from,
                     const char *version);
/* The answer is an error; the first reason counts. */
void http_refuse(struct request_state *s, int status, const char *code, const char *message);
/* Its body is larger than it may be. */
void http_refuse_body(struct request_state *s);

#endif
