/* Unicode normalisation forms of text: what the NFC, NFD, NFKC and NFKD normalisers of a tokenizer.json ask for.
 *
 * libunistring does the work, because it sorts a run of combining marks in O(n log n) (utf8proc 2.8 swaps neighbours: a
 * text of marks alone would take n^2), works on buffers with a length, and is there already: GnuTLS needs it. Its
 * tables are Unicode 14, those that the `tokenizers` library compiles in are of another version: a normalisation once
 * given never changes, so that the two differ only in characters that one of them does not know yet. Bytes that are not
 * UTF-8 stay as they are. Pure functions, any thread. */
#ifndef DEQ_TEXT_NORMALIZE_H
#define DEQ_TEXT_NORMALIZE_H

#include "core/base/buf.h"
#include "core/base/err.h"

enum deq_form { DEQ_NFC, DEQ_NFD, DEQ_NFKC, DEQ_NFKD };
enum { DEQ_FORM_COUNT = DEQ_NFKD + 1 };

/* The form of a name such as "NFC"; false when it is none. */
bool deq_form_find(const char *name, enum deq_form *ret_form);
/* Appends the form of s[0..n) to out; false: no memory. */
bool deq_normalize(enum deq_form form, const char *s, size_t n, struct deq_buf *out);

#endif
