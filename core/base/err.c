#include "core/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/utf8.h"

enum deq_rc deq_fail(struct deq_err *err, enum deq_rc code, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        err->code = code;
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
        deq_utf8_line(err->text);
    }
    return code;
}

enum deq_rc deq_fail_prefix(struct deq_err *err, enum deq_rc code, const char *prefix)
{
    if (err) {
        char old[sizeof err->text];
        memcpy(old, err->text, sizeof old);
        err->code = code;
        snprintf(err->text, sizeof err->text, "%s: %.*s", prefix, (int)sizeof old / 2 + 160, old);
        deq_utf8_line(err->text);
    }
    return code;
}

const char *deq_rc_name(enum deq_rc rc)
{
    switch (rc) {
    case DEQ_OK: return "ok";
    case DEQ_ENOMEM: return "out of memory";
    case DEQ_EINVAL: return "invalid argument";
    case DEQ_EFORMAT: return "damaged or unexpected data";
    case DEQ_EIO: return "input/output error";
    case DEQ_EFULL: return "no room";
    case DEQ_ENUMERIC: return "not a finite number";
    case DEQ_ECANCELED: return "cancelled";
    case DEQ_ENOTFOUND: return "not found";
    }
    return "unknown";
}
