#include "core/form/gbnf.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/form/regex.h"

enum {
    SLOTS = 2 * DEQ_RULES_MAX, /* of names */
    NEST_MAX = 64,             /* groups within each other, and rules that are read because one names them */
    COUNT_MAX = 100000,
    LAST = 0x10ffff,
};

struct rule {
    size_t name, name_len, body, end;
    uint32_t number;           /* in x */
    bool begun, wanted;
};

struct reader {
    struct deq_exprs *x;
    const char *text;
    size_t len, at, end;       /* end: of the rule under way */
    struct rule *rule;         /* [n_rules] */
    uint32_t n_rules;
    uint16_t *slot;            /* [SLOTS] 1 + rule by name */
    unsigned depth;
    struct deq_err *err;
    enum deq_rc rc;
};

static deq_expr fail(struct reader *r, const char *what)
{
    size_t line = 1;
    for (size_t i = 0; i < r->at && i < r->len; i++)
        line += r->text[i] == '\n';
    if (!r->rc)
        r->rc = deq_fail(r->err, DEQ_EINVAL, "line %zu: %s", line, what);
    return DEQ_NEVER;
}

/* --- Characters --- */

static char here(const struct reader *r)
{
    return r->at < r->end ? r->text[r->at] : 0;
}

static bool take(struct reader *r, char c)
{
    const bool there = r->at < r->end && r->text[r->at] == c;
    r->at += there;
    return there;
}

static void skip_blanks(struct reader *r)
{
    for (bool comment = false; r->at < r->end; r->at++) {
        const char c = r->text[r->at];
        comment = (comment && c != '\n') || c == '#';
        if (!comment && c != ' ' && c != '\t' && c != '\n' && c != '\r')
            return;
    }
}

static bool in_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static size_t take_name(struct reader *r)
{
    const size_t begin = r->at;
    while (in_name(here(r)))
        r->at++;
    return r->at - begin;
}

static uint32_t take_hex(struct reader *r, unsigned n)
{
    uint32_t value = 0;
    for (; n; n--, r->at++) {
        const char c = here(r), lower = (char)(c | 0x20);
        if (!((c >= '0' && c <= '9') || (lower >= 'a' && lower <= 'f')) || value > LAST)
            return fail(r, "an escape needs hexadecimal digits of a character");
        value = value << 4 | (uint32_t)(c <= '9' ? c - '0' : lower - 'a' + 10);
    }
    return value <= LAST ? value : fail(r, "an escape is beyond U+10FFFF");
}

static uint32_t take_char(struct reader *r)
{
    uint32_t c = 0;
    if (take(r, '\\')) {
        const char e = here(r);
        r->at += r->at < r->end;
        switch (e) {
        case 'n': return '\n';
        case 'r': return '\r';
        case 't': return '\t';
        case 'x': return take_hex(r, 2);
        case 'u': return take_hex(r, 4);
        case 'U': return take_hex(r, 8);
        case '\\':
        case '"':
        case '[':
        case ']':
        case '-':
        case '^': return (unsigned char)e;
        default: return fail(r, "unknown escape");
        }
    }
    const int n = deq_utf8_decode(r->text + r->at, r->end - r->at, &c);
    if (n <= 0)
        return fail(r, r->at < r->end ? "it is not UTF-8" : "it ends too early");
    r->at += (size_t)n;
    return c;
}

/* --- Rules by name --- */

static uint16_t *slot_of(const struct reader *r, size_t name, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)r->text[name + i]) * 16777619u;
    for (h %= SLOTS; r->slot[h]; h = (h + 1) % SLOTS) {
        const struct rule *known = &r->rule[r->slot[h] - 1];
        if (known->name_len == n && !memcmp(r->text + known->name, r->text + name, n))
            break;
    }
    return &r->slot[h];
}

