/* Numbers: their notation, and bounds as expressions over digits. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/form/schema_impl.h"

enum {
    FRACTION_DIGITS = 16,
    EXACT_DIGITS = 15, /* numbers of so many are as far apart when they have become doubles */
};
static const int64_t INTEGER_MOST = 999999999999999999, WHOLE_MOST = 999999999999999;

static deq_expr digits(struct schema_reader *r, char lo, char hi, uint32_t min, uint32_t max)
{
    return deq_expr_repeat(r->x, deq_expr_byte(r->x, (unsigned char)lo, (unsigned char)hi), min, max);
}

/* Numbers from lo to hi, as many digits each: n of them. */
static deq_expr same_length(struct schema_reader *r, const char *lo, const char *hi, uint32_t n)
{
    deq_expr all = DEQ_NEVER;
    if (!n)
        return DEQ_EMPTY;
    if (strspn(lo, "0") == n && strspn(hi, "9") == n)
        return digits(r, '0', '9', n, n);
    if (*lo == *hi)
        return deq_expr_seq(r->x, digits(r, *lo, *lo, 1, 1), same_length(r, lo + 1, hi + 1, n - 1));
    static const char zeros[] = "0000000000000000000", nines[] = "9999999999999999999";
    const char *const no = zeros + sizeof zeros - n, *const all_nines = nines + sizeof nines - n;
    all = deq_expr_seq(r->x, digits(r, *lo, *lo, 1, 1), same_length(r, lo + 1, all_nines, n - 1));
    if (*hi - *lo > 1)
        all = deq_expr_alt(r->x, all, deq_expr_seq(r->x, digits(r, (char)(*lo + 1), (char)(*hi - 1), 1, 1),
                                                   digits(r, '0', '9', n - 1, n - 1)));
    return deq_expr_alt(r->x, all,
                        deq_expr_seq(r->x, digits(r, *hi, *hi, 1, 1), same_length(r, no, hi + 1, n - 1)));
}

/* Whole numbers lo..hi, 0 <= lo, without zeros in front. */
static deq_expr range(struct schema_reader *r, int64_t lo, int64_t hi)
{
    deq_expr all = DEQ_NEVER;
    char most[24];
    const int n = snprintf(most, sizeof most, "%lld", (long long)hi);
    if (lo <= 1 && hi > 0 && strspn(most, "9") == (size_t)n) { /* all of up to n digits */
        all = deq_expr_seq(r->x, digits(r, '1', '9', 1, 1), digits(r, '0', '9', 0, (uint32_t)n - 1));
        return lo ? all : deq_expr_alt(r->x, deq_expr_str(r->x, "0"), all);
    }
    for (int64_t first = 0, next = 10; first <= hi; first = next, next *= 10) {
        const int64_t from = DEQ_MAX(lo, first), to = DEQ_MIN(hi, next - 1);
        char a[24], b[24];
        if (from <= to) {
            snprintf(a, sizeof a, "%lld", (long long)from);
            snprintf(b, sizeof b, "%lld", (long long)to);
            all = deq_expr_alt(r->x, all, same_length(r, a, b, (uint32_t)strlen(a)));
        }
        if (next > INTEGER_MOST)
            break;
    }
    return all;
}

/* The bounds of numbers that fit: lo < or <= x < or <= hi. */
struct bounds {
    int64_t lo, hi;
    bool above, below; /* lo, hi themselves are left out */
};

static void bound(struct schema_reader *r, const json_t *s, const char *keyword, bool integer, bool lower,
                  int64_t most, struct bounds *b)
{
    const json_t *v = json_object_get(s, keyword);
    const bool open = keyword[0] == 'e';
    if (!v)
        return;
    if (!json_is_number(v)) {
        schema_fail(r, keyword, "must be a number");
        return;
    }
    const double x = json_number_value(v), whole = lower ? ceil(x) : floor(x);
    const bool beyond = fabs(x) > (double)most;
    bool out = open && whole == x;
    int64_t n = json_is_integer(v) ? json_integer_value(v) : beyond ? 0 : (int64_t)whole;
    if (whole != x && !integer) {
        schema_fail(r, keyword, "bounds of numbers that are no integers are not supported");
        return;
    }
    if (beyond) /* what no number written here reaches, or all pass */
        n = x > 0 ? most : -most, out = (x > 0) == lower;
    if (lower ? n > b->lo || (n == b->lo && out) : n < b->hi || (n == b->hi && out)) {
        *(lower ? &b->lo : &b->hi) = n;
        *(lower ? &b->above : &b->below) = out;
    }
}

static deq_expr integers(struct schema_reader *r, const struct bounds *b)
{
    const int64_t lo = b->lo + b->above, hi = b->hi - b->below;
    deq_expr all = hi >= 0 ? range(r, DEQ_MAX(lo, (int64_t)0), hi) : (deq_expr)DEQ_NEVER;
    if (lo < 0)
        all = deq_expr_alt(r->x, all, deq_expr_seq(r->x, deq_expr_str(r->x, "-"),
                                                   range(r, DEQ_MAX(-hi, (int64_t)1), -lo)));
    return all;
}

