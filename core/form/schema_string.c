/* Strings: any, of a length, that match a pattern or have a format; names of properties. */
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/form/regex.h"
#include "core/form/schema_impl.h"

enum { LAST = 0x10ffff, LENGTH_MAX = 4096, NAME_MAX_BYTES = 64 };

static deq_expr quoted(struct schema_reader *r, deq_expr inner)
{
    const deq_expr quote = deq_expr_str(r->x, "\"");
    return deq_expr_seq3(r->x, quote, inner, quote);
}

/* A character that stands for itself: no quote, backslash or control. */
static deq_expr plain(struct schema_reader *r)
{
    const deq_expr some = deq_expr_alt(r->x, deq_expr_chars(r->x, ' ', '!'), deq_expr_chars(r->x, '#', '['));
    return deq_expr_alt(r->x, some, deq_expr_chars(r->x, ']', LAST));
}

static deq_expr short_escape(struct schema_reader *r)
{
    deq_expr all = DEQ_NEVER;
    for (const char *c = "\"\\/bfnrt"; *c; c++)
        all = deq_expr_alt(r->x, all, deq_expr_byte(r->x, (unsigned char)*c, (unsigned char)*c));
    return deq_expr_seq(r->x, deq_expr_str(r->x, "\\"), all);
}

static deq_expr hex(struct schema_reader *r, const char *ranges)
{
    deq_expr all = DEQ_NEVER;
    for (; *ranges; ranges += 2)
        all = deq_expr_alt(r->x, all, deq_expr_byte(r->x, (unsigned char)ranges[0], (unsigned char)ranges[1]));
    return all;
}

/* \uXXXX of one character: no half of a surrogate pair, and not U+0000, which many readers refuse. */
static deq_expr long_escape(struct schema_reader *r)
{
    const deq_expr any = hex(r, "09afAF"), some = hex(r, "19afAF"), zero = deq_expr_str(r->x, "0");
    deq_expr low = deq_expr_seq(r->x, zero, some); /* behind 00, and so on */
    low = deq_expr_alt(r->x, low, deq_expr_seq(r->x, some, any));
    low = deq_expr_alt(r->x, deq_expr_seq(r->x, zero, low), deq_expr_seq3(r->x, some, any, any));
    deq_expr all = deq_expr_seq(r->x, zero, low);
    all = deq_expr_alt(r->x, all, deq_expr_seq3(r->x, hex(r, "19acefACEF"), any, deq_expr_seq(r->x, any, any)));
    all = deq_expr_alt(r->x, all, deq_expr_seq3(r->x, hex(r, "ddDD"), hex(r, "07"), deq_expr_seq(r->x, any, any)));
    return deq_expr_seq(r->x, deq_expr_str(r->x, "\\u"), all);
}

deq_expr schema_any_string(struct schema_reader *r)
{
    const deq_expr one = deq_expr_alt(r->x, deq_expr_alt(r->x, plain(r), short_escape(r)), long_escape(r));
    return quoted(r, deq_expr_repeat(r->x, one, 0, DEQ_EXPR_ENDLESS));
}

static deq_expr of_length(struct schema_reader *r, uint32_t min, uint32_t max)
{
    if (min > LENGTH_MAX || (max > LENGTH_MAX && max != DEQ_EXPR_ENDLESS))
        return schema_fail(r, min > LENGTH_MAX ? "minLength" : "maxLength", "more than 4096 is not supported");
    return quoted(r, deq_expr_repeat(r->x, deq_expr_alt(r->x, plain(r), short_escape(r)), min, max));
}

/* Formats as patterns, where they say less than the format so that all that match have it. */
#define MONTH_DAY                                                                                                   \
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
#define DATE "[12][0-9]{3}-" MONTH_DAY
#define TIME "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define OCTET "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define LABEL "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
    {"ipv4", "^" OCTET "(\\." OCTET "){3}$"},
    {"email", "^[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,32})?@" LABEL "(\\." LABEL "){1,3}$"},
    {"uri", "^https?://" LABEL "(\\." LABEL "){0,3}(:[1-9][0-9]{1,3})?(/[A-Za-z0-9_.~-]*)*$"},
};

