/* UTF-8 as RFC 3629 defines it: no overlong forms, no surrogates, nothing past U+10FFFF. Pure functions. */
#ifndef DEQ_BASE_UTF8_H
#define DEQ_BASE_UTF8_H

#include "core/base/base.h"

/* Decodes one code point of s[0..n). Returns its length in bytes (1..4), 0 when n is 0 or the bytes are a valid but unfinished
 * beginning, -1 when they can never be UTF-8. */
int deq_utf8_decode(const char *s, size_t n, uint32_t *ret_cp);
/* Writes cp as 1..4 bytes. cp must be a valid scalar value. */
int deq_utf8_encode(uint32_t cp, char out[4]);
bool deq_utf8_valid(const char *s, size_t n);
/* Length of the longest prefix of s that does not end inside an unfinished code point. Invalid bytes count as finished. */
size_t deq_utf8_complete(const char *s, size_t n);
size_t deq_utf8_count(const char *s, size_t n); /* code points of valid text */

struct deq_buf;
/* Appends s with every invalid sequence replaced by U+FFFD (maximal subparts, as the Unicode standard recommends). */
bool deq_utf8_sanitize(struct deq_buf *out, const char *s, size_t n);

#endif
