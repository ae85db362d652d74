#define _GNU_SOURCE
#include "server/log.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/base.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/json.h"
#include "server/patience.h"

enum {
    LINES_PER_SECOND = 100,
    CLASSES = 64,
    LINE_MAX_BYTES = 4096,
    RING_BYTES = 256 << 10,
    FLUSH_MS = 1000, /* at the end, for a reader that may never come back */
};

static const char *const names[] = {[LOG_ERROR] = "error",
                                    [LOG_WARN] = "warn",
                                    [LOG_INFO] = "info",
                                    [LOG_DEBUG] = "debug"};
_Static_assert(DEQ_COUNT(names) == LOG_LEVELS, "a name for each level");
static enum log_level threshold = LOG_INFO;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* by message, whose texts are literals of the program: few, and told apart by address. Guarded by lock. */
static struct {
    const char *message;
    uint64_t second, count, left_out;
} classes[CLASSES];

void log_init(const char *level)
{
    for (int i = 0; i < LOG_LEVELS; i++)
        if (!strcmp(level, names[i]))
            threshold = (enum log_level)i;
}

bool log_on(enum log_level level)
{
    return level <= threshold;
}

/* Returns false when the line is one too many; *ret_left_out: how many were left out before it. */
static bool admit(const char *message, uint64_t *ret_left_out)
{
    const uint64_t second = deq_now_ns() / 1000000000u;
    *ret_left_out = 0;
    for (int i = 0; i < CLASSES; i++) {
        if (classes[i].message && classes[i].message != message)
            continue;
        classes[i].message = message;
        if (classes[i].second != second) {
            classes[i].second = second;
            classes[i].count = 0;
        }
        if (++classes[i].count > LINES_PER_SECOND) {
            classes[i].left_out++;
            return false;
        }
        *ret_left_out = classes[i].left_out;
        classes[i].left_out = 0;
        return true;
    }
    return true;
}

static json_t *line_begin(enum log_level level, const char *message)
{
    char stamp[40];
    const uint64_t ms = deq_wall_ms();
    const time_t t = (time_t)(ms / 1000);
    struct tm tm;
    gmtime_r(&t, &tm);
    const size_t n = strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(stamp + n, sizeof stamp - n, ".%03uZ", (unsigned)(ms % 1000));
    return json_pack("{s:s, s:s, s:s}", "time", stamp, "level", names[level], "message", message);
}

/* Takes line. Its length with the line's end, or 0 when there is no memory for it or it is too long. */
static size_t line_end(json_t *line, char ret[LINE_MAX_BYTES + 1])
{
    char *text = deq_json_text(line, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(9));
    const bool fits = text && strlen(text) < LINE_MAX_BYTES;
    const int n = fits ? snprintf(ret, LINE_MAX_BYTES + 1, "%s\n", text) : 0;
    free(text); /* jansson's */
    json_decref(line);
    return (size_t)n;
}

/* --- Writing --- */

static struct {
    enum { DIRECT, RUNNING, STOPPING, STOPPED } state;
    pthread_t thread;
    pthread_cond_t change; /* on the monotonic clock */
    char ring[RING_BYTES]; /* whole lines */
    size_t first, len;
    uint64_t dropped, told;
} out; /* guarded by lock */

/* One line in one write, where the system takes it so: it stays whole among those of other processes. */
static bool write_line(const char *s, size_t n)
{
    static bool cut; /* the last line has no end; one thread at a time is here */
    const char *const begin = s;
    bool ok = !cut || deq_sys_write(STDERR_FILENO, "\n", 1) == 1;
    cut = cut && !ok;
    while (ok && n) {
        const ssize_t k = deq_sys_write(STDERR_FILENO, s, n);
        if (k > 0) {
            s += k;
            n -= (size_t)k;
        } else if (k < 0 && errno == EAGAIN) { /* another process made it so */
            ok = poll(&(struct pollfd){.fd = STDERR_FILENO, .events = POLLOUT}, 1, -1) > 0;
        } else {
            ok = k < 0 && errno == EINTR;
        }
    }
    cut = cut || (!ok && s > begin);
    return ok;
}

/* Caller holds the lock. */
static void put(const char *line, size_t n)
{
    if (n > RING_BYTES - out.len) {
        out.dropped++;
        return;
    }
    for (size_t i = 0; i < n; i++)
        out.ring[(out.first + out.len + i) % RING_BYTES] = line[i];
    out.len += n;
    pthread_cond_broadcast(&out.change);
}

/* Caller holds the lock; there is a line. */
static size_t take(char ret[LINE_MAX_BYTES + 1])
{
    size_t n = 0;
    do
        ret[n] = out.ring[(out.first + n) % RING_BYTES];
    while (ret[n++] != '\n');
    out.first = (out.first + n) % RING_BYTES;
    out.len -= n;
    return n;
}