/* As many digits behind the point of `whole` as no reader rounds to the next whole number. */
static uint32_t exact_fraction(int64_t whole)
{
    return (uint32_t)(EXACT_DIGITS - snprintf(NULL, 0, "%lld", (long long)whole));
}

/* whole and less than one more */
static deq_expr below_next(struct schema_reader *r, int64_t whole)
{
    const uint32_t n = exact_fraction(whole);
    const deq_expr fraction = deq_expr_seq(r->x, deq_expr_str(r->x, "."), digits(r, '0', '9', 1, n));
    return deq_expr_seq(r->x, range(r, whole, whole), n ? deq_expr_maybe(r->x, fraction) : (deq_expr)DEQ_EMPTY);
}

/* More than whole and less than one more */
static deq_expr above_whole(struct schema_reader *r, int64_t whole)
{
    const uint32_t n = exact_fraction(whole), zeros = n / 2;
    if (!n)
        return DEQ_NEVER;
    const deq_expr some = deq_expr_seq3(r->x, digits(r, '0', '0', 0, zeros), digits(r, '1', '9', 1, 1),
                                        digits(r, '0', '9', 0, n - zeros - 1));
    return deq_expr_seq3(r->x, range(r, whole, whole), deq_expr_str(r->x, "."), some);
}

/* Decimals lo <= x <= hi, 0 <= lo, or without one of the two. */
static deq_expr decimals(struct schema_reader *r, const struct bounds *b)
{
    const deq_expr point = deq_expr_str(r->x, "."), zero = deq_expr_str(r->x, "0");
    const deq_expr any = deq_expr_maybe(r->x, deq_expr_seq(r->x, point, digits(r, '0', '9', 1, FRACTION_DIGITS)));
    const deq_expr zeros = deq_expr_maybe(r->x, deq_expr_seq(r->x, point, deq_expr_repeat(r->x, zero, 1, 2)));
    deq_expr all = deq_expr_seq(r->x, range(r, b->lo + b->above, b->hi - 1 - b->below), any);
    if (b->below && b->lo + b->above < b->hi)
        all = deq_expr_alt(r->x, all, below_next(r, b->hi - 1));
    if (b->above && b->lo < b->hi)
        all = deq_expr_alt(r->x, all, above_whole(r, b->lo));
    if (!b->below && b->hi >= b->lo + b->above)
        all = deq_expr_alt(r->x, all, deq_expr_seq(r->x, range(r, b->hi, b->hi), zeros));
    return all;
}

static deq_expr between(struct schema_reader *r, const struct bounds *b)
{
    const bool from_zero = b->lo < 0, to_zero = b->hi > 0 || (b->hi == 0 && !b->below);
    struct bounds up = {from_zero ? 0 : b->lo, b->hi, !from_zero && b->above, b->below};
    struct bounds down = {to_zero ? 0 : -b->hi, -b->lo, !to_zero && b->below, b->above};
    deq_expr all = b->hi < 0 || (b->hi == 0 && b->below) ? (deq_expr)DEQ_NEVER : decimals(r, &up);
    if (from_zero)
        all = deq_expr_alt(r->x, all, deq_expr_seq(r->x, deq_expr_str(r->x, "-"), decimals(r, &down)));
    return all;
}

/* -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?, of bounded length */
static deq_expr any_number(struct schema_reader *r)
{
    const deq_expr whole = range(r, 0, WHOLE_MOST), sign = deq_expr_maybe(r->x, deq_expr_str(r->x, "-"));
    const deq_expr fraction = deq_expr_seq(r->x, deq_expr_str(r->x, "."), digits(r, '0', '9', 1, FRACTION_DIGITS));
    const deq_expr e = deq_expr_alt(r->x, deq_expr_str(r->x, "e"), deq_expr_str(r->x, "E"));
    const deq_expr sign_e = deq_expr_maybe(r->x, deq_expr_alt(r->x, deq_expr_str(r->x, "+"), deq_expr_str(r->x, "-")));
    const deq_expr exponent = deq_expr_seq3(r->x, e, sign_e, digits(r, '0', '9', 1, 2));
    return deq_expr_seq3(r->x, sign, whole,
                         deq_expr_seq(r->x, deq_expr_maybe(r->x, fraction), deq_expr_maybe(r->x, exponent)));
}

deq_expr schema_number(struct schema_reader *r, const json_t *s, bool integer)
{
    static const char *const lower[] = {"minimum", "exclusiveMinimum"}, *const upper[] = {"maximum",
                                                                                          "exclusiveMaximum"};
    const int64_t most = integer ? INTEGER_MOST : WHOLE_MOST;
    struct bounds b = {.lo = -most, .hi = most};
    bool bounded = false;
    for (size_t i = 0; i < DEQ_COUNT(lower); i++) {
        bound(r, s, lower[i], integer, true, most, &b);
        bound(r, s, upper[i], integer, false, most, &b);
        bounded = bounded || json_object_get(s, lower[i]) || json_object_get(s, upper[i]);
    }
    if (r->rc || b.lo > b.hi)
        return DEQ_NEVER;
    if (integer)
        return integers(r, &b);
    return bounded ? between(r, &b) : any_number(r);
}
