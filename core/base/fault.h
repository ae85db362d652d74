/* Faults on demand: the Nth allocation, system call or start of a thread goes wrong, once or from then on, so that
 * every error path can be walked. DEQ_FAULT=alloc:7,io:3+ asks for them from outside.
 *
 * This is in every build, also in the one that is shipped, so that what is tested is what runs. Where nothing is asked
 * for, a place costs a read of one variable, beside a call of the allocator or of the system.
 *
 *   alloc   blocks of core/base/mem.h, and those that jansson asks for           there is none
 *   io      system calls on files and sockets of ours                            -1, with the errno of the place
 *   short   reads and writes                                                     half is moved, at least one byte
 *   eintr   reads and writes; from then on is every second one                   -1, EINTR
 *   thread  starts of threads                                                    EAGAIN
 *
 * Which thread meets the Nth place is decided by the threads. Any thread. */
#ifndef DEQ_BASE_FAULT_H
#define DEQ_BASE_FAULT_H

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include "core/base/err.h"

enum deq_fault { DEQ_FAULT_ALLOC, DEQ_FAULT_IO, DEQ_FAULT_SHORT, DEQ_FAULT_EINTR, DEQ_FAULT_THREAD, DEQ_FAULT_COUNT };

/* The nth place of the kind from now (1: the next) goes wrong, or that and all behind it; 0: none any more. Counts of
 * the kind begin anew. */
void deq_fault_set(enum deq_fault kind, uint64_t nth, bool for_ever);
/* Since then: places that were met while something was asked for, and those that went wrong. */
uint64_t deq_fault_places(enum deq_fault kind);
uint64_t deq_fault_hits(enum deq_fault kind);
uint64_t deq_fault_all_hits(void); /* of all kinds together */
/* A test's own judge in place of all counts, called at each place by whichever thread is there; NULL: the counts. */
typedef bool deq_fault_judge(void *ctx, enum deq_fault kind);
void deq_fault_ask(deq_fault_judge *judge, void *ctx);
/* What the environment asks for in DEQ_FAULT: "kind:N" or "kind:N+", several apart by commas. */
enum deq_rc deq_fault_environment(struct deq_err *err);

const char *deq_fault_name(enum deq_fault kind);

/* --- Places --- */

extern _Atomic bool deq_fault_asked;
bool deq_fault_decide(enum deq_fault kind);

static inline bool deq_fault(enum deq_fault kind)
{
    return __builtin_expect(atomic_load_explicit(&deq_fault_asked, memory_order_relaxed), 0) && deq_fault_decide(kind);
}

/* A call that gives -1 and errno when it fails; here, this one. */
#define DEQ_SYS(error, call) (deq_fault(DEQ_FAULT_IO) ? (errno = (error), -1) : (call))
/* A call that gives an error's number. */
#define DEQ_THREAD(call) (deq_fault(DEQ_FAULT_THREAD) ? EAGAIN : (call))

/* The descriptor is gone, also where it is told that what was written is not there. */
static inline int deq_sys_close(int fd)
{
    const int rc = close(fd);
    return rc ? rc : DEQ_SYS(EIO, 0);
}

/* How much of n bytes is to be moved; -1, with errno: it fails. */
static inline ssize_t deq_fault_move(int error, size_t n)
{
    if (deq_fault(DEQ_FAULT_EINTR))
        return errno = EINTR, -1;
    if (deq_fault(DEQ_FAULT_IO))
        return errno = error, -1;
    return (ssize_t)(n > 1 && deq_fault(DEQ_FAULT_SHORT) ? n / 2 : n);
}

/* read, pread, write and pwrite of the system, as places. */
static inline ssize_t deq_sys_read(int fd, void *p, size_t n)
{
    const ssize_t k = deq_fault_move(EIO, n);
    return k < 0 ? -1 : read(fd, p, (size_t)k);
}

static inline ssize_t deq_sys_pread(int fd, void *p, size_t n, off_t at)
{
    const ssize_t k = deq_fault_move(EIO, n);
    return k < 0 ? -1 : pread(fd, p, (size_t)k, at);
}

static inline ssize_t deq_sys_write(int fd, const void *p, size_t n)
{
    const ssize_t k = deq_fault_move(ENOSPC, n);
    return k < 0 ? -1 : write(fd, p, (size_t)k);
}

static inline ssize_t deq_sys_pwrite(int fd, const void *p, size_t n, off_t at)
{
    const ssize_t k = deq_fault_move(ENOSPC, n);
    return k < 0 ? -1 : pwrite(fd, p, (size_t)k, at);
}

#endif
