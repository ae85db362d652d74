/* server/sandbox.c: in a child each, what serving takes goes on, and what it does not take is refused or kills. */
#define _GNU_SOURCE
#include "server/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/patience.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const bool sanitized = true; /* a leak's search may do what an intruder would */
#else
static const bool sanitized = false;
#endif
extern char __gcov_init[] __attribute__((weak)); /* what counts coverage writes files */

/* 0: it was as it should be */
typedef int (*attempt)(void);

static void *nothing(void *arg)
{
    return arg;
}

static int starts_a_thread(void)
{
    pthread_t t;
    return pthread_create(&t, NULL, nothing, NULL) || pthread_join(t, NULL);
}

static int reads_a_file(void)
{
    char c;
    const int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    return fd < 0 || read(fd, &c, 1) != 1 || close(fd);
}

static int waits_for_sockets(void)
{
    int pair[2];
    struct epoll_event e = {.events = EPOLLIN};
    const int epoll = epoll_create1(EPOLL_CLOEXEC), fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return epoll < 0 || fd < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) || epoll_wait(epoll, &e, 1, 0) < 0 ||
           (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0); /* which nobody here calls */
}

static int has_limits_and_memory(void)
{
    struct rlimit r;
    void *m = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return m == MAP_FAILED || mprotect(m, 4096, PROT_READ) || munmap(m, 1 << 20) || getrlimit(RLIMIT_NOFILE, &r) ||
           sysconf(_SC_NPROCESSORS_ONLN) < 1;
}

/* Also where there are none: then it is the kernel that says so. */
static int asks_for_tiles(void)
{
#if defined(__x86_64__)
    enum { REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18, GET_FS = 0x1003 };
    unsigned long fs;
    if (syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) && errno == ENOSYS)
        return 1;
    return syscall(SYS_arch_prctl, GET_FS, &fs) != -1 || errno != ENOSYS;
#else
    return 0;
#endif
}

static int has_patience(void)
{
    struct patience p = {0};
    patience_after(&p, true, 1);
    const bool begun = sched_getscheduler(0) == SCHED_BATCH;
    patience_after(&p, false, 2 + PATIENCE_MS * 1000000ull);
    return !begun || sched_getscheduler(0) != SCHED_OTHER;
}

/* The status of a process says so too. */
static int is_marked(void)
{
    char text[4096];
    const int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    const ssize_t n = read(fd, text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    return !strstr(text, "NoNewPrivs:\t1") || !strstr(text, "Seccomp:\t2");
}

static int refused(long result, int error)
{
    return result >= 0 || errno != error;
}

static int asks_the_network(void)
{
    return refused(socket(AF_INET, SOCK_STREAM, 0), EAFNOSUPPORT) ||
           refused(socket(AF_INET6, SOCK_DGRAM, 0), EAFNOSUPPORT) ||
           refused(socket(AF_NETLINK, SOCK_RAW, 0), EAFNOSUPPORT) ||
           refused(socket(AF_PACKET, SOCK_RAW, 0), EAFNOSUPPORT);
}

static int opens_to_write(void)
{
    return refused(open(scratch_path("new"), O_WRONLY | O_CREAT, 0600), ENOSYS) ||
           refused(open("/dev/null", O_RDWR), ENOSYS) ||
           refused(open(scratch_dir(), O_TMPFILE | O_WRONLY, 0600), ENOSYS);
}

static int changes_files(void)
{
    return refused(unlink(scratch_path("there")), ENOSYS) || refused(rename(scratch_path("there"), "x"), ENOSYS) ||
           refused(mkdir(scratch_path("new"), 0700), ENOSYS) || refused(chmod(scratch_path("there"), 0777), ENOSYS) ||
           refused(symlink("/etc", scratch_path("new")), ENOSYS);
}

static int keeps_states(void)
{
    const int fd = open(scratch_path("new"), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return fd < 0 || write(fd, "x", 1) != 1 || fsync(fd) || close(fd) ||
           rename(scratch_path("new"), scratch_path("there")) || unlink(scratch_path("there"));
}

static int removes_a_socket(void)
{
    return unlink(scratch_path("there")) || refused(open(scratch_path("new"), O_WRONLY | O_CREAT, 0600), ENOSYS);
}

static int becomes_two(void)
{
    return refused(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL), ENOSYS) || refused(fork(), ENOSYS);
}

static int makes_code(void)
{
    void *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return refused(mprotect(m, 4096, PROT_READ | PROT_EXEC), ENOSYS) ||
           mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
}

static int raises_limits(void)
{
    return refused(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}), ENOSYS) ||
           refused(prlimit(1, RLIMIT_CORE, NULL, NULL), ENOSYS);
}

