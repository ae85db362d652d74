/* core/form/regex.c: what expressions match, and what is refused by name. */
#include "core/form/regex.h"

#include "tests/unit/forms.h"

#define LIST(...) {__VA_ARGS__}

TEST(regex_takes_what_it_matches_and_nothing_else)
{
    static const struct {
        const char *regex;
        const char *good[10], *bad[10]; /* NULL behind the last */
    } t[] = {
        {"abc", LIST("abc"), LIST("", "ab", "abcd", "xabc")},
        {"a|b|", LIST("a", "b", ""), LIST("ab", "c")},
        {"(yes|no)( please)?", LIST("yes", "no", "no please"), LIST("yes ", "yesno")},
        {"a*b+c?", LIST("b", "aabbc", "bb"), LIST("", "ac", "abcc")},
        {"a{2}b{1,2}c{0,}", LIST("aab", "aabbccc"), LIST("ab", "aaab", "aabbb")},
        {"a{x}b{,y{}", LIST("a{x}b{,y{}"), LIST("a", "aa")}, /* braces that are no counts */
        {"[a-c-]x", LIST("ax", "-x"), LIST("dx", "x")},
        {"[^a-z]", LIST("A", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"), LIST("b", "\xc3", "\xff", "")},
        {"\\d+\\.\\d\\w\\s", LIST("12.5a ", "0.0_\t"), LIST("1.a b", "1x5a ")},
        {"\\x41\\u0042\\u{43}\\n\\.", LIST("ABC\n."), LIST("ABC\nx")},
        {".", LIST("x", "\xc3\xa9"), LIST("\n", "\r", "xx", "\xe2\x80\xa8")},
        {"^a$|^b$", LIST("a", "b"), LIST("ab", "")},
        {"(?:a(?<n>b)(?P<m>c))+?", LIST("abc", "abcabc"), LIST("ab")},
        {"\xc3\xa9+", LIST("\xc3\xa9", "\xc3\xa9\xc3\xa9"), LIST("\xc3", "e")},
        {"[^\\d\\s]\\D\\W\\S", LIST("ax-y", "--.z"), LIST("1x-y", "a1-y", "axxy", "ax- ")},
        {"(a|ab)(c|bcd)", LIST("ac", "abc", "abcd", "abbcd"), LIST("ab", "abcde")},
        {"(a|b)*a(a|b){3}", LIST("aaaa", "bbabab"), LIST("bbbb", "baa")},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++)
        check_form(DEQ_FORM_REGEX, t[i].regex, t[i].good, t[i].bad);
}

TEST(regex_refuses_by_name)
{
    static const char *const t[][2] = {
        {"(?=a)b", "look-around"},    {"(?<!a)b", "look-around"},   {"(a)\\1", "back-references"},
        {"\\bword", "escape"},        {"\\p{L}", "escape"},         {"a++", "possessive"},
        {"*a", "nothing to repeat"},  {"a(b", "( without )"},       {"a)", ") without ("},
        {"[a", "[ without ]"},        {"[b-a]", "range"},           {"a{3,2}", "least"},
        {"a^b", "^ and $"},           {"(^a)", "^ and $"},          {"[]", "dialects"},
        {"(?i)a", "kind of group"},   {"\\u{110000}", "escape"},    {"a{200000}", "repetitions"},
        {"\\", "ends too early"},     {"\xff", "UTF-8"},            {"a{99999}", "too large"},
        {"a{,2}", "dialects"},        {"a{,}", "dialects"},         {"{2}", "nothing to repeat"},
        {"a{2}{3}", "nothing to repeat"}, {"a*{3}", "nothing to repeat"}, {"a|{1,2}", "nothing to repeat"},
        {"((a{1000}){1000}){1000}", "too large"}, {"(a|b)*a(a|b){20}", "too large"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++)
        check_form_refused(DEQ_FORM_REGEX, t[i][0], t[i][1]);
}

TEST(ranges_join_and_invert)
{
    struct deq_ranges r = {0};
    CHECK(deq_ranges_add(&r, 'd', 'f') && deq_ranges_add(&r, 'a', 'b') && deq_ranges_add(&r, 'c', 'c'));
    CHECK_EQ(r.n, 1);
    CHECK(deq_ranges_add(&r, 'x', 'x') && deq_ranges_invert(&r));
    CHECK_EQ(r.n, 3);
    CHECK(r.at[0].lo == 0 && r.at[0].hi == 'a' - 1 && r.at[1].lo == 'g' && r.at[2].hi == 0x10ffff);
    r.n = 0;
    for (uint32_t i = 0; i < DEQ_RANGES_MAX; i++)
        CHECK(deq_ranges_add(&r, 3 * i, 3 * i));
    CHECK(!deq_ranges_add(&r, 3 * DEQ_RANGES_MAX, 3 * DEQ_RANGES_MAX));
}
