#include "core/base/json.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/rng.h"

/* The parse that this thread is in: the blocks that jansson has, and where to when there is none. They are a set: of a
 * text that breaks off jansson frees all, in an order of its own. */
static _Thread_local struct {
    bool on;
    jmp_buf no_memory;
    void **block; /* [cap] by a hash of the address, NULL: free; at least half are */
    size_t n, cap; /* cap: a power of two */
} parse;

static _Thread_local bool failed;

static size_t home_of(const void *b)
{
    return (size_t)deq_mix64((uintptr_t)b) & (parse.cap - 1);
}

/* Where b stands, or would. */
static size_t place_of(const void *b)
{
    size_t i = home_of(b);
    while (parse.block[i] && parse.block[i] != b)
        i = (i + 1) & (parse.cap - 1);
    return i;
}

static bool grow(void)
{
    void **const old = parse.block;
    const size_t n = parse.cap, cap = DEQ_MAX(2 * n, (size_t)128);
    void **const more = DEQ_NEW_ARRAY(void *, cap);
    if (!more)
        return false;
    parse.block = more;
    parse.cap = cap;
    for (size_t i = 0; i < n; i++)
        if (old[i])
            more[place_of(old[i])] = old[i];
    deq_free(old);
    return true;
}

static void *take(size_t bytes)
{
    if (!parse.on) {
        void *b = deq_alloc_plain(bytes);
        failed = failed || !b;
        return b;
    }
    if (2 * (parse.n + 1) > parse.cap && !grow())
        longjmp(parse.no_memory, 1);
    void *b = deq_alloc_plain(bytes);
    if (!b)
        longjmp(parse.no_memory, 1);
    parse.n++;
    return parse.block[place_of(b)] = b;
}

/* What place i held is no longer there: those behind it that would stand there, but for it, come nearer. */
static void close_gap(size_t i)
{
    const size_t mask = parse.cap - 1;
    for (size_t k = (i + 1) & mask; parse.block[k]; k = (k + 1) & mask)
        if (((k - home_of(parse.block[k])) & mask) >= ((k - i) & mask)) {
            parse.block[i] = parse.block[k];
            i = k;
        }
    parse.block[i] = NULL;
}

static void give(void *b)
{
    const size_t i = parse.on && parse.cap ? place_of(b) : 0;
    if (parse.on && parse.cap && parse.block[i]) {
        parse.n--;
        close_gap(i);
    }
    deq_free_plain(b);
}

/* From the start: trees may be built before the first parse. */
__attribute__((constructor)) static void take_allocator(void)
{
    json_set_alloc_funcs(take, give);
}

static json_t *guarded(const char *text, size_t len, size_t flags, json_error_t *where, bool *ret_no_memory)
{
    if (setjmp(parse.no_memory)) {
        for (size_t i = 0; i < parse.cap; i++)
            deq_free_plain(parse.block[i]);
        *ret_no_memory = true;
        return NULL;
    }
    parse.on = true;
    return json_loadb(text, len, flags, where);
}

bool deq_json_failed(void)
{
    const bool was = failed;
    failed = false;
    return was;
}

char *deq_json_text(const json_t *tree, size_t flags)
{
    char *text = tree ? json_dumps(tree, flags) : NULL;
    if (!deq_json_failed())
        return text;
    free(text); /* jansson's */
    return NULL;
}

enum deq_rc deq_json_parse(const char *text, size_t len, size_t flags, json_t **ret, json_error_t *ret_where)
{
    bool no_memory = false;
    json_t *root = guarded(text, len, flags, ret_where, &no_memory);
    deq_free(parse.block);
    parse.on = false;
    parse.block = NULL;
    parse.n = parse.cap = 0;
    if (!root)
        return no_memory ? DEQ_ENOMEM : DEQ_EFORMAT;
    *ret = root;
    return DEQ_OK;
}

/* --- What JSON allows and jansson does not hold --- */

