/* The grammar of header values (RFC 9110): lists, parameters, weights, quoted strings, blanks round all of them. Pure
 * functions of zero-terminated text. */
#ifndef DEQ_SERVER_HEADER_H
#define DEQ_SERVER_HEADER_H

#include "core/base/base.h"

/* Content-Type: whether it is this type ("application/json"), with any parameters. */
bool header_type_is(const char *value, const char *type);
/* Content-Encoding: nothing but identity. */
bool header_is_identity(const char *value);

/* If-None-Match: "*", or a list in which this tag is ("x", quotes included), weak or strong. */
bool header_has_tag(const char *value, const char *tag);

/* What Accept says of a type: the most specific range that covers it decides. */
struct header_weight {
    unsigned specific; /* 3: it is named, 2: its "type/" and an asterisk, 1: anything, 0: not covered */
    unsigned q;        /* thousandths */
};
/* Adds one line of Accept to what the lines before it said. */
void header_accept(const char *value, const char *type, struct header_weight *w);

#endif