/* Lines are written again: says how many were not. Caller holds the lock, which it leaves for writing. */
static void tell(void)
{
    char text[LINE_MAX_BYTES + 1];
    const uint64_t untold = out.dropped - out.told;
    pthread_mutex_unlock(&lock);
    json_t *line = line_begin(LOG_WARN, "log lines dropped");
    json_object_set_new(line, "lines", json_integer((json_int_t)untold));
    const size_t n = line_end(line, text);
    const bool ok = n && write_line(text, n);
    pthread_mutex_lock(&lock);
    out.told += ok ? untold : 0;
}

static void *log_main(void *arg)
{
    char line[LINE_MAX_BYTES + 1];
    (void)arg;
    (void)patience_for_good(); /* lines are in no hurry */
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!out.len && out.state == RUNNING)
            pthread_cond_wait(&out.change, &lock);
        if (!out.len)
            break;
        const size_t n = take(line);
        pthread_mutex_unlock(&lock);
        const bool ok = write_line(line, n);
        pthread_mutex_lock(&lock);
        out.dropped += !ok;
        if (ok && out.dropped != out.told)
            tell();
    }
    out.state = STOPPED;
    pthread_cond_broadcast(&out.change);
    pthread_mutex_unlock(&lock);
    return NULL;
}

enum deq_rc log_start(struct deq_err *err)
{
    pthread_condattr_t attr;
    sigset_t all, before;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&out.change, &attr);
    pthread_condattr_destroy(&attr);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_mutex_lock(&lock);
    const bool ok = DEQ_THREAD(pthread_create(&out.thread, NULL, log_main, NULL)) == 0;
    if (ok) {
        out.state = RUNNING;
        (void)pthread_setname_np(out.thread, "log");
    }
    pthread_mutex_unlock(&lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok ? DEQ_OK : deq_fail(err, DEQ_EIO, "cannot start a thread");
}

void log_stop(void)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += FLUSH_MS / 1000;
    pthread_mutex_lock(&lock);
    const bool running = out.state == RUNNING;
    if (running) {
        out.state = STOPPING;
        pthread_cond_broadcast(&out.change);
    }
    while (out.state == STOPPING && pthread_cond_timedwait(&out.change, &lock, &until) != ETIMEDOUT)
        ;
    const bool ended = running && out.state == STOPPED;
    pthread_mutex_unlock(&lock);
    if (ended)
        pthread_join(out.thread, NULL);
}

uint64_t log_dropped(void)
{
    pthread_mutex_lock(&lock);
    const uint64_t n = out.dropped;
    pthread_mutex_unlock(&lock);
    return n;
}

/* A whole line of n bytes; 0: there was none to be had. */
static void hand_over(const char *line, size_t n)
{
    pthread_mutex_lock(&lock);
    if (!n || out.state == STOPPED || out.state == STOPPING)
        out.dropped++;
    else if (out.state == RUNNING)
        put(line, n);
    else
        out.dropped += !write_line(line, n);
    pthread_mutex_unlock(&lock);
}

/* NULL: a text of ours that is not UTF-8, or no memory. */
static json_t *value_of(const struct log_field *f)
{
    switch (f->kind) {
    case LOG_TEXT: return json_string(f->text);
    case LOG_INTEGER: return json_integer(f->integer);
    case LOG_REAL: return json_real(f->real);
    case LOG_BOOL: return json_boolean(f->integer);
    }
    return NULL;
}

void log_fields(enum log_level level, const char *message, const struct log_field *fields)
{
    if (!log_on(level))
        return;
    uint64_t left_out;
    pthread_mutex_lock(&lock);
    const bool ok = admit(message, &left_out);
    pthread_mutex_unlock(&lock);
    if (!ok)
        return;
    json_t *line = line_begin(level, message);
    bool lost = false;
    for (const struct log_field *f = fields; f->name; f++)
        if (f->kind != LOG_TEXT || f->text)
            lost = json_object_set_new(line, f->name, value_of(f)) || lost;
    if (lost)
        json_object_set_new(line, "fields", json_string("lost"));
    if (left_out)
        json_object_set_new(line, "left_out_before", json_integer((json_int_t)left_out));
    char text[LINE_MAX_BYTES + 1];
    hand_over(text, line_end(line, text));
}

void log_plain(const char *format, ...)
{
    char text[LINE_MAX_BYTES + 1];
    if (!isatty(STDERR_FILENO))
        return;
    va_list ap;
    va_start(ap, format);
    const int n = vsnprintf(text, LINE_MAX_BYTES, format, ap);
    va_end(ap);
    if (n < 0 || n >= LINE_MAX_BYTES)
        return;
    text[n] = '\n';
    hand_over(text, (size_t)n + 1);
}
