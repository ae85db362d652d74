/* core/form/form.c: choices; forms that are kept, shared and given up; nothing leaks or crashes where memory ends. */
#include "core/form/form.h"

#include <stdlib.h>

#include "core/base/mem.h"
#include "tests/unit/forms.h"

TEST(form_of_choices)
{
    check_form(DEQ_FORM_CHOICE, "[\"yes\",\"no\",\"yes, please\"]",
               (const char *const[]){"yes", "no", "yes, please", NULL},
               (const char *const[]){"", "ye", "yes,", "noyes", NULL});
    check_form_refused(DEQ_FORM_CHOICE, "[]", "not empty");
    check_form_refused(DEQ_FORM_CHOICE, "[\"\"]", "not empty");
    check_form_refused(DEQ_FORM_CHOICE, "[1]", "strings");
}

TEST(forms_are_made_once_and_the_last_ones_kept)
{
    struct deq_form *first = form_of(DEQ_FORM_REGEX, "first", NULL), *again = form_of(DEQ_FORM_REGEX, "first", NULL);
    char regex[24];
    CHECK(first && first == again);
    deq_form_free(again);
    for (int i = 0; i < DEQ_FORMS_KEPT; i++) {
        snprintf(regex, sizeof regex, "other%d", i);
        deq_form_free(form_of(DEQ_FORM_REGEX, regex, NULL));
    }
    CHECK_EQ(form_takes(first, "first"), 2); /* not kept, but held */
    again = form_of(DEQ_FORM_REGEX, "first", NULL);
    CHECK(again && again != first);
    deq_form_free(first);
    deq_form_free(again);
    again = form_of(DEQ_FORM_CHOICE, "[\"first\"]", NULL); /* of another kind */
    CHECK_EQ(form_takes(again, "first"), 2);
    deq_form_free(again);
}

TEST(forms_are_counted)
{
    struct deq_forms *forms = NULL;
    struct deq_form *f = NULL;
    struct deq_err err;
    char *large = calloc(1, DEQ_FORM_TEXT_MAX + 1);
    REQUIRE(large && !deq_forms_new(some_spelling(), FORMS_EOS, &forms, &err));
    CHECK_EQ(deq_forms_stats(forms).kept, 0);
    for (int i = 0; i < 3; i++) {
        REQUIRE(!deq_forms_get(forms, i == 1 ? DEQ_FORM_REGEX : DEQ_FORM_CHOICE, "[\"a\"]", 5, &f, &err));
        deq_form_free(f);
    }
    CHECK_EQ(deq_forms_get(forms, DEQ_FORM_REGEX, "(", 1, &f, &err), DEQ_EINVAL);
    CHECK_EQ(deq_forms_get(forms, DEQ_FORM_REGEX, large, DEQ_FORM_TEXT_MAX + 1, &f, &err), DEQ_EINVAL);
    const struct deq_form_stats s = deq_forms_stats(forms);
    CHECK(s.made == 2 && s.found == 1 && s.refused == 2 && s.kept == 2);
    deq_forms_free(forms);
    free(large);
}

TEST(form_ends_where_nothing_may_follow)
{
    struct deq_form *f = form_of(DEQ_FORM_REGEX, "ab*|c", NULL);
    struct deq_readings r[2];
    REQUIRE(f);
    deq_form_begin(f, &r[0]);
    CHECK(!deq_form_whole(f, &r[0]) && !deq_form_ended(f, &r[0]));
    deq_form_advance(f, &r[0], 1 + 'a', &r[1]);
    CHECK(deq_form_whole(f, &r[1]) && !deq_form_ended(f, &r[1]));
    deq_form_advance(f, &r[0], 1 + 'c', &r[1]);
    CHECK(deq_form_whole(f, &r[1]) && deq_form_ended(f, &r[1]));
    deq_form_advance(f, &r[0], FORMS_EOS, &r[1]);
    CHECK(!r[1].n && deq_form_ended(f, &r[1]) && !deq_form_whole(f, &r[1]));
    CHECK(deq_form_spells(f, 1 + 'a') && !deq_form_spells(f, FORMS_EOS) && !deq_form_spells(f, FORMS_VOCAB));
    deq_form_free(f);
}

/* Every allocation fails once: an error, no leak. */
TEST(form_without_memory)
{
    static const struct {
        enum deq_form_kind kind;
        const char *text;
    } t[] = {{DEQ_FORM_CHOICE, "[\"a\",\"b\"]"},
             {DEQ_FORM_REGEX, "[a-z]{3}|(\\d+)x"},
             {DEQ_FORM_GRAMMAR, "root ::= \"a\" b*\nb ::= \"(\" root \")\""},
             {DEQ_FORM_SCHEMA,
              "{\"anyOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}}},{\"enum\":[1.5]},"
                               "{\"allOf\":[{\"type\":\"integer\"},{\"minimum\":3}]}],\"title\":\"t\"}"}};
    REQUIRE(some_spelling()); /* made before anything is counted */
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        bool failed = true;
        for (uint64_t nth = 1; failed && nth < 5000; nth++) {
            struct deq_forms *forms = NULL;
            struct deq_form *f = NULL;
            struct deq_err err = {0};
            const uint64_t live = deq_mem_live();
            REQUIRE(!deq_forms_new(some_spelling(), FORMS_EOS, &forms, NULL));
            deq_mem_count_plain(true);
            deq_mem_fault(nth, false);
            const enum deq_rc rc = deq_forms_get(forms, t[i].kind, t[i].text, strlen(t[i].text), &f, &err);
            deq_mem_fault(0, false);
            deq_mem_count_plain(false);
            failed = rc != DEQ_OK;
            CHECK_MSG(rc == DEQ_OK || rc == DEQ_ENOMEM, "%s, allocation %llu: %s", t[i].text, (unsigned long long)nth,
                      err.text);
            deq_form_free(f);
            deq_forms_free(forms);
            CHECK_EQ(deq_mem_live(), live);
        }
        CHECK(!failed);
    }
}
