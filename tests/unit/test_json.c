/* core/base/json.c: JSON that jansson cannot hold. */
#include <string.h>

#include "core/base/base.h"
#include "core/base/json.h"
#include "tests/unit/test.h"

TEST(json_numbers_that_nothing_holds_are_clamped)
{
    static const struct {
        const char *text, *want;
    } t[] = {
        {"[18446744073709551616]", "[1e308               ]"},
        {"[-18446744073709551616,1]", "[-1e308               ,1]"},
        {"{\"a\":1e999}", "{\"a\":1e308}"},
        {"[9223372036854775807, -9223372036854775808, 1e308, 1e-999, 0.1]", NULL},
        {"{\"99999999999999999999\": \"\\\"99999999999999999999\"}", NULL},
        {"99999999999999999999", "1e308               "},
        {"", NULL},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        char text[96];
        snprintf(text, sizeof text, "%s", t[i].text);
        deq_json_clamp(text, strlen(text));
        CHECK_MSG(!strcmp(text, t[i].want ? t[i].want : t[i].text), "%s: %s", t[i].text, text);
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
        char got[128] = "";
        const size_t n = o ? json_dumpb(o, got, sizeof got - 1, JSON_COMPACT | JSON_REAL_PRECISION(4)) : 0;
        got[DEQ_MIN(n, sizeof got - 1)] = 0;
        json_decref(o);
        CHECK_MSG(rc == (t[i].want ? DEQ_OK : DEQ_EFORMAT) && !strcmp(got, t[i].want ? t[i].want : ""), "%s: %s",
                  t[i].text, got);
    }
}
