/* What the kernel does for this process from here on, and what no longer: a filter of system calls (seccomp), for code
 * that is not ours but got in, through a request or a model file. It is entered when sockets, keys and certificates are
 * open and before the first model is read; every reload is inside.
 *
 * Three classes of calls:
 * - what serving takes: memory, threads, time, signals, sockets that were accepted, files that are read; files that are
 *   written or removed only where state.dir, engine.cache_dir or a Unix socket's path ask for it. Never memory that is
 *   made executable, a process (clone for threads only), a socket of the network, a limit that is raised.
 * - what nothing in a server ever does, and an intruder first: another program, another process's memory, other rights,
 *   mounts, modules. The process is killed, and the kernel's log names the call.
 * - everything else, answered ENOSYS, as a kernel would that is older than the caller: libraries try a newer call first
 *   and know what to do then, so that another C library's version costs no daemon. (EPERM they take for an answer.)
 *
 * Once, by the main thread, for all threads that are and will be. */
#ifndef DEQ_SERVER_SANDBOX_H
#define DEQ_SERVER_SANDBOX_H

#include "server/conf.h"

enum sandbox_mode {
    SANDBOX_AUTO,   /* where the kernel can, else with a warning */
    SANDBOX_ALWAYS, /* or there is no start */
    SANDBOX_NEVER,
};

/* Whether sandbox_enter would succeed, as far as can be told before: for --check-config. */
enum deq_rc sandbox_check(const struct conf *c, struct deq_err *err);
/* Fails only where c->sandbox is SANDBOX_ALWAYS; where it is SANDBOX_AUTO, the log tells why *ret_inside is false. */
enum deq_rc sandbox_enter(const struct conf *c, bool *ret_inside, struct deq_err *err);

#endif
