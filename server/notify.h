/* What a supervisor is told over NOTIFY_SOCKET, and the watchdog: the protocol of sd_notify(3), a datagram of KEY=VALUE
 * lines to a unix socket. Without that variable every function does nothing. No library: the protocol is these few
 * lines.
 *
 * One thread of its own sends what is due by the clock: WATCHDOG=1 while the daemon is alive, as the caller's function
 * says, at a third of WATCHDOG_USEC; and while loading takes long, EXTEND_TIMEOUT_USEC, as long as the thread that
 * loads gets anywhere (its CPU time grows): one that hangs on a dead mount is not prolonged. All functions are safe
 * from any thread. */
#ifndef DEQ_SERVER_NOTIFY_H
#define DEQ_SERVER_NOTIFY_H

#include "core/base/base.h"
#include "core/base/err.h"

enum { NOTIFY_STATUS_MAX_BYTES = 1152 }; /* a path, or an error and what stands around it */

/* Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment and says that loading began, on the
 * calling thread. DEQ_EINVAL: a variable is not what the protocol says; DEQ_EIO: nobody is at the socket (who set it
 * waits for READY=1 and would end us later, for a reason that nobody sees). */
enum deq_rc notify_start(const char *status, struct deq_err *err);
/* From now on alive(ctx) decides about the watchdog. Status: one line for people. */
void notify_ready(const char *status, bool (*alive)(void *ctx), void *ctx);
/* A reload begins; and is over, whether it worked or not. Nothing is said of it once notify_stopping was called. */
void notify_reloading(void);
void notify_reloaded(const char *status);
/* The end begins and may take so long. */
void notify_stopping(uint64_t at_most_ms);
/* Why it could not start. */
void notify_failed(const char *status);
/* Ends the thread: alive is not called any more. */
void notify_stop(void);

#endif
