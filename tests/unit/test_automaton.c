/* core/form/automaton.c: states are as many as needed, and hostile forms are refused before they take too much. */
#include "core/form/automaton.h"

#include "core/base/mem.h"
#include "core/form/regex.h"
#include "tests/unit/forms.h"

static bool automaton_of(const char *regex, struct deq_automaton *ret)
{
    struct deq_exprs *x = DEQ_NEW(struct deq_exprs);
    deq_expr body;
    deq_exprs_init(x);
    bool ok = !deq_regex_read(x, regex, strlen(regex), DEQ_REGEX_TEXT, &body, NULL);
    const uint32_t root = deq_expr_declare(x);
    deq_expr_define(x, root, body);
    ok = ok && !deq_automaton_make(x, root, some_spelling()->alone, ret, NULL);
    deq_exprs_free(x);
    deq_free(x);
    return ok;
}

TEST(automaton_tells_apart_only_what_its_form_does)
{
    struct deq_automaton a;
    REQUIRE(automaton_of("[a-f]{3}x?", &a));
    CHECK_EQ(a.n_classes, 5); /* before a, a-f, up to x, x, the rest */
    CHECK_EQ(a.n_places, 1 + 5); /* unused; 0, 1, 2, 3 letters, with an x */
    CHECK(a.class_of['a'] == a.class_of['f'] && a.class_of['a'] != a.class_of['x'] && a.class_of[0] == a.class_of['A']);
    CHECK(deq_automaton_bytes(&a) < 1000);
    deq_automaton_free(&a);
}

/* What would take exponential memory is refused before it does (and time with it: both are counted by the same work).
 * The pools of the making grow to 16 MB each at most, two at a time while one grows. */
TEST(automaton_of_hostile_forms_is_bounded)
{
    static const struct {
        enum deq_form_kind kind;
        const char *text;
    } t[] = {
        {DEQ_FORM_REGEX, "(.*a){12}(.|b){25}c"},
        {DEQ_FORM_REGEX, "(a?){300}a{300}(x|y)*z(x|y){18}"},
        {DEQ_FORM_REGEX, "((((((a*)*)*)*)*)*)*(((b{1,99}){1,99}){1,99})"},
        {DEQ_FORM_GRAMMAR, "root ::= a a a a a a a a a a\na ::= b b b b b b b b b b\nb ::= c c c c c c c c c c\n"
                           "c ::= d d d d d d d d d d\nd ::= e e e e e e e e e e\ne ::= [a-z] \"x\"{9}"},
        {DEQ_FORM_REGEX, "(a{0,300}){0,100}"},
        {DEQ_FORM_REGEX, "(.?){5000}"},
        {DEQ_FORM_SCHEMA, "{\"type\":\"array\",\"items\":{\"type\":\"array\",\"items\":{\"type\":\"array\",\"items\":"
                          "{\"type\":\"string\",\"maxLength\":4096},\"maxItems\":4096},\"maxItems\":4096},"
                          "\"maxItems\":4096}"},
        {DEQ_FORM_SCHEMA, "{\"type\":\"string\",\"pattern\":\"(a|b)*a(a|b){30}$\"}"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        deq_mem_peak_restart();
        const uint64_t live = deq_mem_live();
        struct deq_form *f = form_of(t[i].kind, t[i].text, NULL);
        CHECK_MSG(deq_mem_peak() - live < 64 << 20, "%s: %.0f MB", t[i].text, (double)(deq_mem_peak() - live) / 1e6);
        deq_form_free(f);
    }
}

/* Sets that grow with the number of repetitions: the states are few, the work is not. */
TEST(automaton_that_takes_too_long_is_refused)
{
    static const char *const regex[] = {"(a?){5000}", "(a?b?){3000}", "(.?){5000}", "(a{0,300}){0,100}",
                                        "(.*a){0,300}"};
    for (size_t i = 0; i < DEQ_COUNT(regex); i++)
        check_form_refused(DEQ_FORM_REGEX, regex[i], "takes too long");
}

/* What may be left out costs most: at each place any of those behind may follow. Twice what people write by hand. */
TEST(automaton_of_a_large_object_is_made)
{
    char schema[16384] = "{\"type\":\"object\",\"properties\":{";
    size_t n = strlen(schema);
    for (int i = 0; i < 200; i++)
        n += (size_t)snprintf(schema + n, sizeof schema - n, "%s\"property%d\":{\"type\":\"string\"}", i ? "," : "", i);
    snprintf(schema + n, sizeof schema - n, "}}");
    struct deq_form *f = form_of(DEQ_FORM_SCHEMA, schema, NULL);
    CHECK(f);
    deq_form_free(f);
}
