/* Sockets whose last answer is sent while their client still sends, as one does whose body was refused by its head.
 * Closing such a socket would reset the connection, and a reset overtakes the answer: clients report a broken
 * connection instead of what was said (RFC 9112 9.6). So only our side is closed, and what comes is read and thrown
 * away: until the client closes, for LINGER_MS at most, LINGER_BYTES at most, and for LINGER_SOCKETS clients at a time;
 * the others are closed at once.
 *
 * Nobody waits: linger_drain takes what is there. Any thread may add, one drains. */
#ifndef DEQ_SERVER_LINGER_H
#define DEQ_SERVER_LINGER_H

#include <stdint.h>

#include "core/base/err.h"

enum { LINGER_MS = 5000, LINGER_BYTES = 64 << 20, LINGER_SOCKETS = 64 };

struct lingering;

enum deq_rc linger_new(struct lingering **ret, struct deq_err *err);
void linger_free(struct lingering *l); /* closes them all */
/* Readable when there is something to drain (epoll). */
int linger_fd(const struct lingering *l);
/* The caller closes fd afterwards; the socket stays. */
void linger_add(struct lingering *l, int fd, uint64_t now_ns);
void linger_drain(struct lingering *l, uint64_t now_ns);

#endif
