#define _GNU_SOURCE
#include "server/notify.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/utf8.h"
#include "server/log.h"

enum {
    TEXT_MAX_BYTES = NOTIFY_STATUS_MAX_BYTES + 128,
    LOADING_TICK_MS = 5000,    /* loading is prolonged so often... */
    LOADING_GRACE_MS = 30000,  /* ... by so much each time */
    LOADING_CPU_NS = 10000000, /* ... when it took that much CPU time since */
    SEND_TIMEOUT_MS = 1000,    /* a supervisor that reads nothing must not stop us */
};

enum phase { OFF, LOADING, SERVING, STOPPING, STOPPED };

/* One process has one supervisor: the state is the file's. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake; /* on the monotonic clock */
static enum phase phase;
static int fd = -1;
static struct sockaddr_un address;
static socklen_t address_len;
static uint64_t watchdog_us; /* 0: none is asked for */
static clockid_t loader;     /* CPU time of the thread that loads... */
static uint64_t loader_began_ns; /* ... when it began: this file's thread may come to run long after */
static pthread_t thread;
static bool (*alive_fn)(void *ctx);
static void *alive_ctx;

static enum deq_rc parse_address(const char *text, struct deq_err *err)
{
    const size_t n = strlen(text);
    /* vsock addresses (of virtual machines' hosts) are not for services */
    if ((text[0] != '/' && text[0] != '@') || n < 2 || n >= sizeof address.sun_path)
        return deq_fail(err, DEQ_EINVAL, "NOTIFY_SOCKET: \"%s\": expected /PATH or @NAME of at most %zu bytes", text,
                        sizeof address.sun_path - 1);
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, text, n);
    address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (text[0] == '/'));
    if (text[0] == '@')
        address.sun_path[0] = 0;
    return DEQ_OK;
}

static enum deq_rc parse_number(const char *name, const char *text, uint64_t *ret, struct deq_err *err)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long n = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || !n)
        return deq_fail(err, DEQ_EINVAL, "%s: \"%s\": expected a positive number", name, text);
    *ret = n;
    return DEQ_OK;
}

/* Caller holds the lock. False and errno when it did not arrive. */
__attribute__((format(printf, 1, 2))) static bool say(const char *format, ...)
{
    char text[TEXT_MAX_BYTES];
    va_list ap;
    va_start(ap, format);
    const int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    const size_t len = n < 0 ? 0 : DEQ_MIN((size_t)n, sizeof text - 1);
    return n < 0 || sendto(fd, text, len, MSG_NOSIGNAL, (const struct sockaddr *)&address, address_len) >= 0;
}

/* A status is one line: what follows a line's end would be another variable. Paths in it may be any bytes, and it may
 * have been cut. */
static const char *one_line(const char *status, char ret[NOTIFY_STATUS_MAX_BYTES])
{
    snprintf(ret, NOTIFY_STATUS_MAX_BYTES, "%s", status);
    deq_utf8_line(ret);
    return ret;
}

static void complain(bool said)
{
    if (!said)
        log_line(LOG_WARN, "the supervisor was not told", log_text("reason", strerror(errno)));
}