/* Length of the JSON number at s, 0 when there is none. */
static size_t number_length(const char *s, bool *ret_real)
{
    const char *at = s + (*s == '-');
    if (!isdigit((unsigned char)*at) || (*at == '0' && isdigit((unsigned char)at[1])))
        return 0;
    at += strspn(at, "0123456789");
    const char *const whole = at;
    if (*at == '.' && isdigit((unsigned char)at[1]))
        at += 1 + strspn(at + 1, "0123456789");
    const char *const e = *at == 'e' || *at == 'E' ? at + 1 + (at[1] == '-' || at[1] == '+') : at;
    if (e > at && isdigit((unsigned char)*e))
        at = e + strspn(e, "0123456789");
    *ret_real = at > whole;
    return (size_t)(at - s);
}

/* Whether neither a double nor, without a point or exponent, an int64_t holds it. */
static bool overflows(const char *s, bool real)
{
    errno = 0;
    if (real)
        return isinf(strtod(s, NULL));
    (void)strtoll(s, NULL, 10);
    return errno == ERANGE;
}

/* In place; text[len] is 0. */
static void clamp_numbers(char *text, size_t len)
{
    bool in_string = false, real;
    for (size_t i = 0, n; i < len; i += n) {
        n = in_string && text[i] == '\\' ? 2 : 1;
        if (text[i] == '"')
            in_string = !in_string;
        const size_t number = in_string ? 0 : number_length(text + i, &real);
        if (!number)
            continue;
        n = number;
        if (!overflows(text + i, real))
            continue;
        const char *const big = text[i] == '-' ? "-1e308" : "1e308"; /* what overflows is at least as long: 9e308 */
        memset(text + i, ' ', n);
        memcpy(text + i, big, strlen(big));
    }
}

/* The number that \uXXXX at s stands for, or -1: it is none. */
static long escaped(const char *s)
{
    char digits[5] = "", *end;
    if (s[0] != '\\' || s[1] != 'u')
        return -1;
    memcpy(digits, s + 2, strnlen(s + 2, 4));
    const long code = isxdigit((unsigned char)digits[0]) ? strtol(digits, &end, 16) : -1;
    return code < 0 || end != digits + 4 ? -1 : code;
}

/* \u0000, which jansson takes in no key, and halves of surrogate pairs become \ufffd. */
static void plain_strings(char *text, size_t len)
{
    enum { ESCAPE = 6 };
    for (size_t i = 0, n; i < len; i += n) {
        const long code = escaped(text + i);
        const bool high = code >= 0xd800 && code < 0xdc00, low = code >= 0xdc00 && code < 0xe000;
        n = code >= 0 ? ESCAPE : text[i] == '\\' ? 2 : 1;
        if (high) {
            const long next = escaped(text + i + ESCAPE);
            if (next >= 0xdc00 && next < 0xe000) {
                n = 2 * (size_t)ESCAPE;
                continue;
            }
        }
        if (high || low || !code)
            memcpy(text + i + 2, "fffd", 4);
    }
}

/* Parses again what jansson refused, a copy in which numbers are clamped and, where it is loose, strings are plain. */
static enum deq_rc parse_mended(const char *text, size_t len, size_t flags, bool loose, json_t **ret,
                                json_error_t *ret_where)
{
    char *copy = deq_alloc(len + 1);
    if (!copy)
        return DEQ_ENOMEM;
    memcpy(copy, text, len);
    copy[len] = 0;
    clamp_numbers(copy, len);
    if (loose)
        plain_strings(copy, len);
    const enum deq_rc rc = deq_json_parse(copy, len, flags, ret, ret_where);
    deq_free(copy);
    return rc;
}

enum deq_rc deq_json_parse_clamped(const char *text, size_t len, size_t flags, json_t **ret, json_error_t *ret_where)
{
    const enum deq_rc rc = deq_json_parse(text, len, flags, ret, ret_where);
    const bool overflow = rc == DEQ_EFORMAT && json_error_code(ret_where) == json_error_numeric_overflow;
    return overflow ? parse_mended(text, len, flags, false, ret, ret_where) : rc;
}

enum deq_rc deq_json_parse_loose(const char *text, size_t len, json_t **ret)
{
    json_error_t where;
    const enum deq_rc rc = deq_json_parse(text, len, 0, ret, &where);
    return rc == DEQ_EFORMAT ? parse_mended(text, len, 0, true, ret, &where) : rc;
}
