/* JSON texts become jansson's trees, and trees texts, here and nowhere else, because jansson is not safe where memory
 * runs out: its lexer goes on with what it could not store (lex_save ignores the failure of its buffer) and writes past
 * the end of a string, or calls a text wrong that is right; and a tree that lacks what found no memory prints as if it
 * were whole. So an allocation that fails leaves the parser at once, and what it had is given back; and a tree is
 * printed only when nothing failed while it was built. Any thread. */
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
/* The tree as text, which free() takes. NULL: no memory for it, or for what it was built of on this thread, or there is
 * no tree. Asks deq_json_failed also then, so that a want of memory fails one text. flags: of json_dumps. */
char *deq_json_text(const json_t *tree, size_t flags);

/* As deq_json_parse, but numbers that neither a double nor, without point and exponent, an int64_t holds, and at which
 * jansson would stop, are 1e308 or -1e308. */
enum deq_rc deq_json_parse_clamped(const char *text, size_t len, size_t flags, json_t **ret, json_error_t *ret_where);
/* Of a text whose numbers and strings are looked at roughly or not at all: every JSON text is taken, with
 * large numbers clamped, and with U+FFFD for NUL and halves of surrogate pairs where jansson does not hold
 * them. *ret only on success. */
enum deq_rc deq_json_parse_loose(const char *text, size_t len, json_t **ret);

#endif
