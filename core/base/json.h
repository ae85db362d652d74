/* JSON texts become jansson's trees here and nowhere else, because jansson is not safe where memory runs out: its lexer
 * goes on with what it could not store (lex_save ignores the failure of its buffer) and writes past the end of a
 * string, or calls a text wrong that is right. So an allocation that fails leaves the parser at once, and what it had
 * is given back. Any thread. */
#ifndef DEQ_BASE_JSON_H
#define DEQ_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>

#include "core/base/err.h"

/* flags: of json_loadb. DEQ_EFORMAT: where says the place and the reason; DEQ_ENOMEM: it says nothing. */
enum deq_rc deq_json_parse(const char *text, size_t len, size_t flags, json_t **ret, json_error_t *ret_where);
/* Whether an allocation of jansson's failed on this thread, outside of a parse, since this was last asked. What it
 * built or printed then may lack a key, or half of one, and nothing else tells. */
bool deq_json_failed(void);

/* The same, but numbers that neither a double nor, without point and exponent, an int64_t holds, and at which
 * jansson would stop, are 1e308 or -1e308. */
enum deq_rc deq_json_parse_clamped(const char *text, size_t len, size_t flags, json_t **ret, json_error_t *ret_where);
/* Of a text whose numbers and strings are looked at roughly or not at all: every JSON text is taken, with
 * large numbers clamped, and with U+FFFD for NUL and halves of surrogate pairs where jansson does not hold
 * them. *ret only on success. */
enum deq_rc deq_json_parse_loose(const char *text, size_t len, json_t **ret);

#endif
