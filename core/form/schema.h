/* JSON Schema (2020-12 and, as far as the words are the same, its drafts since 4): the texts of JSON values that fit.
 *
 *     any        type, enum, const, anyOf, oneOf, allOf, $ref, $defs
 *     object     properties, required, additionalProperties
 *     array      items, prefixItems, minItems, maxItems
 *     string     minLength, maxLength, pattern, format: date, time, date-time, uuid, ipv4, email, uri
 *     number     minimum, maximum, exclusiveMinimum, exclusiveMaximum
 *
 * Not every text that fits is made, but every one that is made fits:
 *   - one blank at most behind a comma or colon, none elsewhere; names and values of enum and const as one text each
 *   - properties in the order in which they are declared; others behind them, where additionalProperties says so
 *     (absent beside `properties`, it is as if false; names of others have no escapes, so that they are other ones)
 *   - numbers of at most 15 digits before the point, 16 behind it and an exponent of two; integers of at most 18; next
 *     to a bound that is left out no more digits than doubles tell apart
 *   - without `type` the words that are there say of which types a value may be
 *   - a date is of the years 1000 to 2999, and not the 29th of February
 *   - values lie at most DEQ_FORM_DEPTH deep in each other where a schema recurs, or says nothing
 * Annotations (title, description, default, examples, ...) change nothing. Every other word is refused by name, and
 * so are combinations that would need more: branches of oneOf that may overlap, allOf of what cannot be joined word by
 * word, enum or pattern beside other conditions, bounds of numbers that are no integers. */
#ifndef DEQ_FORM_SCHEMA_H
#define DEQ_FORM_SCHEMA_H

#include "core/form/expr.h"

enum { DEQ_SCHEMA_NODES_MAX = 4096 };

enum deq_rc deq_schema_read(struct deq_exprs *x, const char *text, size_t len, uint32_t *ret_root, struct deq_err *err);

#endif
