#include "core/form/regex.h"

#include <stdio.h>
#include <string.h>

#include "core/base/utf8.h"

enum { GROUPS_MAX = 64, COUNT_MAX = 100000, LAST = 0x10ffff };

/* --- Sets of code points --- */

bool deq_ranges_add(struct deq_ranges *r, uint32_t lo, uint32_t hi)
{
    uint32_t i = 0, end;
    while (i < r->n && r->at[i].hi + 1 < lo)
        i++;
    for (end = i; end < r->n && r->at[end].lo <= hi + 1; end++) { /* these become one with it */
        lo = DEQ_MIN(lo, r->at[end].lo);
        hi = DEQ_MAX(hi, r->at[end].hi);
    }
    if (end == i && r->n == DEQ_RANGES_MAX)
        return false;
    memmove(&r->at[i + 1], &r->at[end], (r->n - end) * sizeof *r->at);
    r->n += 1 - (end - i);
    r->at[i].lo = lo;
    r->at[i].hi = hi;
    return true;
}

bool deq_ranges_invert(struct deq_ranges *r)
{
    struct deq_ranges out = {0};
    uint32_t next = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        if (r->at[i].lo > next && !deq_ranges_add(&out, next, r->at[i].lo - 1))
            return false;
        next = r->at[i].hi + 1;
    }
    if (next <= LAST && !deq_ranges_add(&out, next, LAST))
        return false;
    *r = out;
    return true;
}

deq_expr deq_ranges_expr(struct deq_exprs *x, const struct deq_ranges *r)
{
    deq_expr all = DEQ_NEVER;
    for (uint32_t i = 0; i < r->n; i++)
        all = deq_expr_alt(x, all, deq_expr_chars(x, r->at[i].lo, r->at[i].hi));
    return all;
}

/* --- Reading --- */

struct reader {
    struct deq_exprs *x;
    const char *text;
    size_t len, at;
    enum deq_regex_in in;
    unsigned depth;
    struct deq_err *err;
    enum deq_rc rc; /* of the first error */
};

static deq_expr fail(struct reader *r, const char *what)
{
    if (!r->rc)
        r->rc = deq_fail(r->err, DEQ_EINVAL, "%s, at byte %zu", what, r->at);
    return DEQ_NEVER;
}

static bool ahead(const struct reader *r, const char *s)
{
    const size_t n = strlen(s);
    return r->len - r->at >= n && !memcmp(r->text + r->at, s, n);
}

static bool take(struct reader *r, const char *s)
{
    const bool there = ahead(r, s);
    r->at += there ? strlen(s) : 0;
    return there;
}

static uint32_t take_char(struct reader *r)
{
    uint32_t cp = 0;
    const int n = r->at < r->len ? deq_utf8_decode(r->text + r->at, r->len - r->at, &cp) : 0;
    if (n <= 0)
        fail(r, r->at < r->len ? "it is not UTF-8" : "it ends too early");
    else
        r->at += (size_t)n;
    return cp;
}

