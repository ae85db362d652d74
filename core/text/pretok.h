/* Pre-tokenisers: cut text into the pieces inside which BPE may merge. Hand-written scanners for a fixed list of
 * regular expressions, because a general engine backtracks and has its own idea of \s; an unknown expression is refused
 * by the loader. Classes come from unicode_tables.h (one stated Unicode version). Pure functions, any thread. */
#ifndef DEQ_TEXT_PRETOK_H
#define DEQ_TEXT_PRETOK_H

#include "core/base/base.h"

enum deq_pretok {
    DEQ_PRETOK_WHOLE,  /* no cutting */
    DEQ_PRETOK_GPT2,   /* also ByteLevel with use_regex */
    DEQ_PRETOK_CL100K, /* also Llama-3: digits in groups of at most three */
    DEQ_PRETOK_CL100K_2, /* as CL100K, but digits in groups of at most two (Parcae, Attractor) */
    DEQ_PRETOK_QWEN2,  /* as CL100K, but digits one by one */
    DEQ_PRETOK_DIGIT,  /* every character of \p{N} by itself, and what lies between */
    DEQ_PRETOK_DIGITS, /* runs of \p{N}, and what lies between */
};

/* The scanner for a regular expression as it stands in tokenizer.json; false when it is not on the list. */
bool deq_pretok_find(const char *regex, enum deq_pretok *ret_kind);

/* Length in bytes of the first piece of s[0..n), n > 0. Every byte belongs to exactly one piece. A byte that is not
 * part of valid UTF-8 counts as a character that is neither letter, number nor space. */
size_t deq_pretok_next(enum deq_pretok kind, const char *s, size_t n);

bool deq_cp_is_space(uint32_t cp); /* White_Space */

#endif