static uint64_t loader_cpu_ns(void)
{
    struct timespec t;
    return clock_gettime(loader, &t) ? 0 : (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *notify_main(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&lock);
    uint64_t cpu_ns = loader_began_ns;
    while (phase != STOPPED) {
        const uint64_t watch_ms = watchdog_us ? DEQ_MAX(watchdog_us / 3000, 1u) : UINT32_MAX;
        const uint64_t ms = phase == LOADING ? LOADING_TICK_MS : watch_ms;
        const enum phase before = phase;
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += (time_t)(ms / 1000);
        until.tv_nsec += (long)(ms % 1000) * 1000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        pthread_cond_timedwait(&wake, &lock, &until);
        if (phase == LOADING && before == LOADING) {
            const uint64_t now_ns = loader_cpu_ns();
            if (now_ns - cpu_ns >= LOADING_CPU_NS)
                complain(say("EXTEND_TIMEOUT_USEC=%llu", LOADING_GRACE_MS * 1000ull));
            cpu_ns = now_ns;
        } else if (watchdog_us && alive_fn && phase != STOPPED) {
            bool (*const alive)(void *) = alive_fn;
            void *const ctx = alive_ctx;
            /* a lock that is stuck elsewhere must not hold the others here; and hangs this thread, rightly */
            pthread_mutex_unlock(&lock);
            const bool ok = alive(ctx);
            pthread_mutex_lock(&lock);
            if (ok && phase != STOPPED)
                complain(say("WATCHDOG=1"));
        }
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

enum deq_rc notify_start(const char *status, struct deq_err *err)
{
    const char *socket_text = getenv("NOTIFY_SOCKET"), *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    char text[NOTIFY_STATUS_MAX_BYTES];
    uint64_t n = 0;
    enum deq_rc rc = DEQ_OK;
    if (!socket_text || !socket_text[0])
        return DEQ_OK;
    rc = parse_address(socket_text, err);
    if (!rc && usec)
        rc = parse_number("WATCHDOG_USEC", usec, &watchdog_us, err);
    if (!rc && usec && pid)
        rc = parse_number("WATCHDOG_PID", pid, &n, err);
    if (!rc && usec && pid && n != (uint64_t)getpid())
        watchdog_us = 0; /* another's */
    if (rc)
        return rc;
    const struct timeval limit = {.tv_sec = SEND_TIMEOUT_MS / 1000};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_lock(&lock);
    fd = DEQ_SYS(EMFILE, socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (fd >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (fd < 0 || !say("STATUS=%s", one_line(status, text)))
        rc = deq_fail(err, DEQ_EIO, "NOTIFY_SOCKET: cannot send to \"%s\": %s", socket_text, strerror(errno));
    if (!rc && (pthread_getcpuclockid(pthread_self(), &loader) ||
                DEQ_THREAD(pthread_create(&thread, NULL, notify_main, NULL))))
        rc = deq_fail(err, DEQ_EIO, "cannot start a thread");
    if (rc && fd >= 0) {
        close(fd);
    } else if (!rc) {
        phase = LOADING;
        loader_began_ns = loader_cpu_ns();
    }
    pthread_mutex_unlock(&lock);
    if (rc)
        return rc;
    (void)pthread_setname_np(thread, "notify");
    (void)unsetenv("NOTIFY_SOCKET");
    (void)unsetenv("WATCHDOG_USEC");
    (void)unsetenv("WATCHDOG_PID");
    return DEQ_OK;
}

void notify_ready(const char *status, bool (*alive)(void *ctx), void *ctx)
{
    char text[NOTIFY_STATUS_MAX_BYTES];
    pthread_mutex_lock(&lock);
    if (phase == LOADING) {
        phase = SERVING;
        alive_fn = alive;
        alive_ctx = ctx;
        complain(say("READY=1\nSTATUS=%s", one_line(status, text)));
        pthread_cond_signal(&wake); /* the thread's step changes */
    }
    pthread_mutex_unlock(&lock);
}

void notify_reloading(void)
{
    pthread_mutex_lock(&lock);
    if (phase == SERVING)
        complain(say("RELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=reloading", (unsigned long long)(deq_now_ns() / 1000)));
    pthread_mutex_unlock(&lock);
}

void notify_reloaded(const char *status)
{
    char text[NOTIFY_STATUS_MAX_BYTES];
    pthread_mutex_lock(&lock);
    if (phase == SERVING)
        complain(say("READY=1\nSTATUS=%s", one_line(status, text)));
    pthread_mutex_unlock(&lock);
}

void notify_stopping(uint64_t at_most_ms)
{
    pthread_mutex_lock(&lock);
    if (phase == LOADING || phase == SERVING) {
        phase = STOPPING;
        complain(say("STOPPING=1\nEXTEND_TIMEOUT_USEC=%llu\nSTATUS=draining", (unsigned long long)at_most_ms * 1000u));
    }
    pthread_mutex_unlock(&lock);
}

void notify_failed(const char *status)
{
    char text[NOTIFY_STATUS_MAX_BYTES];
    pthread_mutex_lock(&lock);
    if (phase != OFF && phase != STOPPED)
        complain(say("STATUS=%s", one_line(status, text)));
    pthread_mutex_unlock(&lock);
}

void notify_stop(void)
{
    pthread_mutex_lock(&lock);
    const bool on = phase != OFF && phase != STOPPED;
    if (on) {
        phase = STOPPED;
        pthread_cond_signal(&wake);
    }
    pthread_mutex_unlock(&lock);
    if (on) {
        pthread_join(thread, NULL);
        close(fd);
    }
}
