/* The log: one JSON object a line on standard error. Any thread; lines never interleave. No text of prompts or completions, ever. Lines of one
 * message are limited to 100 a second; what was left out is counted in the next line of it. */
#ifndef DEQ_SERVER_LOG_H
#define DEQ_SERVER_LOG_H

#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_init(const char *level); /* error, warn, info, debug */
bool log_on(enum log_level level);
/* log_line(LOG_INFO, "listening", "{s:s}", "address", "127.0.0.1:8080"): the format is jansson's json_pack, NULL for no fields. */
void log_line(enum log_level level, const char *message, const char *format, ...);

#endif
