#include "core/text/pretok.h"

#include <string.h>

#include "core/base/utf8.h"
#include "core/text/unicode_tables.h"

/* Alternatives are tried in order and the first that matches wins, so each scanner below is a list
 * of ifs in the regex's order.
 * Linear time: a run of blanks is read once to its end, and at most its last blank is left for the next piece. */
static const struct {
    enum deq_pretok kind;
    const char *regex;
} known[] = {
    {DEQ_PRETOK_GPT2, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    {DEQ_PRETOK_GPT2, "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    {DEQ_PRETOK_CL100K,
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {DEQ_PRETOK_CL100K_2,
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,2}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    /* nothing that follows a possessive part could use what it would give back, and \s* takes all line ends but one */
    {DEQ_PRETOK_CL100K_2,
     "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,2}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"
     "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"},
    {DEQ_PRETOK_QWEN2,
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {DEQ_PRETOK_QWEN2,
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,1}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
};

enum class { OTHER, LETTER, NUMBER, SPACE };

struct ch {
    enum class cls;
    uint32_t cp; /* UINT32_MAX for a byte that is not UTF-8 */
    size_t len;  /* 0 at the end of the text */
};

static bool in_ranges(const struct deq_cp_range *r, size_t n, uint32_t cp)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (cp > r[mid].last)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && cp >= r[lo].first;
}

bool deq_cp_is_space(uint32_t cp)
{
    return in_ranges(deq_cp_space, DEQ_COUNT(deq_cp_space), cp);
}

static enum class class_of(uint32_t cp)
{
    if (cp < 0x80) {
        uint32_t lower = cp | 0x20;
        return lower >= 'a' && lower <= 'z' ? LETTER
               : cp >= '0' && cp <= '9'     ? NUMBER
               : cp == ' ' || (cp >= 9 && cp <= 13) ? SPACE
                                                    : OTHER;
    }
    if (in_ranges(deq_cp_letter, DEQ_COUNT(deq_cp_letter), cp))
        return LETTER;
    if (deq_cp_is_space(cp))
        return SPACE;
    return in_ranges(deq_cp_number, DEQ_COUNT(deq_cp_number), cp) ? NUMBER : OTHER;
}

static struct ch peek(const char *s, size_t n, size_t at)
{
    uint32_t cp;
    if (at >= n)
        return (struct ch){.cls = OTHER, .cp = UINT32_MAX};
    int k = deq_utf8_decode(s + at, n - at, &cp);
    if (k <= 0)
        return (struct ch){.cls = OTHER, .cp = UINT32_MAX, .len = 1};
    return (struct ch){.cls = class_of(cp), .cp = cp, .len = (size_t)k};
}

/* End of the run of at most max characters of class cls that begins at `at`. */
static size_t run_end(const char *s, size_t n, size_t at, enum class cls, size_t max)
{
    for (; max; max--) {
        struct ch c = peek(s, n, at);
        if (!c.len || c.cls != cls)
            break;
        at += c.len;
    }
    return at;
}

static bool is_newline(struct ch c)
{
    return c.cp == '\r' || c.cp == '\n';
}

/* (?i:s) also matches U+017F, whose case folding is s; no other letter of the contractions has such a relative. */
static uint32_t fold(uint32_t cp)
{
    return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp == 0x17f ? 's' : cp;
}

/* 's|'t|'re|'ve|'m|'ll|'d at the beginning of s; 0 when none is there. */
static size_t contraction(const char *s, size_t n, bool any_case)
{
    if (s[0] != '\'')
        return 0;
    struct ch a = peek(s, n, 1), b = peek(s, n, 1 + a.len);
    uint32_t x = any_case ? fold(a.cp) : a.cp, y = any_case ? fold(b.cp) : b.cp;
    if (x == 's' || x == 't' || x == 'm' || x == 'd')
        return 1 + a.len;
    if ((x == 'r' && y == 'e') || (x == 'v' && y == 'e') || (x == 'l' && y == 'l'))
        return 1 + a.len + b.len;
    return 0;
}

/* \s+(?!\S)|\s+ : a run of blanks without its last one when a word follows it. */
static size_t blanks(const char *s, size_t n)
{
    size_t end = 0, last = 0;
    for (;;) {
        struct ch c = peek(s, n, end);
        if (!c.len || c.cls != SPACE)
            break;
        last = end;
        end += c.len;
    }
    return end < n && last > 0 ? last : end;
}

static size_t next_gpt2(const char *s, size_t n)
{
    size_t k = contraction(s, n, false);
    if (k)
        return k;
    size_t from = s[0] == ' '; /* the optional blank of ` ?\p{L}+`, ` ?\p{N}+`, ` ?[^\s\p{L}\p{N}]+` */
    struct ch c = peek(s, n, from);
    if (c.len && c.cls != SPACE)
        return run_end(s, n, from + c.len, c.cls, SIZE_MAX);
    return blanks(s, n);
}

static size_t next_cl100k(const char *s, size_t n, size_t max_digits)
{
    size_t k = contraction(s, n, true);
    if (k)
        return k;
    struct ch c = peek(s, n, 0), d = peek(s, n, c.len);
    if (c.cls == LETTER)
        return run_end(s, n, c.len, LETTER, SIZE_MAX);
    if (c.cls != NUMBER && !is_newline(c) && d.len && d.cls == LETTER)
        return run_end(s, n, c.len + d.len, LETTER, SIZE_MAX);
    if (c.cls == NUMBER)
        return run_end(s, n, c.len, NUMBER, max_digits - 1);
    size_t from = c.cp == ' ' ? c.len : 0; /* ` ?[^\s\p{L}\p{N}]+[\r\n]*` */
    size_t end = run_end(s, n, from, OTHER, SIZE_MAX);
    if (end > from) {
        while (end < n && (s[end] == '\r' || s[end] == '\n'))
            end++;
        return end;
    }
    end = run_end(s, n, 0, SPACE, SIZE_MAX); /* `\s*[\r\n]+` gives back blanks up to the last line end */
    while (end && s[end - 1] != '\r' && s[end - 1] != '\n')
        end--;
    return end ? end : blanks(s, n);
}

static size_t next_digits(const char *s, size_t n, size_t max_digits)
{
    struct ch c = peek(s, n, 0);
    if (c.cls == NUMBER)
        return run_end(s, n, c.len, NUMBER, max_digits - 1);
    size_t end = 0;
    for (; c.len && c.cls != NUMBER; c = peek(s, n, end))
        end += c.len;
    return end;
}

bool deq_pretok_find(const char *regex, enum deq_pretok *ret_kind)
{
    for (size_t i = 0; i < DEQ_COUNT(known); i++)
        if (!strcmp(regex, known[i].regex)) {
            *ret_kind = known[i].kind;
            return true;
        }
    return false;
}

size_t deq_pretok_next(enum deq_pretok kind, const char *s, size_t n)
{
    switch (kind) {
    case DEQ_PRETOK_WHOLE: return n;
    case DEQ_PRETOK_GPT2: return next_gpt2(s, n);
    case DEQ_PRETOK_CL100K: return next_cl100k(s, n, 3);
    case DEQ_PRETOK_CL100K_2: return next_cl100k(s, n, 2);
    case DEQ_PRETOK_QWEN2: return next_cl100k(s, n, 1);
    case DEQ_PRETOK_DIGIT: return next_digits(s, n, 1);
    case DEQ_PRETOK_DIGITS: return next_digits(s, n, SIZE_MAX);
    }
    return n;
}
