#include "core/form/expr.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"

enum { INLINE_MAX = 96 }; /* a rule of so many states or fewer stands in its place */

void deq_exprs_init(struct deq_exprs *x)
{
    memset(x, 0, sizeof *x);
    x->cap = 256;
    x->at = DEQ_NEW_ARRAY(struct deq_expr_node, x->cap);
    x->failed = !x->at;
    if (!x->at)
        return;
    x->at[DEQ_NEVER].op = DEQ_EXPR_NEVER;
    x->at[DEQ_EMPTY].op = DEQ_EXPR_EMPTY;
    x->n = 2;
}

void deq_exprs_free(struct deq_exprs *x)
{
    deq_free(x->at);
    deq_free(x->text);
    x->at = NULL;
    x->text = NULL;
}

static deq_expr fail(struct deq_exprs *x, bool too_large)
{
    x->too_large = x->too_large || (too_large && !x->failed);
    x->failed = true;
    return DEQ_NEVER;
}

static uint32_t add_size(uint32_t a, uint32_t b)
{
    uint32_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT32_MAX : sum;
}

static uint32_t times(uint32_t a, uint32_t n)
{
    uint32_t product;
    return __builtin_mul_overflow(a, n, &product) ? UINT32_MAX : product;
}

static deq_expr add(struct deq_exprs *x, struct deq_expr_node node)
{
    if (x->failed)
        return DEQ_NEVER;
    if (x->n == DEQ_EXPRS_MAX)
        return fail(x, true);
    if (x->n == x->cap) {
        struct deq_expr_node *more = deq_realloc(x->at, x->cap * sizeof *more, 2 * (size_t)x->cap * sizeof *more);
        if (!more)
            return fail(x, false);
        x->at = more;
        x->cap *= 2;
    }
    x->at[x->n] = node;
    return x->n++;
}

static uint32_t size_of(const struct deq_exprs *x, deq_expr a)
{
    return x->failed ? 0 : x->at[a].size;
}

deq_expr deq_expr_byte(struct deq_exprs *x, unsigned lo, unsigned hi)
{
    return add(x, (struct deq_expr_node){.op = DEQ_EXPR_BYTE, .lo = lo, .hi = hi, .size = 1});
}

deq_expr deq_expr_text(struct deq_exprs *x, const char *bytes, size_t n)
{
    if (!n)
        return DEQ_EMPTY;
    if (n > DEQ_EXPRS_MAX - x->text_len)
        return fail(x, true);
    if (x->text_len + n > x->text_cap) {
        const size_t cap = 2 * (x->text_len + n);
        char *more = deq_realloc(x->text, x->text_cap, cap);
        if (!more)
            return fail(x, false);
        x->text = more;
        x->text_cap = (uint32_t)cap;
    }
    memcpy(x->text + x->text_len, bytes, n);
    x->text_len += (uint32_t)n;
    return add(x, (struct deq_expr_node){
                      .op = DEQ_EXPR_TEXT, .lo = x->text_len - (uint32_t)n, .hi = (uint32_t)n, .size = (uint32_t)n});
}

deq_expr deq_expr_str(struct deq_exprs *x, const char *s)
{
    return deq_expr_text(x, s, strlen(s));
}

deq_expr deq_expr_seq(struct deq_exprs *x, deq_expr a, deq_expr b)
{
    if (a == DEQ_NEVER || b == DEQ_NEVER)
        return DEQ_NEVER;
    if (a == DEQ_EMPTY || b == DEQ_EMPTY)
        return a == DEQ_EMPTY ? b : a;
    return add(x, (struct deq_expr_node){
                      .op = DEQ_EXPR_SEQ, .a = a, .b = b, .size = add_size(size_of(x, a), size_of(x, b))});
}

deq_expr deq_expr_seq3(struct deq_exprs *x, deq_expr a, deq_expr b, deq_expr c)
{
    return deq_expr_seq(x, a, deq_expr_seq(x, b, c));
}

deq_expr deq_expr_alt(struct deq_exprs *x, deq_expr a, deq_expr b)
{
    if (a == DEQ_NEVER || b == DEQ_NEVER || a == b)
        return a == DEQ_NEVER ? b : a;
    return add(x, (struct deq_expr_node){
                      .op = DEQ_EXPR_ALT, .a = a, .b = b, .size = add_size(size_of(x, a), size_of(x, b))});
}

