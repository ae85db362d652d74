/* core/form/readings.c: sets of readings step, end and compare as their automaton says. */
#include "core/form/readings.h"

#include "core/form/gbnf.h"
#include "core/base/mem.h"
#include "tests/unit/forms.h"

static bool automaton_of(const char *grammar, struct deq_automaton *ret)
{
    struct deq_exprs *x = DEQ_NEW(struct deq_exprs);
    uint32_t root;
    deq_exprs_init(x);
    const bool ok = !deq_gbnf_read(x, grammar, strlen(grammar), &root, NULL) &&
                    !deq_automaton_make(x, root, some_spelling()->alone, ret, NULL);
    deq_exprs_free(x);
    deq_free(x);
    return ok;
}

TEST(readings_follow_all_that_may_be_meant)
{
    struct deq_automaton a;
    struct deq_readings r, s;
    REQUIRE(automaton_of("root ::= x | y\nx ::= \"(\" x \")\" | \"x\" big\ny ::= \"(\" y \")\" | \"x\" big \"!\"\n"
                         "big ::= [a-z]{100}", &a));
    deq_readings_begin(&a, &r);
    CHECK(r.n >= 1 && !deq_readings_whole(&a, &r) && !deq_readings_ended(&a, &r));
    for (int i = 0; i < 3; i++) {
        CHECK(deq_readings_step(&a, &r, '(', &s));
        deq_readings_copy(&r, &s);
        CHECK(deq_readings_equal(&r, &s));
        CHECK_EQ(r.n, 2); /* an x or a y */
    }
    CHECK(deq_readings_step(&a, &r, 'x', &s) && !deq_readings_equal(&r, &s));
    for (int i = 0; i < 100; i++) {
        deq_readings_copy(&r, &s);
        CHECK(deq_readings_step(&a, &r, 'q', &s));
    }
    deq_readings_copy(&r, &s);
    CHECK(deq_readings_step(&a, &r, '!', &s));
    CHECK_EQ(s.n, 1);
    CHECK(!deq_readings_step(&a, &r, 'q', &s));
    CHECK(!s.n);
    deq_automaton_free(&a);
}

/* An ambiguous grammar has more readings than are followed; what is left goes on. */
TEST(readings_are_at_most_so_many)
{
    struct deq_automaton a;
    struct deq_readings r[2];
    REQUIRE(automaton_of("root ::= s\n"
                         "s ::= \"a\" t \"x\" | \"a\" u \"y\" | \"b\"\n"
                         "t ::= \"a\" t \"x\" | \"a\" u \"y\" | \"b\" big\n"
                         "u ::= \"a\" t \"x\" | \"a\" u \"y\" | \"b\" big\nbig ::= [0-9]{97}", &a));
    deq_readings_begin(&a, &r[0]);
    uint32_t most = 0;
    for (int i = 0; i < 20; i++) {
        CHECK(deq_readings_step(&a, &r[i % 2], 'a', &r[(i + 1) % 2]));
        most = DEQ_MAX(most, r[(i + 1) % 2].n);
    }
    CHECK_EQ(most, DEQ_FORM_READINGS);
    CHECK(deq_readings_step(&a, &r[0], 'b', &r[1]));
    deq_automaton_free(&a);
}
