/* core/form/gbnf.c: llama.cpp's notation, with recursion, and what is refused by name. */
#include "core/form/gbnf.h"

#include "tests/unit/forms.h"

#define LIST(...) {__VA_ARGS__}

TEST(gbnf_takes_what_its_rules_say)
{
    static const struct {
        const char *grammar;
        const char *good[10], *bad[10]; /* NULL behind the last */
    } t[] = {
        {"root ::= \"yes\" | \"no\"", LIST("yes", "no"), LIST("", "yesno")},
        {"# a comment\nroot ::= item (\", \" item)* # another\nitem ::= [a-c]+ |\n  \"(\" root \")\"",
         LIST("a", "ab, c", "(a, (b))", "((c))"), LIST("(a", "a,b", "d", "()")},
        {"root ::= \"a\"{2,3} [^x\\]\"]? \"\\x41\\u00e9\\n\" .", LIST("aaA\xc3\xa9\nz", "aaabA\xc3\xa9\n\xc3\xa9"),
         LIST("aA\xc3\xa9\nz", "aaxA\xc3\xa9\nz")},
        /* as a calculator's grammar is written, without left recursion */
        {"root ::= expr\nexpr ::= term ([-+*/] term)*\nterm ::= num | \"(\" expr \")\"\nnum ::= [0-9]+",
         LIST("1", "1+2*(3-4)", "((7))"), LIST("1+", "()", "1 + 2")},
        {"root ::= a a a\na ::= \"x\" | \"\"", LIST("", "x", "xxx"), LIST("xxxx")}, /* rules that match nothing */
        {"root ::= \"a\" root \"b\" | \"\"", LIST("", "ab", "aaabbb"), LIST("aab", "abb", "ba")},
        {"root ::= pal\npal ::= \"a\" pal \"a\" | \"b\" pal \"b\" | \"\" | \"a\" | \"b\"", LIST("", "abba", "aba", "b"),
         LIST("ab", "abab")}, /* no deterministic automaton with a stack reads these */
        {"root ::= x | y\nx ::= \"(\" x \")\" | \"x\"\ny ::= \"(\" y \")\" | \"y\"",
         LIST("((x))", "(y)"), LIST("(x", "()")},
        {"root ::= list\nlist ::= \"a\" | \"a\" list",
         LIST("a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
         LIST("")}, /* what recurs at its end takes no depth */
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++)
        check_form(DEQ_FORM_GRAMMAR, t[i].grammar, t[i].good, t[i].bad);
}

TEST(gbnf_refuses_by_name)
{
    static const char *const t[][2] = {
        {"", "no rule \"root\""},
        {"start ::= \"a\"", "no rule \"root\""},
        {"root ::= missing", "no rule \"missing\""},
        {"root ::= root \"a\" | \"b\"", "left recursion"},
        {"root ::= a\na ::= b? c\nb ::= \"x\"\nc ::= a \"y\" | \"z\"", "left recursion"},
        {"root ::= \"a\n\n\\q\"", "line 3"},
        {"root ::= \"a\"\nroot ::= \"b\"", "there already"},
        {"root ::= (\"a\"", "( without )"},
        {"root ::= \"a\")", ") without ("},
        {"root ::= \"a\" <[1]>", "tokens"},
        {"root ::= \"\\q\"", "escape"},
        {"root ::= \"a\"{3,2}", "repetition"},
        {"root ::= \"a\" root", "no text fits"}, /* it never ends */
        {"root ::= a | b\na ::= \"x\" a\nb ::= \"y\" b", "no text fits"},
        {"root ::= \"a\"{90000} \"b\"{90000} \"c\"{90000}", "too large"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++)
        check_form_refused(DEQ_FORM_GRAMMAR, t[i][0], t[i][1]);
}

/* Deeper than DEQ_FORM_DEPTH nothing goes, and before that whatever is begun can be ended. */
TEST(gbnf_depth_is_bounded_without_dead_ends)
{
    struct deq_form *f = form_of(DEQ_FORM_GRAMMAR, "root ::= \"(\" root \")\" | \"x\"", NULL);
    char text[128] = "";
    REQUIRE(f);
    for (int depth = 0; depth < 100; depth++) {
        text[depth] = '(';
        text[depth + 1] = 0;
        if (form_takes(f, text))
            continue;
        CHECK_EQ(depth, DEQ_FORM_DEPTH);
        memcpy(text + depth, "x)))", 5);
        CHECK_EQ(form_takes(f, text), 1);
        break;
    }
    deq_form_free(f);
}