static int takes_the_core(void)
{
    return refused(sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){1}), ENOSYS) ||
           refused(sched_setscheduler(getpid(), SCHED_BATCH, &(struct sched_param){0}), ENOSYS);
}

static int signals_others(void)
{
    return refused(syscall(SYS_tgkill, 1, 1, 0), ENOSYS) || refused(kill(1, 0), ENOSYS);
}

static int starts_a_program(void)
{
    return execl("/bin/true", "true", (char *)NULL);
}

static int traces(void)
{
    return (int)ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static int reads_others(void)
{
    return (int)syscall(SYS_process_vm_readv, 1, NULL, 0, NULL, 0, 0);
}

static int gets_rights(void)
{
    return setuid(0);
}

static int leaves_its_namespace(void)
{
    return unshare(CLONE_NEWUSER);
}

/* What a child of ours that enters the sandbox and tries ends with: 0, an exit code, or 128 + a signal. */
static int ends_with(const struct conf *c, attempt a)
{
    const pid_t child = fork();
    if (child == 0) {
        struct deq_err err;
        bool inside;
        const bool entered = sandbox_enter(c, &inside, &err) == DEQ_OK && inside;
        _exit(entered ? a() != 0 : 99);
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static const struct conf plain = {.listen = "127.0.0.1:0"};

static void needs_the_sandbox(void)
{
    struct conf always = plain;
    struct deq_err err;
    always.sandbox = SANDBOX_ALWAYS;
    if (sandbox_check(&always, &err))
        SKIP("%s", err.text);
}

TEST(sandbox_lets_serving_go_on)
{
    needs_the_sandbox();
    static const attempt fine[] = {starts_a_thread, reads_a_file, waits_for_sockets, has_limits_and_memory,
                                   asks_for_tiles,  has_patience, is_marked};
    for (size_t i = 0; i < DEQ_COUNT(fine); i++)
        CHECK_MSG(ends_with(&plain, fine[i]) == 0, "what serving takes, %zu: %d", i, ends_with(&plain, fine[i]));
}

TEST(sandbox_files_as_configured)
{
    needs_the_sandbox();
    if (__gcov_init)
        SKIP("files that may not be written: coverage is");
    REQUIRE(scratch_begin());
    struct conf states = plain, unix_socket = plain;
    snprintf(states.state_dir, sizeof states.state_dir, "%s", scratch_dir());
    snprintf(unix_socket.listen, sizeof unix_socket.listen, "unix:%s", scratch_path("there"));
    scratch_put("there", "x");
    scratch_put("kept", "x");
    CHECK_EQ(ends_with(&plain, opens_to_write), 0);
    CHECK_EQ(ends_with(&plain, changes_files), 0);
    CHECK_EQ(ends_with(&unix_socket, removes_a_socket), 0);
    CHECK_EQ(ends_with(&states, keeps_states), 0);
    CHECK(access(scratch_path("there"), F_OK) && access(scratch_path("new"), F_OK));
    scratch_end("kept", NULL);
}

TEST(sandbox_refuses)
{
    needs_the_sandbox();
    CHECK_EQ(ends_with(&plain, asks_the_network), 0);
    CHECK_EQ(ends_with(&plain, takes_the_core), 0);
    CHECK_EQ(ends_with(&plain, signals_others) == 0 || sanitized, true);
    if (sanitized)
        SKIP("processes, code and limits: sanitizers need them");
    static const attempt no[] = {becomes_two, makes_code, raises_limits};
    for (size_t i = 0; i < DEQ_COUNT(no); i++)
        CHECK_MSG(ends_with(&plain, no[i]) == 0, "what is refused, %zu", i);
}

TEST(sandbox_kills)
{
    needs_the_sandbox();
    static const attempt deadly[] = {starts_a_program, gets_rights, leaves_its_namespace, traces, reads_others};
    const size_t n = DEQ_COUNT(deadly) - (sanitized ? 2 : 0);
    for (size_t i = 0; i < n; i++)
        CHECK_MSG(ends_with(&plain, deadly[i]) == 128 + SIGSYS, "what kills, %zu", i);
}

TEST(sandbox_never_is_none)
{
    struct conf never = plain;
    never.sandbox = SANDBOX_NEVER;
    struct deq_err err;
    bool inside = true;
    CHECK(sandbox_check(&never, &err) == DEQ_OK && sandbox_enter(&never, &inside, &err) == DEQ_OK && !inside);
    CHECK(!starts_a_thread() && !reads_a_file());
}