deq_expr deq_expr_repeat(struct deq_exprs *x, deq_expr a, uint32_t min, uint32_t max)
{
    if (max == 0 || a == DEQ_EMPTY || (a == DEQ_NEVER && !min))
        return DEQ_EMPTY;
    if (a == DEQ_NEVER || max < min)
        return DEQ_NEVER;
    if (min == 1 && max == 1)
        return a;
    const uint32_t copies = max == DEQ_EXPR_ENDLESS ? DEQ_MAX(min, 1u) : max;
    return add(x, (struct deq_expr_node){.op = DEQ_EXPR_REPEAT,
                                         .a = a,
                                         .lo = min,
                                         .hi = max,
                                         .size = times(add_size(size_of(x, a), 1), copies)});
}

deq_expr deq_expr_maybe(struct deq_exprs *x, deq_expr a)
{
    return deq_expr_repeat(x, a, 0, 1);
}

/* Bytes that begin with first[0..n) and lie between lo and hi, byte by byte: what the splitting below leaves. */
static deq_expr bytes_between(struct deq_exprs *x, uint32_t lo, uint32_t hi)
{
    char from[4], to[4];
    const int n = deq_utf8_encode(lo, from);
    deq_expr all = DEQ_EMPTY;
    (void)deq_utf8_encode(hi, to);
    for (int i = n - 1; i >= 0; i--)
        all = deq_expr_seq(x, deq_expr_byte(x, (unsigned char)from[i], (unsigned char)to[i]), all);
    return all;
}

deq_expr deq_expr_chars(struct deq_exprs *x, uint32_t lo, uint32_t hi)
{
    static const uint32_t last[] = {0x7f, 0x7ff, 0xd7ff, 0xdfff, 0xffff}; /* of as many bytes, of surrogates */
    if (lo > hi || (lo >= 0xd800 && hi <= 0xdfff))
        return DEQ_NEVER;
    for (size_t i = 0; i < DEQ_COUNT(last); i++)
        if (lo <= last[i] && hi > last[i])
            return deq_expr_alt(x, deq_expr_chars(x, lo, last[i]), deq_expr_chars(x, last[i] + 1, hi));
    for (unsigned i = 1; i < 4 && hi > 0x7f; i++) { /* the last i bytes go through all that they can be */
        const uint32_t low = (1u << 6 * i) - 1;
        if ((lo & ~low) == (hi & ~low))
            break;
        if (lo & low)
            return deq_expr_alt(x, deq_expr_chars(x, lo, lo | low), deq_expr_chars(x, (lo | low) + 1, hi));
        if ((hi & low) != low)
            return deq_expr_alt(x, deq_expr_chars(x, lo, (hi & ~low) - 1), deq_expr_chars(x, hi & ~low, hi));
    }
    return bytes_between(x, lo, hi);
}

deq_expr deq_expr_member(struct deq_exprs *x, deq_expr a, bool required, deq_expr next)
{
    return add(x, (struct deq_expr_node){.op = DEQ_EXPR_MEMBER,
                                         .a = a,
                                         .b = next,
                                         .lo = required,
                                         .size = add_size(add_size(size_of(x, a), size_of(x, next)), 3)});
}

deq_expr deq_expr_list(struct deq_exprs *x, deq_expr members, deq_expr between)
{
    return add(x, (struct deq_expr_node){.op = DEQ_EXPR_LIST, .a = members, .b = between, .size = size_of(x, members)});
}

uint32_t deq_expr_declare(struct deq_exprs *x)
{
    if (x->n_rules == DEQ_RULES_MAX) {
        fail(x, true);
        return 0;
    }
    return x->n_rules++;
}

void deq_expr_define(struct deq_exprs *x, uint32_t rule, deq_expr body)
{
    x->rule[rule] = body;
}

deq_expr deq_expr_rule(struct deq_exprs *x, uint32_t rule)
{
    const deq_expr body = x->rule[rule];
    if (!x->failed && body != DEQ_NEVER && x->at[body].size <= INLINE_MAX)
        return body;
    return add(x, (struct deq_expr_node){.op = DEQ_EXPR_RULE, .lo = rule, .size = 1});
}

enum deq_rc deq_exprs_check(const struct deq_exprs *x, struct deq_err *err)
{
    if (!x->failed)
        return DEQ_OK;
    return x->too_large ? deq_fail(err, DEQ_EINVAL, "too large: more than %d parts or %d rules", DEQ_EXPRS_MAX,
                                   DEQ_RULES_MAX)
                        : deq_fail(err, DEQ_ENOMEM, "no memory for a form");
}