/* Behind a literal or a class, which begin here. */
static void skip_quoted(struct reader *r)
{
    const char close = here(r) == '"' ? '"' : ']';
    for (r->at++; r->at < r->end && here(r) != close; r->at++)
        r->at += here(r) == '\\';
    r->at++;
}

/* Where each rule stands: name ::= ends the one before it. */
static void find_rules(struct reader *r)
{
    struct rule *last = NULL;
    for (skip_blanks(r); !r->rc && r->at < r->end; skip_blanks(r)) {
        const size_t name = r->at, n = take_name(r);
        if (!n && here(r) != '"' && here(r) != '[') {
            r->at++;
            continue;
        }
        if (!n) {
            skip_quoted(r);
            continue;
        }
        skip_blanks(r);
        if (r->end - r->at < 3 || memcmp(r->text + r->at, "::=", 3))
            continue;
        r->at += 3;
        uint16_t *slot = slot_of(r, name, n);
        if (*slot || r->n_rules == DEQ_RULES_MAX) {
            fail(r, *slot ? "a rule of this name is there already" : "too many rules");
            return;
        }
        if (last)
            last->end = name;
        last = &r->rule[r->n_rules++];
        *slot = (uint16_t)r->n_rules;
        *last = (struct rule){.name = name, .name_len = n, .body = r->at, .end = r->len,
                              .number = deq_expr_declare(r->x)};
    }
}

/* --- What stands in a rule --- */

static deq_expr take_alternatives(struct reader *r);

/* Reads the rule, unless too many are being read already: then it is called, and read later. */
static void read_rule(struct reader *r, struct rule *rule)
{
    rule->wanted = true;
    if (rule->begun || r->depth >= NEST_MAX)
        return;
    const size_t at = r->at, end = r->end;
    rule->begun = true;
    r->at = rule->body;
    r->end = rule->end;
    r->depth++;
    const deq_expr body = take_alternatives(r);
    if (!r->rc && r->at < r->end)
        fail(r, here(r) == ')' ? ") without (" : here(r) == '<' ? "tokens (<...>) are not supported"
                                                                : "this is no part of a rule");
    r->depth--;
    deq_expr_define(r->x, rule->number, body);
    r->at = at;
    r->end = end;
}

static deq_expr take_literal(struct reader *r)
{
    deq_expr all = DEQ_EMPTY;
    while (!r->rc && !take(r, '"')) {
        const uint32_t c = take_char(r);
        all = deq_expr_seq(r->x, all, deq_expr_chars(r->x, c, c));
    }
    return all;
}

static deq_expr take_class(struct reader *r)
{
    struct deq_ranges set = {0};
    const bool inverted = take(r, '^');
    bool room = true;
    while (!r->rc && room && !take(r, ']')) {
        const uint32_t lo = take_char(r);
        uint32_t hi = lo;
        if (here(r) == '-' && r->at + 1 < r->end && r->text[r->at + 1] != ']') {
            r->at++;
            hi = take_char(r);
        }
        if (hi < lo)
            fail(r, "a range ends before it begins");
        room = deq_ranges_add(&set, lo, hi);
    }
    if (inverted)
        room = room && deq_ranges_invert(&set);
    return room ? deq_ranges_expr(r->x, &set) : fail(r, "too many ranges in [...]");
}

static deq_expr take_rule_name(struct reader *r)
{
    const size_t name = r->at, n = take_name(r);
    const uint16_t slot = *slot_of(r, name, n);
    if (!slot) {
        if (!r->rc)
            r->rc = deq_fail(r->err, DEQ_EINVAL, "there is no rule \"%.*s\"", (int)DEQ_MIN(n, (size_t)64),
                             r->text + name);
        return DEQ_NEVER;
    }
    read_rule(r, &r->rule[slot - 1]);
    return deq_expr_rule(r->x, r->rule[slot - 1].number);
}

