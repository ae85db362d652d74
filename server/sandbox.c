#define _GNU_SOURCE
#include "server/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "server/log.h"

/* Instrumented programs do more: sanitizers look for leaks from a process of their own, which stops all threads and
 * reads their registers; gcov writes what was run. */
#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) ||               \
    __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
static const bool sanitized = true;
#else
static const bool sanitized = false;
#endif
extern char __gcov_init[] __attribute__((weak));

#define MASK32 0xffffffffu /* arguments that are int: what stands above is nobody's */
enum { REQ_XCOMP_PERM = 0x1023 }; /* of arch_prctl, since Linux 5.16 */

/* By name, since not every architecture and version of the library knows all of them; NULL ends a list. */

static const char *const allowed[] = {
    /* memory */
    "brk", "madvise", "mremap", "munmap",
    /* threads */
    "exit", "exit_group", "futex", "getcpu", "getpid", "gettid", "get_robust_list", "membarrier", "rseq",
    "sched_getaffinity", "sched_getscheduler", "sched_setaffinity", "sched_yield", "set_robust_list",
    /* time and chance */
    "clock_getres", "clock_gettime", "clock_nanosleep", "getrandom", "gettimeofday", "nanosleep", "time",
    /* signals: of this process's own */
    "restart_syscall", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "sigaltstack",
    /* descriptors, and waiting for them */
    "close", "dup", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd2", "fcntl",
    "flock", "lseek", "pipe2", "poll", "ppoll", "pread64", "pselect6", "read", "readv", "select", "write", "writev",
    /* sockets: those that came, and our own that listen */
    "accept", "accept4", "bind", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmmsg",
    "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown",
    /* files that are read */
    "access", "faccessat", "faccessat2", "fadvise64", "fstat", "fstatfs", "getdents64", "lstat", "newfstatat",
    "readlink", "readlinkat", "stat", "statfs", "statx",
    /* what /metrics and memory's sizes are made of */
    "getegid", "geteuid", "getgid", "getrlimit", "getrusage", "getuid", "sysinfo", "uname", NULL};

static const char *const allowed_writing[] = {
    "fallocate", "fchmod", "fdatasync", "fsync", "ftruncate", "link", "linkat", "mkdir", "mkdirat", "open", "openat",
    "pwrite64", "rename", "renameat", "renameat2", "rmdir", NULL};

static const char *const allowed_removing[] = {"unlink", "unlinkat", NULL};

static const char *const allowed_sanitized[] = {
    "clone", "getdents", "getppid", "kill", "mmap", "mprotect", "prctl", "prlimit64", "process_vm_readv", "ptrace",
    "setrlimit", "wait4", "waitid", NULL};

static const char *const deadly[] = {
    "acct", "add_key", "bpf", "capset", "chroot", "delete_module", "execve", "execveat", "fanotify_init",
    "finit_module", "fsconfig", "fsmount", "fsopen", "init_module", "io_uring_setup", "kcmp", "kexec_file_load",
    "kexec_load", "keyctl", "memfd_create", "mount", "move_mount", "name_to_handle_at", "open_by_handle_at",
    "open_tree", "perf_event_open", "personality", "pidfd_getfd", "pivot_root", "process_vm_readv",
    "process_vm_writev", "ptrace", "reboot", "request_key", "setfsgid", "setfsuid", "setgid", "setgroups", "setns",
    "setregid", "setresgid", "setresuid", "setreuid", "setuid", "swapoff", "swapon", "umount2", "unshare",
    "userfaultfd", NULL};

/* Calls by name; what this library or architecture does not know is nothing that a program could call. */
static int add_all(scmp_filter_ctx f, uint32_t action, const char *const *names, const char *const *but)
{
    int failed = 0;
    for (; *names && !failed; names++) {
        const int call = seccomp_syscall_resolve_name(*names);
        bool left_out = call == __NR_SCMP_ERROR;
        for (const char *const *b = but; b && *b; b++)
            left_out = left_out || !strcmp(*names, *b);
        failed = left_out ? 0 : seccomp_rule_add(f, action, call, 0);
    }
    return failed;
}

