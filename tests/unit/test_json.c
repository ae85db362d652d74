/* core/base/json.c: JSON that jansson cannot hold. */
#include <string.h>
#include <time.h>

#include "core/base/base.h"
#include "core/base/buf.h"
#include "core/base/fault.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "tests/unit/test.h"

/* As jansson writes it back, "" for NULL. Takes o. */
static const char *written(json_t *o)
{
    static char text[128];
    const size_t n = o ? json_dumpb(o, text, sizeof text - 1, JSON_COMPACT | JSON_REAL_PRECISION(4)) : 0;
    text[DEQ_MIN(n, sizeof text - 1)] = 0;
    json_decref(o);
    return text;
}

TEST(json_numbers_that_nothing_holds_are_clamped)
{
    static const struct {
        const char *text, *want; /* "": it is no JSON */
    } t[] = {
        {"[18446744073709551616]", "[1e308]"},
        {"[-18446744073709551616,1]", "[-1e308,1]"},
        {"{\"a\":1e999}", "{\"a\":1e308}"},
        {"[9223372036854775807,-9223372036854775808,9223372036854775808]",
         "[9223372036854775807,-9223372036854775808,1e308]"},
        {"[1e308,-1e999,0.1]", "[1e308,-1e308,0.1]"},
        {"{\"99999999999999999999\":\"\\\"99999999999999999999\",\"a\":1e999}",
         "{\"99999999999999999999\":\"\\\"99999999999999999999\",\"a\":1e308}"},
        {"[1e999", ""},
        {"[01e999]", ""},
        {"", ""},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        json_t *o = NULL;
        json_error_t where;
        const enum deq_rc rc = deq_json_parse_clamped(t[i].text, strlen(t[i].text), 0, &o, &where);
        CHECK_EQ(rc, *t[i].want ? DEQ_OK : DEQ_EFORMAT);
        CHECK_EQ(written(o), t[i].want);
    }
}

TEST(json_loose_takes_every_json_text)
{
#define HALF "\xef\xbf\xbd"
    static const struct {
        const char *text, *want; /* as jansson writes it back, or NULL: it is no JSON */
    } t[] = {
        {"{\"a\":\"\\u0000\"}", "{\"a\":\"" HALF "\"}"},
        {"{\"a\\u0000\":1}", "{\"a" HALF "\":1}"},
        {"[\"\\ud83d\"]", "[\"" HALF "\"]"},
        {"[\"\\uDE00\"]", "[\"" HALF "\"]"},
        {"[\"\\ud83d\\ud83d\\ude00\"]", "[\"" HALF "\xf0\x9f\x98\x80\"]"},
        {"[\"\\ud83d\\u0041\", \"\\ud83dx\"]", "[\"" HALF "A\",\"" HALF "x\"]"},
        {"[\"\\\\ud83d\", \"\\u0000\"]", "[\"\\\\ud83d\",\"" HALF "\"]"},
        {"{\"created\":18446744073709551615,\"x\":[1e400]}", "{\"created\":1e308,\"x\":[1e308]}"},
        {"{\"a\":1}", "{\"a\":1}"},
        {"[\"\\ud83", NULL}, {"[\"\\u00", NULL}, {"[\"\\", NULL}, {"[1e999", NULL}, {"{a:1}", NULL},
        {"[\"\\u+000\"]", NULL}, {"", NULL},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        json_t *o = NULL;
        const enum deq_rc rc = deq_json_parse_loose(t[i].text, strlen(t[i].text), &o);
        const char *got = written(o);
        CHECK_MSG(rc == (t[i].want ? DEQ_OK : DEQ_EFORMAT) && !strcmp(got, t[i].want ? t[i].want : ""), "%s: %s",
                  t[i].text, got);
    }
}

TEST(json_text_is_whole_or_none)
{
    uint64_t nth = 1;
    (void)deq_json_failed();
    for (bool whole = false; !whole; nth++) {
        deq_mem_count_plain(true);
        deq_mem_fault(nth, false);
        json_t *o = json_object();
        json_object_set_new(o, "a", json_string("one"));
        json_object_set_new(o, "b", json_integer(2));
        char *text = deq_json_text(o, JSON_COMPACT | JSON_SORT_KEYS);
        whole = !deq_fault_hits(DEQ_FAULT_ALLOC);
        deq_mem_fault(0, false);
        deq_mem_count_plain(false);
        CHECK_MSG(text ? whole && !strcmp(text, "{\"a\":\"one\",\"b\":2}") : !whole, "allocation %llu: %s",
                  (unsigned long long)nth, text ? text : "(none)");
        deq_free_plain(text);
        json_decref(o);
    }
    CHECK(nth > 6 && !deq_json_text(NULL, 0));
}

/* What it had is freed from its beginning on: were it looked for from the end, this would take ten seconds. */
TEST(json_that_breaks_off_costs_what_it_is_long)
{
    enum { VALUES = 250000, SECONDS_MAX = 3 };
    static const struct {
        const char *begin, *value, *end;
    } t[] = {{"[", "1,", ""}, {"[", "[1],", ""}, {"{\"a\":[", "\"x\",", "1]"}, {"[", "{\"a\":{}},", "1"}};
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct deq_buf text;
        json_error_t where;
        json_t *o = NULL;
        deq_buf_init(&text, 1 << 24);
        deq_buf_str(&text, t[i].begin);
        for (size_t k = 0; k < VALUES; k++)
            deq_buf_str(&text, t[i].value);
        deq_buf_str(&text, t[i].end);
        const clock_t before = clock();
        CHECK(!text.failed && deq_json_parse(text.data, text.len, 0, &o, &where) == DEQ_EFORMAT);
        CHECK_MSG(clock() - before < SECONDS_MAX * CLOCKS_PER_SEC, "%s%s...: %.1f s", t[i].begin, t[i].value,
                  (double)(clock() - before) / CLOCKS_PER_SEC);
        deq_buf_free(&text);
    }
}