static deq_expr json_char(struct reader *r, uint32_t c)
{
    static const char named[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    char escape[16];
    for (const char *p = named; *p; p += 2)
        if ((unsigned char)p[0] == c) {
            snprintf(escape, sizeof escape, "\\%c", p[1]);
            return deq_expr_str(r->x, escape);
        }
    snprintf(escape, sizeof escape, "\\u%04x", c);
    return deq_expr_str(r->x, escape);
}

/* A character of the set, as it stands in the text. */
static deq_expr of_set(struct reader *r, const struct deq_ranges *set)
{
    if (r->in == DEQ_REGEX_TEXT)
        return deq_ranges_expr(r->x, set);
    deq_expr all = DEQ_NEVER;
    for (uint32_t i = 0; i < set->n; i++) {
        uint32_t lo = DEQ_MAX(set->at[i].lo, 1u); /* U+0000, which many readers of JSON refuse, is never written */
        const uint32_t hi = set->at[i].hi;
        for (; lo < ' ' && lo <= hi; lo++)
            all = deq_expr_alt(r->x, all, json_char(r, lo));
        for (const char *special = "\"\\"; *special; special++)
            if (lo <= (uint32_t)*special && (uint32_t)*special <= hi) {
                if (lo < (uint32_t)*special)
                    all = deq_expr_alt(r->x, all, deq_expr_chars(r->x, lo, (uint32_t)*special - 1));
                all = deq_expr_alt(r->x, all, json_char(r, (uint32_t)*special));
                lo = (uint32_t)*special + 1;
            }
        all = deq_expr_alt(r->x, all, deq_expr_chars(r->x, lo, hi));
    }
    return all;
}

static deq_expr one_char(struct reader *r, uint32_t c)
{
    struct deq_ranges set = {.n = 1, .at = {{c, c}}};
    return of_set(r, &set);
}

/* --- Classes --- */

static void add_all(struct deq_ranges *set, const uint32_t (*ranges)[2], size_t n)
{
    for (size_t i = 0; i < n; i++)
        (void)deq_ranges_add(set, ranges[i][0], ranges[i][1]);
}

static const uint32_t digits[][2] = {{'0', '9'}};
static const uint32_t words[][2] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
static const uint32_t blanks[][2] = {{'\t', '\r'}, {' ', ' '}};
static const uint32_t any_blanks[][2] = {{'\t', '\r'},     {0x1c, ' '},      {0x85, 0x85},     {0xa0, 0xa0},
                                         {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f},
                                         {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff}};
static const uint32_t line_ends[][2] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

/* \d and its like; larger: as the larger dialect has it. False: c names none. */
static bool add_class(struct deq_ranges *set, uint32_t c, bool larger)
{
    struct deq_ranges in = {0};
    switch (c) {
    case 'd':
        add_all(&in, digits, DEQ_COUNT(digits));
        if (larger)
            (void)deq_ranges_add(&in, 0x660, LAST);
        break;
    case 'w':
        add_all(&in, words, DEQ_COUNT(words));
        if (larger)
            (void)deq_ranges_add(&in, 0x80, LAST);
        break;
    case 's': larger ? add_all(&in, any_blanks, DEQ_COUNT(any_blanks)) : add_all(&in, blanks, DEQ_COUNT(blanks)); break;
    case 'D':
    case 'W':
    case 'S':
        (void)add_class(&in, c + ('a' - 'A'), !larger);
        (void)deq_ranges_invert(&in);
        break;
    default: return false;
    }
    for (uint32_t i = 0; i < in.n; i++)
        (void)deq_ranges_add(set, in.at[i].lo, in.at[i].hi);
    return true;
}

static uint32_t take_hex(struct reader *r, unsigned digits_wanted)
{
    uint32_t value = 0;
    const bool braces = !digits_wanted;
    for (unsigned i = 0; braces ? !ahead(r, "}") : i < digits_wanted; i++) {
        const uint32_t c = take_char(r), lower = c | 0x20;
        const bool hex = (c >= '0' && c <= '9') || (lower >= 'a' && lower <= 'f');
        value = value << 4 | (hex ? c <= '9' ? c - '0' : lower - 'a' + 10 : 0);
        if (!hex || value > LAST)
            return fail(r, "an escape needs hexadecimal digits of a character");
    }
    if (braces)
        r->at++;
    return value;
}

/* The character behind a backslash, but for classes. */
static uint32_t take_escaped(struct reader *r)
{
    static const char named[] = "n\nr\rt\tf\fv\v";
    const uint32_t c = take_char(r);
    for (const char *p = named; *p; p += 2)
        if (c == (uint32_t)p[0])
            return (uint32_t)p[1];
    if (c == 'x')
        return take_hex(r, 2);
    if (c == 'u')
        return take(r, "{") ? take_hex(r, 0) : take_hex(r, 4);
    if (c == '0' && !(r->at < r->len && r->text[r->at] >= '0' && r->text[r->at] <= '9'))
        return 0;
    if (c >= '1' && c <= '9')
        return fail(r, "back-references are not supported");
    if (c < 0x80 && ((c | 0x20) >= 'a' && (c | 0x20) <= 'z'))
        return fail(r, "this escape is not supported");
    return c;
}

static deq_expr take_set(struct reader *r)
{
    struct deq_ranges set = {0};
    const bool inverted = take(r, "^");
    bool room = true;
    if (ahead(r, "]"))
        return fail(r, "dialects disagree on what [] is");
    while (!r->rc && r->at < r->len && !ahead(r, "]")) {
        uint32_t lo;
        if (take(r, "\\")) {
            if (r->at < r->len && add_class(&set, (unsigned char)r->text[r->at], inverted)) {
                r->at++;
                continue;
            }
            lo = take(r, "b") ? '\b' : take_escaped(r);
        } else {
            lo = take_char(r);
        }
        uint32_t hi = lo;
        if (ahead(r, "-") && !ahead(r, "-]")) {
            r->at++;
            hi = take(r, "\\") ? take_escaped(r) : take_char(r);
        }
        if (hi < lo)
            fail(r, "a range ends before it begins");
        room = room && deq_ranges_add(&set, lo, hi);
    }
    if (!take(r, "]"))
        return fail(r, "[ without ]");
    if (inverted)
        room = room && deq_ranges_invert(&set);
    return room ? of_set(r, &set) : fail(r, "too many ranges in [...]");
}

/* --- The expression --- */

static deq_expr take_alternatives(struct reader *r);

static deq_expr take_group(struct reader *r)
{
    static const char *const refused[] = {"?=", "?!", "?<=", "?<!"};
    for (size_t i = 0; i < DEQ_COUNT(refused); i++)
        if (ahead(r, refused[i]))
            return fail(r, "look-around is not supported");
    if (take(r, "?P<") || take(r, "?<")) {
        while (r->at < r->len && r->text[r->at] != '>')
            r->at++;
        if (!take(r, ">"))
            return fail(r, "a group's name has no end");
    } else if (!take(r, "?:") && ahead(r, "?")) {
        return fail(r, "this kind of group is not supported");
    }
    if (++r->depth > GROUPS_MAX)
        return fail(r, "too many groups within each other");
    const deq_expr inner = take_alternatives(r);
    r->depth--;
    return take(r, ")") ? inner : fail(r, "( without )");
}

static bool take_number(struct reader *r, uint32_t *ret)
{
    const size_t begin = r->at;
    *ret = 0;
    for (; r->at < r->len && r->text[r->at] >= '0' && r->text[r->at] <= '9'; r->at++)
        *ret = DEQ_MIN(*ret * 10 + (uint32_t)(r->text[r->at] - '0'), (uint32_t)COUNT_MAX + 1);
    return r->at > begin;
}

/* {m}, {m,}, {m,n}; {,n} is one in Python's dialect only, anything else is a brace. */
static bool take_counts(struct reader *r, uint32_t *ret_min, uint32_t *ret_max)
{
    const size_t begin = r->at;
    bool ok = take(r, "{");
    const bool least = ok && take_number(r, ret_min), most = ok && take(r, ",");
    *ret_max = *ret_min;
    if (most && !take_number(r, ret_max))
        *ret_max = DEQ_EXPR_ENDLESS;
    ok = (least || most) && take(r, "}");
    r->at = ok ? r->at : begin;
    if (ok && !least)
        fail(r, "dialects disagree on what {,n} is");
    if (ok && (*ret_min > COUNT_MAX || (*ret_max > COUNT_MAX && *ret_max != DEQ_EXPR_ENDLESS)))
        fail(r, "too many repetitions");
    if (ok && *ret_max < *ret_min)
        fail(r, "a repetition's most is below its least");
    return ok;
}

static deq_expr take_atom(struct reader *r)
{
    struct deq_ranges set = {0};
    uint32_t min = 0, max = 0;
    if (take(r, "("))
        return take_group(r);
    if (take(r, "["))
        return take_set(r);
    if (take(r, ".")) {
        add_all(&set, line_ends, DEQ_COUNT(line_ends));
        (void)deq_ranges_invert(&set);
        return of_set(r, &set);
    }
    if (take(r, "\\")) {
        if (r->at < r->len && add_class(&set, (unsigned char)r->text[r->at], false)) {
            r->at++;
            return of_set(r, &set);
        }
        return one_char(r, take_escaped(r));
    }
    if (ahead(r, "^") || ahead(r, "$"))
        return fail(r, "^ and $ are supported at the ends of the expression or of its alternatives only");
    if (ahead(r, "*") || ahead(r, "+") || ahead(r, "?") || take_counts(r, &min, &max))
        return fail(r, "nothing to repeat");
    return one_char(r, take_char(r));
}

static deq_expr take_repeated(struct reader *r)
{
    deq_expr all = take_atom(r);
    uint32_t min = 0, max = 0;
    const bool counted = take_counts(r, &min, &max);
    if (!counted && take(r, "*"))
        max = DEQ_EXPR_ENDLESS;
    else if (!counted && take(r, "+"))
        min = 1, max = DEQ_EXPR_ENDLESS;
    else if (!counted && take(r, "?"))
        max = 1;
    else if (!counted)
        return all;
    (void)take(r, "?"); /* lazy: the same texts */
    if (ahead(r, "+"))
        return fail(r, "possessive repetitions are not supported");
    return deq_expr_repeat(r->x, all, min, max);
}

/* Any characters, before or behind what need only be found. */
static deq_expr anything(struct reader *r)
{
    struct deq_ranges all = {.n = 1, .at = {{0, LAST}}};
    return deq_expr_repeat(r->x, of_set(r, &all), 0, DEQ_EXPR_ENDLESS);
}

static deq_expr take_alternative(struct reader *r)
{
    const bool outer = !r->depth, searched = outer && r->in == DEQ_REGEX_STRING;
    const bool begins = outer && take(r, "^");
    deq_expr all = searched && !begins ? anything(r) : (deq_expr)DEQ_EMPTY;
    bool ends = false;
    while (!r->rc && r->at < r->len && !ahead(r, "|") && !ahead(r, ")")) {
        if (outer && ahead(r, "$") && (r->at + 1 == r->len || r->text[r->at + 1] == '|')) {
            r->at++;
            ends = true;
            break;
        }
        all = deq_expr_seq(r->x, all, take_repeated(r));
    }
    return searched && !ends ? deq_expr_seq(r->x, all, anything(r)) : all;
}

static deq_expr take_alternatives(struct reader *r)
{
    deq_expr all = take_alternative(r);
    while (!r->rc && take(r, "|"))
        all = deq_expr_alt(r->x, all, take_alternative(r));
    return all;
}

enum deq_rc deq_regex_read(struct deq_exprs *x, const char *text, size_t len, enum deq_regex_in in, deq_expr *ret,
                           struct deq_err *err)
{
    struct reader r = {.x = x, .text = text, .len = len, .in = in, .err = err};
    *ret = take_alternatives(&r);
    if (!r.rc && r.at < r.len)
        fail(&r, ") without (");
    return r.rc;
}
