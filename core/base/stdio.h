/* The standard streams of a program. For main() alone: the library touches neither streams nor signals. */
#ifndef DEQ_BASE_STDIO_H
#define DEQ_BASE_STDIO_H

#include <stdbool.h>

#include "core/base/err.h"

/* To be called first. Descriptors 0 to 2 are taken from now on, so that no file or connection gets the number of a
 * stream that the caller closed; a write that the reader has left (SIGPIPE) or that a limit on file size forbids
 * (SIGXFSZ) fails with an error number instead of ending the program. */
void deq_stdio_init(void);
/* Writes out what standard output holds now; false when any write to it has failed. The reason is kept for the end. */
bool deq_stdio_flush(void);
/* To be called last: writes out what standard output still holds and closes it. An error when
 * any write to it has failed. */
enum deq_rc deq_stdio_close(struct deq_err *err);

#endif
