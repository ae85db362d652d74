/* core/form/mask.c: the walk allows exactly the tokens that each alone can follow, kept or not. */
#include "core/form/form.h"

#include "core/base/mem.h"
#include "tests/unit/forms.h"

static const struct {
    enum deq_form_kind kind;
    const char *text;
} forms[] = {
    {DEQ_FORM_CHOICE, "[\"yes\",\"no\",\"the name\",\"\\u00e9\"]"},
    {DEQ_FORM_REGEX, "(a|ab|abc)*(bc)?|[0-9]{4}-[0-9]{2}( the)*"},
    {DEQ_FORM_REGEX, "[^x]{0,6}"},
    {DEQ_FORM_GRAMMAR, "root ::= v\nv ::= \"[\" (v (\", \" v)*)? \"]\" | \"\\\"\" [a-z]* \"\\\"\" | [0-9]+"},
    {DEQ_FORM_GRAMMAR, "root ::= \"a\" root \"a\" | \"b\" root \"b\" | \"\" | [ab]"},
    {DEQ_FORM_SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"id\":{\"type\":\"integer\"},"
                      "\"kind\":{\"enum\":[\"yes\",\"no\"]}}}"},
    {DEQ_FORM_SCHEMA, "{}"},
};

/* Random walks; at every place each token is tried alone. */
TEST(mask_is_what_each_token_alone_may)
{
    char out[512];
    for (size_t i = 0; i < DEQ_COUNT(forms); i++) {
        struct deq_form *f = form_of(forms[i].kind, forms[i].text, NULL);
        REQUIRE(f);
        for (uint64_t seed = 0; seed < 3; seed++)
            (void)random_text(f, seed, 25, true, out, sizeof out);
        deq_form_free(f);
    }
}

/* More places than there is room for, there and back: what is written over is found again. */
TEST(mask_survives_being_written_over)
{
    struct deq_form *f = form_of(DEQ_FORM_REGEX, "(a[b-y]{0,200}z?){0,5}", NULL);
    uint32_t first[(FORMS_VOCAB + 31) / 32], again[(FORMS_VOCAB + 31) / 32];
    struct deq_readings begin, r[2];
    REQUIRE(f);
    deq_form_begin(f, &begin);
    deq_form_mask(f, &begin, first);
    deq_readings_copy(&r[0], &begin);
    for (int i = 0; i < 1000; i++) {
        deq_form_advance(f, &r[i % 2], 1 + (i % 200 == 0 ? 'a' : i % 200 == 199 ? 'z' : 'c'), &r[(i + 1) % 2]);
        CHECK(r[(i + 1) % 2].n > 0);
        deq_form_mask(f, &r[(i + 1) % 2], again);
    }
    CHECK(deq_form_whole(f, &r[0]) && deq_form_ended(f, &r[0]));
    deq_form_mask(f, &begin, again);
    CHECK(!memcmp(first, again, sizeof first));
    deq_form_free(f);
}

/* It allocates nothing. */
TEST(mask_allocates_nothing)
{
    struct deq_form *f = form_of(DEQ_FORM_SCHEMA, "{}", NULL);
    uint32_t allowed[(FORMS_VOCAB + 31) / 32];
    struct deq_readings r[2];
    REQUIRE(f);
    const uint64_t before = deq_mem_calls();
    deq_form_begin(f, &r[0]);
    for (int i = 0; i < 20; i++) {
        deq_form_mask(f, &r[i % 2], allowed);
        deq_form_advance(f, &r[i % 2], 1 + '[', &r[(i + 1) % 2]);
    }
    CHECK_EQ(deq_mem_calls(), before);
    deq_form_free(f);
}

/* Of sixteen readings, thirty calls deep each, not all tokens of several bytes are tried: steps of others would wait.
 * Those of one byte are all there, and what is allowed fits. */
TEST(mask_of_an_ambiguous_grammar_is_bounded)
{
    struct deq_form *f = form_of(DEQ_FORM_GRAMMAR, "root ::= [^~] (root [^~]?)?", NULL);
    uint32_t allowed[(FORMS_VOCAB + 31) / 32], short_ones = 0, long_ones = 0, left_out = 0;
    struct deq_readings r[2], tried;
    REQUIRE(f);
    deq_form_begin(f, &r[0]);
    for (int i = 0; i < 40; i++)
        deq_form_advance(f, &r[i % 2], 1 + 'a', &r[(i + 1) % 2]);
    CHECK_EQ(r[0].n, DEQ_FORM_READINGS);
    deq_form_mask(f, &r[0], allowed);
    for (uint32_t id = 1; id < FORMS_VOCAB; id++) {
        const uint32_t len = deq_form_spells(f, id) ? some_spelling()->text[id].len : 0;
        deq_form_advance(f, &r[0], id, &tried);
        const bool may = deq_form_allows(allowed, id);
        CHECK_MSG(tried.n || !may, "%u is allowed and fits", id);
        CHECK_MSG(may || len != 1 || !tried.n, "%u is a byte", id);
        short_ones += may && len == 1;
        long_ones += may && len > 1;
        left_out += !may && tried.n;
    }
    CHECK(short_ones > 150 && long_ones && left_out);
    deq_form_free(f);
}
