/* Watches sockets for what libmicrohttpd does not see: absolute deadlines (it counts inactivity only), clients that
 * leave while their connection waits for the engine (a suspended connection is blind), stalled readers, silent streams.
 *
 * One thread with its own epoll, and a clock of 100 ms. A reset tells at once that a client left, so its work is
 * cancelled within one evaluation. The end of what a client sends does not (RFC 9112 9.6: it may still read, as behind
 * `nc -N`), and looks the same for one that closed: only writing tells them apart, since who closed answers with a
 * reset. A stream gets a comment at once; a whole answer that is not there after GRACE_MS is announced by an interim
 * answer (100 Continue, which clients pass over), again every PROBE_MS. Where neither may be written (HTTP/1.0; TLS,
 * whose session is libmicrohttpd's) the client is taken to have left after GRACE_MS. On a unix socket the system itself
 * tells. The thread also reads what is sent behind a connection's last answer (linger.h).
 *
 * Lock order: watch, then channel, then scheduler. */
#ifndef DEQ_SERVER_WATCH_H
#define DEQ_SERVER_WATCH_H

#include "core/base/err.h"
#include "server/conf.h"
#include "server/net/channel.h"

enum watch_phase {
    WATCH_HEADERS, /* the request's head is due */
    WATCH_BODY,    /* its body is due */
    WATCH_WORK,    /* the engine, or the reader of the answer, has its time */
    WATCH_IDLE,    /* keep-alive: the next request may come */
};

struct watch;
struct client; /* one socket */

enum deq_rc watch_start(const struct conf *c, struct watch **ret, struct deq_err *err);
void watch_stop(struct watch *w);
/* A connection was accepted on fd. `refused`: it is one too many; it gets a moment to be told so. NULL: no memory. */
struct client *watch_add(struct watch *w, int fd, bool refused, bool tls);
/* ... and is closed. The caller closes the descriptor afterwards. */
void watch_remove(struct watch *w, struct client *cl);
void watch_phase(struct watch *w, struct client *cl, enum watch_phase phase);
/* WATCH_BODY, of a request with this id: when the body is late, that is answered. interim: its client understands 1xx
 * answers (HTTP/1.1). */
void watch_body(struct watch *w, struct client *cl, const char *request_id, bool interim);
/* The answer that is being sent is the connection's last, whatever its client still sends. */
void watch_last_answer(struct watch *w, struct client *cl);
/* The channel of the exchange in work, or NULL. */
void watch_channel(struct watch *w, struct client *cl, struct channel *c);
/* Hangs up on every channel, and on those that come later: from now on no connection sleeps. */
void watch_hang_up_all(struct watch *w);

#endif
