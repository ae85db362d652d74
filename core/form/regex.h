/* Regular expressions, as far as ECMAScript's and Python's are the same: what matches here matches in both.
 *
 *     abc . [a-z^-] [^a] \d \w \s \D \W \S \n \r \t \f \v \xHH \uHHHH \u{H} \. ...
 *     a|b (a) (?:a) (?<name>a) (?P<name>a) a* a+ a? a{2} a{2,} a{2,5}, also lazy (a*?)
 *     ^ and $ at the two ends of the whole or of one of its alternatives
 *
 * Refused by name: look-around, back-references, \b and other anchors, flags, possessive quantifiers, properties (\p).
 * Where dialects differ the smaller set counts: \d and \w are ASCII, \W too, \D ends at U+065F (behind which there are
 * digits of other scripts), \S has no blank of either dialect, . no line end of either; within [^...] it is the larger
 * one that is left out. */
#ifndef DEQ_FORM_REGEX_H
#define DEQ_FORM_REGEX_H

#include "core/form/expr.h"

enum deq_regex_in {
    DEQ_REGEX_TEXT,   /* the expression matches the whole text */
    DEQ_REGEX_STRING, /* it matches somewhere in a JSON string's content: characters are written as JSON has them */
};

enum deq_rc deq_regex_read(struct deq_exprs *x, const char *text, size_t len, enum deq_regex_in in, deq_expr *ret,
                           struct deq_err *err);

/* Sets of code points, sorted ranges that are apart; for [...] of grammars too. */
enum { DEQ_RANGES_MAX = 512 };
struct deq_ranges {
    uint32_t n;
    struct { uint32_t lo, hi; } at[DEQ_RANGES_MAX];
};
bool deq_ranges_add(struct deq_ranges *r, uint32_t lo, uint32_t hi); /* false: too many */
bool deq_ranges_invert(struct deq_ranges *r);
deq_expr deq_ranges_expr(struct deq_exprs *x, const struct deq_ranges *r);

#endif