/* Calls that are allowed with some arguments only. */
static int add_some(scmp_filter_ctx f, bool writes)
{
    static const unsigned long requests[] = {FIONREAD, FIONBIO, TCGETS};
    static const unsigned classes[] = {SCHED_OTHER, SCHED_BATCH};
    const unsigned write_flags = O_ACCMODE | O_CREAT | O_TRUNC;
    int failed = 0;
    for (size_t i = 0; i < DEQ_COUNT(requests) && !failed; i++)
        failed = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                                  SCMP_A1(SCMP_CMP_MASKED_EQ, MASK32, requests[i]));
    /* pins of cores are names of sockets: core/base/cores.h. Others as by a kernel that was built without them */
    if (!failed)
        failed = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX, 0));
    if (!failed)
        failed = seccomp_rule_add(f, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
                                  SCMP_A0(SCMP_CMP_NE, AF_UNIX, 0));
    if (!failed && !writes)
        failed = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
                                  SCMP_A2(SCMP_CMP_MASKED_EQ, write_flags, O_RDONLY));
    if (!failed && !writes)
        failed = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(open), 1,
                                  SCMP_A1(SCMP_CMP_MASKED_EQ, write_flags, O_RDONLY));
    if (!failed) /* for the tiles of AMX: core/math/kern.c asks when a model is first looked at */
        failed = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(arch_prctl), 1,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, MASK32, REQ_XCOMP_PERM));
    if (!failed)
        failed = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, MASK32, (scmp_datum_t)getpid()));
    for (size_t i = 0; i < DEQ_COUNT(classes) && !failed; i++) /* a thread's own: server/patience.h */
        failed = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(sched_setscheduler), 2,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, MASK32, 0),
                                  SCMP_A1(SCMP_CMP_MASKED_EQ, MASK32, classes[i]));
    if (failed || sanitized)
        return failed;
    failed = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (!failed)
        failed = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    /* clone3 hides its flags behind a pointer; without it the C library takes clone */
    if (!failed)
        failed = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    if (!failed)
        failed = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, MASK32, PR_SET_NAME));
    if (!failed) /* limits are read: of this process, without new ones */
        failed = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2, SCMP_A0(SCMP_CMP_MASKED_EQ, MASK32, 0),
                                  SCMP_A2(SCMP_CMP_EQ, 0, 0));
    return failed;
}

/* Returns 0, or a negative errno, as the library does. */
static int load(bool writes, bool removes)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    if (!f)
        return -ENOMEM;
    int failed = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
    if (!failed)
        failed = seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    (void)seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree of calls instead of a list */
    if (!failed)
        failed = add_all(f, SCMP_ACT_ALLOW, allowed, NULL);
    if (!failed && writes)
        failed = add_all(f, SCMP_ACT_ALLOW, allowed_writing, NULL);
    if (!failed && removes)
        failed = add_all(f, SCMP_ACT_ALLOW, allowed_removing, NULL);
    if (!failed && sanitized)
        failed = add_all(f, SCMP_ACT_ALLOW, allowed_sanitized, NULL);
    if (!failed)
        failed = add_all(f, SCMP_ACT_KILL_PROCESS, deadly, sanitized ? allowed_sanitized : NULL);
    if (!failed)
        failed = add_some(f, writes);
    if (!failed)
        failed = seccomp_load(f);
    seccomp_release(f);
    return failed;
}

/* Filters for all threads at once, and the end of the whole process. */
static bool kernel_can(void)
{
    return seccomp_api_get() >= 3;
}

static enum deq_rc impossible(const char *why, struct deq_err *err)
{
    return deq_fail(err, DEQ_EINVAL, "server.sandbox: always, but %s", why);
}

static const char no_filters[] = "the system lets no process filter its system calls (seccomp)";

enum deq_rc sandbox_check(const struct conf *c, struct deq_err *err)
{
    return c->sandbox == SANDBOX_ALWAYS && !kernel_can() ? impossible(no_filters, err) : DEQ_OK;
}

enum deq_rc sandbox_enter(const struct conf *c, bool *ret_inside, struct deq_err *err)
{
    char why[128];
    *ret_inside = false;
    if (c->sandbox == SANDBOX_NEVER)
        return DEQ_OK;
    const bool writes = c->state_dir[0] || c->cache_dir[0] || __gcov_init;
    const bool removes = writes || !strncmp(c->listen, "unix:", 5) || !strncmp(c->admin_listen, "unix:", 5);
    const int failed = kernel_can() ? load(writes, removes) : -ENOSYS;
    *ret_inside = !failed;
    if (!failed)
        return DEQ_OK;
    snprintf(why, sizeof why, "%s%s%s", no_filters, failed == -ENOSYS ? "" : ": ",
             failed == -ENOSYS ? "" : strerror(-failed));
    if (c->sandbox == SANDBOX_ALWAYS)
        return impossible(why, err);
    log_line(LOG_WARN, "no sandbox", log_text("reason", why));
    return DEQ_OK;
}
