/* The log: one JSON object a line on standard error. Any thread; lines never interleave. No text of prompts or
 * completions, ever. Lines of one message are limited to 100 a second; what was left out is counted in the next line of
 * it.
 *
 * Nobody waits for whoever reads the log: a pipe that is full or a disk that hangs holds a thread of the log's own,
 * behind a ring of 256 KiB. What finds no room there, or cannot be written, is counted, and told in a line ("log lines
 * dropped") once something can be written again. */
#ifndef DEQ_SERVER_LOG_H
#define DEQ_SERVER_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_LEVELS };

void log_init(const char *level); /* error, warn, info, debug */
/* Starts the thread that writes. Until then lines are written by who has them. */
enum deq_rc log_start(struct deq_err *err);
/* What waits is written, for at most a second; lines that come later are dropped. */
void log_stop(void);
bool log_on(enum log_level level);

/* A field of a line. */
struct log_field {
    const char *name;
    enum { LOG_TEXT, LOG_INTEGER, LOG_REAL, LOG_BOOL } kind;
    union {
        const char *text;
        int64_t integer; /* also LOG_BOOL */
        double real;
    };
};

/* NULL: the field is left out. */
static inline struct log_field log_text(const char *name, const char *text)
{
    return (struct log_field){.name = name, .kind = LOG_TEXT, .text = text};
}

static inline struct log_field log_int(const char *name, int64_t x)
{
    return (struct log_field){.name = name, .kind = LOG_INTEGER, .integer = x};
}

static inline struct log_field log_real(const char *name, double x)
{
    return (struct log_field){.name = name, .kind = LOG_REAL, .real = x};
}

static inline struct log_field log_bool(const char *name, bool x)
{
    return (struct log_field){.name = name, .kind = LOG_BOOL, .integer = x};
}

/* log_line(LOG_INFO, "listening", log_text("address", address), log_int("load_ms", 120)); message: a literal. */
#define log_line(level, message, ...)                                                                                  \
    log_fields(level, message, (const struct log_field[]){__VA_ARGS__ __VA_OPT__(,) {0}})
/* fields: behind the last one without a name. */
void log_fields(enum log_level level, const char *message, const struct log_field *fields);

/* Where standard error is a terminal: a line in plain words for whoever sits there, without its end. */
__attribute__((format(printf, 1, 2))) void log_plain(const char *format, ...);
/* Lines that were lost since the start; not those beyond the limit. */
uint64_t log_dropped(void);

#endif