static deq_expr matching(struct schema_reader *r, const char *pattern, size_t len)
{
    deq_expr inner;
    struct deq_err err;
    const enum deq_rc rc = deq_regex_read(r->x, pattern, len, DEQ_REGEX_STRING, &inner, &err);
    return rc ? schema_fail(r, "pattern", err.text) : quoted(r, inner);
}

deq_expr schema_string(struct schema_reader *r, const json_t *s)
{
    const json_t *pattern = json_object_get(s, "pattern"), *format = json_object_get(s, "format");
    const bool sized = json_object_get(s, "minLength") || json_object_get(s, "maxLength");
    const uint32_t min = schema_count(r, s, "minLength", 0), max = schema_count(r, s, "maxLength", DEQ_EXPR_ENDLESS);
    if ((pattern && !json_is_string(pattern)) || (format && !json_is_string(format)))
        return schema_fail(r, pattern ? "pattern" : "format", "must be a string");
    if ((pattern != NULL) + (format != NULL) + sized > 1)
        return schema_fail(r, pattern ? "pattern" : "format", "not supported beside another condition on a string");
    if (pattern)
        return matching(r, json_string_value(pattern), json_string_length(pattern));
    for (size_t i = 0; format && i < DEQ_COUNT(formats); i++)
        if (!strcmp(json_string_value(format), formats[i].name))
            return matching(r, formats[i].pattern, strlen(formats[i].pattern));
    if (format)
        return schema_fail(r, "format", "only date, time, date-time, uuid, ipv4, email and uri are supported");
    return sized ? of_length(r, min, max) : schema_any_string(r);
}

/* --- Names --- */

deq_expr schema_name(struct schema_reader *r, const char *name, size_t len)
{
    json_t *v = json_stringn(name, len);
    const deq_expr text = v ? schema_literal(r, v) : schema_no_memory(r);
    json_decref(v);
    return text;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The rests of names that are none of names[0..n), sorted, all of which begin with the same `at` bytes. */
static deq_expr none_of(struct schema_reader *r, const char *const *names, size_t n, size_t at, deq_expr anything)
{
    struct deq_ranges others = {.n = 3, .at = {{' ', '!'}, {'#', '['}, {']', LAST}}};
    deq_expr all = DEQ_EMPTY;
    size_t i = 0;
    for (; i < n && !names[i][at]; i++) /* a name ends here: this is none */
        all = DEQ_NEVER;
    (void)deq_ranges_invert(&others); /* what is no character here */
    while (i < n && !r->rc) {
        uint32_t c;
        const int len = deq_utf8_decode(names[i] + at, strlen(names[i] + at), &c);
        size_t same = i;
        while (same < n && !strncmp(names[same] + at, names[i] + at, (size_t)len))
            same++;
        if (!deq_ranges_add(&others, c, c))
            return schema_fail(r, "additionalProperties", "too many properties beside it");
        if (c >= ' ' && c != '"' && c != '\\') /* another name cannot be written so that it begins like this one */
            all = deq_expr_alt(r->x, all, deq_expr_seq(r->x, deq_expr_chars(r->x, c, c),
                                                       none_of(r, names + i, same - i, at + (size_t)len, anything)));
        i = same;
    }
    (void)deq_ranges_invert(&others);
    return deq_expr_alt(r->x, all, deq_expr_seq(r->x, deq_ranges_expr(r->x, &others), anything));
}

deq_expr schema_other_name(struct schema_reader *r, const char *const *names, size_t n)
{
    const char **sorted = DEQ_NEW_ARRAY(const char *, n);
    size_t longest = 0;
    if (!sorted)
        return schema_no_memory(r);
    for (size_t i = 0; i < n; i++) {
        sorted[i] = names[i];
        longest = DEQ_MAX(longest, strlen(names[i]));
    }
    qsort(sorted, n, sizeof *sorted, by_bytes);
    const deq_expr anything = deq_expr_repeat(r->x, plain(r), 0, DEQ_EXPR_ENDLESS);
    const deq_expr all = longest > NAME_MAX_BYTES
                             ? schema_fail(r, "additionalProperties", "a property beside it has a name of more than 64 "
                                                                      "bytes: not supported")
                             : none_of(r, sorted, n, 0, anything);
    deq_free(sorted);
    return quoted(r, all);
}
