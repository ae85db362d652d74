/* The grammar of header values. */
#include "server/net/header.h"

#include "core/base/mem.h"
#include "tests/unit/test.h"

TEST(header_types)
{
    static const char *const good[] = {"application/json", "APPLICATION/JSON", "application/json;charset=utf-8",
                                       "application/json ; charset=\"UTF-8\"", " application/json\t",
                                       "application/json;", "application/json; a=\"x;y\"; b=c"};
    static const char *const bad[] = {"", "application/jsonx", "application/json x", "application", "text/json",
                                      "application/json, text/plain", "\"application/json\"", "application/json/x",
                                      "x;application/json", "application /json"};
    for (size_t i = 0; i < DEQ_COUNT(good); i++)
        CHECK_MSG(header_type_is(good[i], "application/json"), "%s", good[i]);
    for (size_t i = 0; i < DEQ_COUNT(bad); i++)
        CHECK_MSG(!header_type_is(bad[i], "application/json"), "%s", bad[i]);
}

TEST(header_codings)
{
    static const char *const good[] = {"", "identity", "Identity", " identity\t", "identity, identity", ",identity,"};
    static const char *const bad[] = {"gzip", "identity, gzip", "gzip,identity", "x-gzip", "identityx", "br", "deflate",
                                      "identity;q=1"};
    for (size_t i = 0; i < DEQ_COUNT(good); i++)
        CHECK_MSG(header_is_identity(good[i]), "%s", good[i]);
    for (size_t i = 0; i < DEQ_COUNT(bad); i++)
        CHECK_MSG(!header_is_identity(bad[i]), "%s", bad[i]);
}

TEST(header_tags)
{
    static const char *const good[] = {"\"a\"", " \"a\"\t", "W/\"a\"", "*", " * ", "\"b\", \"a\"", "\"b\" , W/\"a\"",
                                       ",\"a\",", "\"x,\\\"y\",\"a\""};
    static const char *const bad[] = {"", "a", "\"b\"", "\"a", "w/\"a\"", "W/ \"a\"", "\"aa\"", "\"b,\"a\"\"", "W/",
                                      "**", "\"A\""};
    for (size_t i = 0; i < DEQ_COUNT(good); i++)
        CHECK_MSG(header_has_tag(good[i], "\"a\""), "%s", good[i]);
    for (size_t i = 0; i < DEQ_COUNT(bad); i++)
        CHECK_MSG(!header_has_tag(bad[i], "\"a\""), "%s", bad[i]);
}

TEST(header_accept_weights)
{
    static const struct {
        const char *value;
        unsigned specific, q;
    } t[] = {
        {"a/b", 3, 1000},
        {"A/B", 3, 1000},
        {"a/*", 2, 1000},
        {"*/*", 1, 1000},
        {"", 0, 0},
        {"a/c", 0, 0},
        {"a", 0, 0},
        {"*", 0, 0},
        {"a/b;q=0", 3, 0},
        {"a/b; q=0.000", 3, 0},
        {"a/b ;\tQ=0.5 ", 3, 500},
        {"a/b;q=0.123", 3, 123},
        {"a/b;q=1.000", 3, 1000},
        {"a/b;q=1.", 3, 1000},
        {"a/b;x=y;q=0.2", 3, 200},
        {"a/b;x=\"q=0.1;,\";q=0.3", 3, 300},
        {"a/b;x=\"\\\",a/b\";q=0.4", 3, 400},
        {"*/*;q=0.9, a/b;q=0.1", 3, 100},
        {"a/b;q=0.1, */*;q=0.9", 3, 100},
        {"a/*;q=0.7, */*", 2, 700},
        {"a/b;q=0.1,a/b;q=0.8", 3, 800},
        {"x/y, ,a/b;q=0.6,", 3, 600},
        /* weights that are none: the range does not count */
        {"a/b;q=1.001", 0, 0},
        {"a/b;q=2", 0, 0},
        {"a/b;q=0.1234", 0, 0},
        {"a/b;q=-1", 0, 0},
        {"a/b;q=", 0, 0},
        {"a/b;q=x, */*;q=0.5", 1, 500},
        {"a/bc, aa/b", 0, 0},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct header_weight w = {0};
        header_accept(t[i].value, "a/b", &w);
        CHECK_MSG(w.specific == t[i].specific && w.q == t[i].q, "%s: %u %u", t[i].value, w.specific, w.q);
    }
    struct header_weight w = {0}; /* lines add up */
    header_accept("*/*;q=0.9", "a/b", &w);
    header_accept("a/b;q=0.2", "a/b", &w);
    CHECK(w.specific == 3 && w.q == 200);
}

/* A value that is unit again and again, through everything that reads values. */
static void read_value(void *unit, size_t n)
{
    const size_t k = strlen(unit);
    struct header_weight w = {0};
    char *s = deq_alloc(n + 1);
    for (size_t i = 0; s && i < n; i++)
        s[i] = ((const char *)unit)[i % k];
    if (s) {
        s[n] = 0;
        header_accept(s, "a/b", &w);
        CHECK(!header_type_is(s, "a/b") && !header_has_tag(s, "\"tag\""));
        (void)header_is_identity(s);
    }
    deq_free(s);
}

TEST(header_values_are_linear)
{
    static char units[][12] = {"x/y,", "x/y;q=0.5,", ";", ",", " ", "\"", "\\\"", "x/y;\t", "identity, "};
    for (size_t i = 0; i < DEQ_COUNT(units); i++)
        CHECK_LINEAR(read_value, units[i], 8000, "%s", units[i]);
}