/* One part, or false: there is none. */
static bool take_part(struct reader *r, deq_expr *ret)
{
    if (take(r, '"')) {
        *ret = take_literal(r);
    } else if (take(r, '[')) {
        *ret = take_class(r);
    } else if (take(r, '.')) {
        *ret = deq_expr_chars(r->x, 0, LAST);
    } else if (in_name(here(r))) {
        *ret = take_rule_name(r);
    } else if (take(r, '(')) {
        if (++r->depth > 2 * NEST_MAX)
            fail(r, "too many groups within each other");
        *ret = take_alternatives(r);
        r->depth--;
        if (!take(r, ')'))
            fail(r, "( without )");
    } else {
        return false;
    }
    return true;
}

static uint32_t take_number(struct reader *r)
{
    uint32_t n = 0;
    skip_blanks(r);
    if (!(here(r) >= '0' && here(r) <= '9'))
        return fail(r, "a repetition needs numbers");
    for (; here(r) >= '0' && here(r) <= '9'; r->at++)
        n = DEQ_MIN(n * 10 + (uint32_t)(here(r) - '0'), (uint32_t)COUNT_MAX + 1);
    skip_blanks(r);
    return n <= COUNT_MAX ? n : fail(r, "too many repetitions");
}

static deq_expr take_repetition(struct reader *r, deq_expr part)
{
    uint32_t min, max;
    if (take(r, '*'))
        return deq_expr_repeat(r->x, part, 0, DEQ_EXPR_ENDLESS);
    if (take(r, '+'))
        return deq_expr_repeat(r->x, part, 1, DEQ_EXPR_ENDLESS);
    if (take(r, '?'))
        return deq_expr_maybe(r->x, part);
    if (!take(r, '{'))
        return part;
    min = max = take_number(r);
    if (take(r, ',')) {
        skip_blanks(r);
        max = here(r) == '}' ? (uint32_t)DEQ_EXPR_ENDLESS : take_number(r);
    }
    if (!take(r, '}') || max < min)
        return fail(r, "a repetition is {n}, {n,} or {n,m}, n at most m");
    return deq_expr_repeat(r->x, part, min, max);
}

static deq_expr take_alternatives(struct reader *r)
{
    deq_expr all = DEQ_NEVER, part;
    do {
        deq_expr sequence = DEQ_EMPTY;
        for (skip_blanks(r); !r->rc && take_part(r, &part); skip_blanks(r))
            sequence = deq_expr_seq(r->x, sequence, take_repetition(r, part));
        all = deq_expr_alt(r->x, all, sequence);
    } while (!r->rc && take(r, '|'));
    return all;
}

enum deq_rc deq_gbnf_read(struct deq_exprs *x, const char *text, size_t len, uint32_t *ret_root, struct deq_err *err)
{
    struct reader r = {.x = x, .text = text, .len = len, .end = len, .err = err};
    r.rule = DEQ_NEW_ARRAY(struct rule, DEQ_RULES_MAX);
    r.slot = DEQ_NEW_ARRAY(uint16_t, SLOTS);
    if (!r.rule || !r.slot)
        r.rc = deq_fail(err, DEQ_ENOMEM, "no memory for a form");
    if (!r.rc)
        find_rules(&r);
    struct rule *root = NULL;
    for (uint32_t i = 0; !r.rc && i < r.n_rules; i++)
        if (r.rule[i].name_len == 4 && !memcmp(text + r.rule[i].name, "root", 4))
            root = &r.rule[i];
    if (root) {
        root->wanted = true;
        *ret_root = root->number;
    }
    if (!r.rc && !root)
        r.rc = deq_fail(err, DEQ_EINVAL, "there is no rule \"root\"");
    for (bool more = true; !r.rc && more;) { /* what was only called on the way */
        more = false;
        for (uint32_t i = 0; !r.rc && i < r.n_rules; i++)
            if (r.rule[i].wanted && !r.rule[i].begun) {
                r.depth = 0;
                read_rule(&r, &r.rule[i]);
                more = true;
            }
    }
    deq_free(r.rule);
    deq_free(r.slot);
    return r.rc;
}
