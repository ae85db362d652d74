#include "server/log.h"

#include <jansson.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"

enum { LINES_PER_SECOND = 100, CLASSES = 64, LINE_MAX_BYTES = 4096 };

static const char *const names[] = {"error", "warn", "info", "debug"};
static enum log_level threshold = LOG_INFO;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* by message, whose texts are literals of the program: few, and told apart by address. Guarded by lock. */
static struct {
    const char *message;
    uint64_t second, count, dropped;
} classes[CLASSES];

void log_init(const char *level)
{
    for (int i = 0; i < 4; i++)
        if (!strcmp(level, names[i]))
            threshold = (enum log_level)i;
}

bool log_on(enum log_level level)
{
    return level <= threshold;
}

/* Returns false when the line is one too many; *ret_dropped: how many were left out before it. */
static bool admit(const char *message, uint64_t *ret_dropped)
{
    const uint64_t second = deq_now_ns() / 1000000000u;
    *ret_dropped = 0;
    for (int i = 0; i < CLASSES; i++) {
        if (classes[i].message && classes[i].message != message)
            continue;
        classes[i].message = message;
        if (classes[i].second != second) {
            classes[i].second = second;
            classes[i].count = 0;
        }
        if (++classes[i].count > LINES_PER_SECOND) {
            classes[i].dropped++;
            return false;
        }
        *ret_dropped = classes[i].dropped;
        classes[i].dropped = 0;
        return true;
    }
    return true;
}

void log_line(enum log_level level, const char *message, const char *format, ...)
{
    if (!log_on(level))
        return;
    uint64_t dropped;
    pthread_mutex_lock(&lock);
    const bool ok = admit(message, &dropped);
    pthread_mutex_unlock(&lock);
    if (!ok)
        return;
    char stamp[40];
    const uint64_t ms = deq_wall_ms();
    const time_t t = (time_t)(ms / 1000);
    struct tm tm;
    gmtime_r(&t, &tm);
    const size_t n = strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(stamp + n, sizeof stamp - n, ".%03uZ", (unsigned)(ms % 1000));
    json_t *line = json_pack("{s:s, s:s, s:s}", "time", stamp, "level", names[level], "message", message), *fields = NULL;
    if (format) {
        va_list ap;
        va_start(ap, format);
        fields = json_vpack_ex(NULL, 0, format, ap);
        va_end(ap);
        json_object_update(line, fields);
    }
    if (dropped)
        json_object_set_new(line, "left_out_before", json_integer((json_int_t)dropped));
    char *text = json_dumps(line, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(9));
    if (text && strlen(text) < LINE_MAX_BYTES) {
        /* one write: lines of several threads stay whole. A log that cannot be written must not stop the service */
        char out[LINE_MAX_BYTES + 1];
        const int len = snprintf(out, sizeof out, "%s\n", text);
        if (write(STDERR_FILENO, out, (size_t)len) < 0) {
            ;
        }
    }
    free(text); /* jansson's */
    json_decref(fields);
    json_decref(line);
}
