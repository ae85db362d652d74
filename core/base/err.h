/* How an error is told: the caller's struct is filled where it happens. */
#ifndef DEQ_BASE_ERR_H
#define DEQ_BASE_ERR_H

#include "core/base/rc.h"

/* Fills err (when not NULL) and returns code, so that `return deq_fail(err, DEQ_EFORMAT, "...")` is one statement. Text
 * from outside may land in the message: control characters and what is not UTF-8 become '?', and what is too long is
 * cut at a whole character. */
enum deq_rc deq_fail(struct deq_err *err, enum deq_rc code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text that stands in err. */
enum deq_rc deq_fail_prefix(struct deq_err *err, enum deq_rc code, const char *prefix);

#endif
