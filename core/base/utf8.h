/* UTF-8 as RFC 3629 defines it: no overlong forms, no surrogates, nothing past U+10FFFF. Pure functions. */
#ifndef DEQ_BASE_UTF8_H
#define DEQ_BASE_UTF8_H

#include "core/base/base.h"

/* Decodes one code point of s[0..n). Returns its length in bytes (1..4), 0 when n is 0 or the bytes are a valid but
 * unfinished beginning, -1 when they can never be UTF-8. */
int deq_utf8_decode(const char *s, size_t n, uint32_t *ret_cp);
/* Writes cp as 1..4 bytes. cp must be a valid scalar value. */
int deq_utf8_encode(uint32_t cp, char out[4]);
bool deq_utf8_valid(const char *s, size_t n);
/* Length of the longest prefix of s that does not end inside an unfinished code point.
 * Invalid bytes count as finished. */
size_t deq_utf8_complete(const char *s, size_t n);

/* Where a text begins and ends without the white space around it, as Python's str.strip has it (of n bytes). */
void deq_utf8_strip(const char *s, size_t n, size_t *ret_begin, size_t *ret_end);

/* Counts the characters of a text that comes in pieces, each byte that is in none as deq_utf8_sanitize
 * shows it. Starts as zeros. */
struct deq_utf8_place {
    size_t chars;  /* that are complete */
    char open[4];  /* the bytes of the next one so far */
    size_t n_open;
};
/* Goes past a piece. Returns the number of the character that it begins in or with (a piece without
 * bytes: that would come next). */
size_t deq_utf8_pass(struct deq_utf8_place *p, const char *s, size_t n);

/* Makes one line of UTF-8 of any bytes, in place: control characters and what is no character become '?', and a
 * character that is cut at the end goes. */
void deq_utf8_line(char *s);

struct deq_buf;
/* Appends s with every invalid sequence replaced by U+FFFD (maximal subparts, as the Unicode standard recommends). */
bool deq_utf8_sanitize(struct deq_buf *out, const char *s, size_t n);

#endif
