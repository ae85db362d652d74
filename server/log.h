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
/* log_line(LOG_INFO, "listening", "{s:s}", "address", "127.0.0.1:8080"): the format is jansson's json_pack, NULL for no
 * fields. */
void log_line(enum log_level level, const char *message, const char *format, ...);
/* Where standard error is a terminal: a line in plain words for whoever sits there, without its end. */
__attribute__((format(printf, 1, 2))) void log_plain(const char *format, ...);
/* Lines that were lost since the start; not those beyond the limit. */
uint64_t log_dropped(void);

#endif
