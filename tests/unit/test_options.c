/* core/base/options.c: options by a table, from text, YAML and the environment, and back. */
#include "core/base/options.h"

#include <stdlib.h>

#include "tests/unit/test.h"

struct values {
    uint32_t count;
    uint64_t large, room;
    float rate;
    bool on;
    char name[8], mode[16], list[32];
};

#define AT(f) offsetof(struct values, f)
static const struct deq_opt opts[] = {
    {"count", DEQ_OPT_U32, AT(count), 1, 100, "5", NULL, "How many."},
    {"server.large", DEQ_OPT_U64, AT(large), 0, 1e18, "0", NULL, "Large, in things."},
    {"server.room", DEQ_OPT_BYTES, AT(room), 0, 1099511627776.0, "64M", NULL, "Room, in bytes."},
    {"server.rate", DEQ_OPT_FLOAT, AT(rate), -1, 10, "0.5", NULL, "Rate, per second."},
    {"server.on", DEQ_OPT_BOOL, AT(on), 0, 0, "true", NULL, "On or off."},
    {"log.name", DEQ_OPT_STR, AT(name), 0, sizeof((struct values *)0)->name, "abc", NULL, "A name."},
    {"log.mode", DEQ_OPT_STR, AT(mode), 0, sizeof((struct values *)0)->mode, "json", "json|text|off", "A mode."},
    {"log.list", DEQ_OPT_LIST, AT(list), 0, sizeof((struct values *)0)->list, "x", NULL, "Some items."},
};
static const struct deq_opt_table table = {opts, DEQ_COUNT(opts)};

static enum deq_rc set(struct values *v, const char *name, const char *text, struct deq_err *e)
{
    return deq_opt_set(deq_opt_find(&table, name), v, text, 0, e);
}

TEST(options_defaults_and_values)
{
    struct values v = {0};
    struct deq_err e;
    CHECK(!deq_opt_defaults(&table, &v, &e));
    CHECK(v.count == 5 && v.large == 0 && v.room == 64u << 20 && v.rate == 0.5f && v.on && !strcmp(v.name, "abc") &&
          !strcmp(v.mode, "json") && !strcmp(v.list, "x"));
    CHECK(deq_opt_find(&table, "log.name") == &opts[5] && !deq_opt_find(&table, "log") && !deq_opt_find(&table, ""));

    CHECK(!set(&v, "count", "100", &e) && v.count == 100);
    CHECK(!set(&v, "count", "007", &e) && v.count == 7);
    CHECK(!set(&v, "server.large", "1000000000000000000", &e) && v.large == 1000000000000000000u);
    CHECK(!set(&v, "server.rate", "-1e-1", &e) && v.rate == -0.1f);
    CHECK(!set(&v, "server.on", "false", &e) && !v.on);
    CHECK(!set(&v, "log.name", "1234567", &e) && !strcmp(v.name, "1234567"));
    CHECK(!set(&v, "log.name", "", &e) && !strcmp(v.name, ""));
    CHECK(!set(&v, "log.mode", "off", &e) && !strcmp(v.mode, "off"));
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {{"0", 0},          {"17", 17},         {"2K", 2048},       {"2KiB", 2048},
                 {"3M", 3u << 20}, {"3MiB", 3u << 20}, {"5G", 5ull << 30}, {"5GiB", 5ull << 30}};
    for (size_t i = 0; i < DEQ_COUNT(sizes); i++)
        CHECK_MSG(!set(&v, "server.room", sizes[i].text, &e) && v.room == sizes[i].bytes, "%s", sizes[i].text);

    const struct deq_opt *list = deq_opt_find(&table, "log.list");
    CHECK(!deq_opt_set(list, &v, "one", 0, &e) && !deq_opt_set(list, &v, "two", 1, &e) && !strcmp(v.list, "one\ntwo"));
    CHECK(deq_opt_set(list, &v, "a\nb", 0, &e) == DEQ_EINVAL);
    CHECK(deq_opt_set(list, &v, "twenty-five characters...", 2, &e) == DEQ_EINVAL && !strcmp(v.list, "one\ntwo"));
}

TEST(options_bad_values_name_the_option)
{
    static const struct {
        const char *name, *text;
    } t[] = {
        {"count", ""}, {"count", "0"}, {"count", "101"}, {"count", "-1"}, {"count", "+5"}, {"count", " 5"},
        {"count", "5 "}, {"count", "5x"}, {"count", "0x5"}, {"count", "1e1"}, {"count", "4294967301"},
        {"count", "18446744073709551621"}, {"server.large", "18446744073709551616"},
        {"server.large", "1000000000000000001"}, {"server.large", "1000000000000000001000"}, {"server.room", "K"},
        {"server.room", "-1"}, {"server.room", "1T"}, {"server.room", "1k"}, {"server.room", "1 K"},
        {"server.room", "1.5G"}, {"server.room", "1025G"}, {"server.room", "17179869185G"},
        {"server.room", "00000000000000000000000000000000000001"}, {"server.rate", ""}, {"server.rate", "nan"},
        {"server.rate", "inf"}, {"server.rate", "1e999"}, {"server.rate", "0x1"}, {"server.rate", " 1"},
        {"server.rate", "1,5"}, {"server.rate", "10.5"}, {"server.rate", "-1.01"}, {"server.rate", "1-"},
        {"server.rate", "."}, {"server.on", "yes"}, {"server.on", "True"}, {"server.on", ""}, {"server.on", "1"},
        {"log.name", "12345678"}, {"log.mode", "xml"}, {"log.mode", "jso"}, {"log.mode", "json|text"}, {"log.mode", ""},
        {"log.mode", "jsonx"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct values v = {0}, before;
        struct deq_err e = {0};
        (void)deq_opt_defaults(&table, &v, NULL);
        memcpy(&before, &v, sizeof v);
        CHECK_MSG(set(&v, t[i].name, t[i].text, &e) == DEQ_EINVAL, "%s \"%s\"", t[i].name, t[i].text);
        CHECK_MSG(strstr(e.text, t[i].name), "\"%s\" does not name %s", e.text, t[i].name);
        CHECK_MSG(!memcmp(&before, &v, sizeof v), "%s \"%s\" changed a value", t[i].name, t[i].text);
    }
    static const struct deq_opt exact = {"exact", DEQ_OPT_U64, 0, 0, 0x1p53, NULL, NULL,
                                         "as a double this and the next are one"};
    uint64_t u = 0;
    CHECK(!deq_opt_set(&exact, &u, "9007199254740992", 0, NULL) &&
          deq_opt_set(&exact, &u, "9007199254740993", 0, NULL) == DEQ_EINVAL);
}

TEST(options_from_yaml)
{
    struct values v = {0};
    struct deq_err e = {0};
    (void)deq_opt_defaults(&table, &v, NULL);
    static const char good[] = "count: 9\nserver: {on: false, room: 1G}\nlog:\n  list: [a, b, c]\n  name: \"q\"\n";
    CHECK_MSG(!deq_opt_parse(&table, &v, good, sizeof good - 1, "o.yaml", &e), "%s", e.text);
    CHECK(v.count == 9 && !v.on && v.room == 1u << 30 && !strcmp(v.list, "a\nb\nc") && !strcmp(v.name, "q") &&
          v.rate == 0.5f);

    static const struct {
        const char *text, *a, *b;
    } bad[] = {
        {"count: 9\nconut: 1\n", "o.yaml: line 2, column 1", "unknown key conut (did you mean count?)"},
        {"rate: 1\n", "line 1, column 1", "did you mean server.rate?"},
        {"server:\n  rat: 1\n", "line 2, column 3", "did you mean server.rate?"},
        {"completely_different_thing: 1\n", "line 1, column 1", "unknown key completely_different_thing"},
        {"server:\n  rate: fast\n", "o.yaml: line 2, column 9", "server.rate"},
        {"count: [1, 2]\n", "line 1, column 8", "count takes one value"},
        {"server: 3\n", "line 1, column 9", "server is a section"},
        {"server: [\n", "line 2", "flow"},
        {"server: [a]\n", "line 1, column 9", "server is a section"},
        {"count: {}\n", "line 1", "count takes a value, not a mapping"},
        {"conut:\n", "line 1, column 1", "unknown key conut (did you mean count?)"},
        {"conut: {}\n", "line 1, column 1", "unknown key conut"},
        {"sevrer:\n", "line 1, column 1", "unknown key sevrer (did you mean server?)"},
        {"sever: {}\n", "line 1, column 1", "did you mean server?"},
        {"log: {list: [a, ~]}\n", "line 1, column 17", "log.list a null is no item"},
        {"count: 1.9\n", "line 1, column 8", "count: \"1.9\" is not an integer in 1..100"},
        {"count: 1_0\n", "line 1, column 8", "count"},
        {"count: 0x10\n", "line 1, column 8", "count"},
        {"count: 1e1\n", "line 1, column 8", "count"},
        {"server: {on: yes}\n", "line 1, column 14", "server.on: \"yes\" is not true or false"},
        {"count: 1\ncount: 2\n", "line 2, column 1", "twice"},
        {"log:\n  list: [aaaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbbbbbbbb]\n", "line 2, column 29", "log.list"},
    };
    for (size_t i = 0; i < DEQ_COUNT(bad); i++) {
        CHECK(deq_opt_parse(&table, &v, bad[i].text, strlen(bad[i].text), "o.yaml", &e) < 0);
        CHECK_MSG(strstr(e.text, bad[i].a) && strstr(e.text, bad[i].b), "case %zu: %s", i, e.text);
    }
    CHECK(deq_opt_nearest(&table, "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz") == NULL);
    CHECK(!strcmp(deq_opt_nearest(&table, "log.nam"), "log.name"));
    CHECK(deq_opt_load(&table, &v, "/nonexistent/o.yaml", &e) == DEQ_ENOTFOUND && strstr(e.text, "o.yaml"));
}

TEST(options_empty_sequence_empties_the_list)
{
    struct values v = {0};
    struct deq_err e = {0};
    (void)deq_opt_defaults(&table, &v, NULL); /* log.list: x */
    CHECK(!deq_opt_parse(&table, &v, "log: {list: []}\n", 16, "o.yaml", &e));
    CHECK_MSG(!strcmp(v.list, ""), "the list is still \"%s\"", v.list);
}

/* YAML's null and a section whose keys are commented out are as if they were not there */
TEST(options_null_is_absent)
{
    static const char *const absent[] = {"count:\n", "count: ~\n", "count: null\nserver:\n  # on: false\n",
                                         "server: null\nlog: {name: NULL, list: ~, mode: Null}\n", "server: {}\n",
                                         "log:\n  list:\n  # - a\n", "~\n", "# nothing\n"};
    for (size_t i = 0; i < DEQ_COUNT(absent); i++) {
        struct values v = {0}, before;
        struct deq_err e = {0};
        (void)deq_opt_defaults(&table, &v, NULL);
        memcpy(&before, &v, sizeof v);
        CHECK_MSG(!deq_opt_parse(&table, &v, absent[i], strlen(absent[i]), "o.yaml", &e), "%s: %s", absent[i], e.text);
        CHECK_MSG(!memcmp(&before, &v, sizeof v), "%s changed a value", absent[i]);
    }
    struct values v = {0};
    CHECK(!deq_opt_parse(&table, &v, "log: {name: \"null\"}\n", 20, "o.yaml", NULL) && !strcmp(v.name, "null"));
}

TEST(options_assign)
{
    struct values v = {0};
    struct deq_err e;
    (void)deq_opt_defaults(&table, &v, NULL);
    CHECK(!deq_opt_assign(&table, &v, "count=7", &e) && v.count == 7);
    CHECK(!deq_opt_assign(&table, &v, "log.name=a=b", &e) && !strcmp(v.name, "a=b"));
    CHECK(!deq_opt_assign(&table, &v, "log.list=one", &e) && !strcmp(v.list, "one"));
    CHECK(!deq_opt_assign(&table, &v, "log.list=[a.txt, 'b c']", &e) && !strcmp(v.list, "a.txt\nb c"));
    CHECK(!deq_opt_assign(&table, &v, "log.list=[]", &e) && !v.list[0]);
    /* YAML's null puts the default back, whatever a file has said */
    CHECK(!deq_opt_assign(&table, &v, "count=null", &e) && v.count == 5 &&
          !deq_opt_assign(&table, &v, "log.list=null", &e) && !strcmp(v.list, "null"));
    CHECK(!deq_opt_assign(&table, &v, "log.name=null", &e) && strcmp(v.name, "null") &&
          !deq_opt_assign(&table, &v, "log.name=nullx", &e) && !strcmp(v.name, "nullx"));
    static const struct {
        const char *text, *says;
    } bad[] = {{"conut=7", "unknown key conut (did you mean count?)"}, {"count", "expected KEY=VALUE"},
               {"=5", "expected KEY=VALUE"}, {"", "expected KEY=VALUE"}, {"log=5", "log is a section"},
               {"count=1.9", "count: \"1.9\" is not an integer in 1..100"}, {"log.list=[a", "flow sequence"},
               {"rate=1", "did you mean server.rate?"}, {"serve=1", "unknown key serve (did you mean server?)"}};
    for (size_t i = 0; i < DEQ_COUNT(bad); i++)
        CHECK_MSG(deq_opt_assign(&table, &v, bad[i].text, &e) < 0 && strstr(e.text, bad[i].says), "%s: %s", bad[i].text,
                  e.text);
}

static bool of_another(const char *name, const char *value)
{
    return !strcmp(name, "OTHER") && !strcmp(value, "x");
}

TEST(options_from_environment)
{
    struct values v = {0};
    struct deq_err e = {0};
    (void)deq_opt_defaults(&table, &v, NULL);
    setenv("DEQUNIT_SERVER_RATE", "2.5", 1);
    setenv("DEQUNIT_LOG_LIST", "solo", 1);
    setenv("DEQUNIT_COUNT", "", 1); /* empty is unset */
    setenv("DEQUNIT_NOTHING", "", 1);
    CHECK(!deq_opt_env(&table, &v, "DEQUNIT_", NULL, &e) && v.rate == 2.5f && !strcmp(v.list, "solo") && v.count == 5);
    setenv("DEQUNIT_COUNT", "many", 1);
    CHECK(deq_opt_env(&table, &v, "DEQUNIT_", NULL, &e) == DEQ_EINVAL && strstr(e.text, "DEQUNIT_COUNT") &&
          v.count == 5);
    unsetenv("DEQUNIT_COUNT");
    setenv("DEQUNIT_OTHER", "x", 1);
    CHECK(deq_opt_env(&table, &v, "DEQUNIT_", NULL, &e) == DEQ_EINVAL && strstr(e.text, "DEQUNIT_OTHER"));
    CHECK(!deq_opt_env(&table, &v, "DEQUNIT_", of_another, &e));
    setenv("DEQUNIT_OTHER", "y", 1);
    CHECK(deq_opt_env(&table, &v, "DEQUNIT_", of_another, &e) == DEQ_EINVAL);
    unsetenv("DEQUNIT_OTHER");
    setenv("DEQUNIT_LOG_NAEM", "x", 1);
    CHECK_MSG(deq_opt_env(&table, &v, "DEQUNIT_", NULL, &e) == DEQ_EINVAL && strstr(e.text, "DEQUNIT_LOG_NAEM") &&
                  strstr(e.text, "(did you mean DEQUNIT_LOG_NAME?)"),
              "%s", e.text);
    unsetenv("DEQUNIT_LOG_NAEM");
    unsetenv("DEQUNIT_NOTHING");
    setenv("DEQUNIT_LOG_LIST", "[a, b]", 1);
    CHECK(!deq_opt_env(&table, &v, "DEQUNIT_", NULL, &e) && !strcmp(v.list, "a\nb"));
    unsetenv("DEQUNIT_SERVER_RATE");
    unsetenv("DEQUNIT_LOG_LIST");
    unsetenv("DEQUNIT_COUNT");
}

/* what deq_opt_dump writes, read back over other values */
static void round_trip(const struct values *v, bool comments, const char *what)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    deq_opt_dump(&table, v, comments, f);
    fclose(f);
    struct values back = {0};
    struct deq_err e = {0};
    enum deq_rc rc = deq_opt_parse(&table, &back, text, len, "dump", &e);
    CHECK_MSG(!rc, "%s: %s in\n%s", what, e.text, text);
    CHECK_MSG(back.count == v->count && back.large == v->large && back.room == v->room && back.rate == v->rate &&
                  back.on == v->on,
              "%s: %s", what, text);
    CHECK_MSG(!strcmp(back.name, v->name) && !strcmp(back.mode, v->mode) && !strcmp(back.list, v->list), "%s: %s", what,
              text);
    if (comments)
        for (size_t i = 0; i < DEQ_COUNT(opts); i++)
            CHECK(strstr(text, opts[i].help) != NULL);
    else
        CHECK(!strstr(text, "# "));
    free(text);
}

TEST(options_dump_reads_back)
{
    struct values v = {0};
    (void)deq_opt_defaults(&table, &v, NULL);
    round_trip(&v, true, "defaults");
    round_trip(&v, false, "defaults");
    v = (struct values){.count = 77, .large = 123456789012345u, .room = 3 * 1024 + 1, .name = "a: #b", .mode = "off",
                        .rate = 1.2345678e-5f, /* more digits than %g has */
                        .list = "p q\nr, s\n#t"};
    round_trip(&v, true, "other values");
    v.room = 5u << 20;
    v.list[0] = 0;
    round_trip(&v, false, "empty list");
}

TEST(options_dump_quotes_strings)
{
    struct values v = {0};
    (void)deq_opt_defaults(&table, &v, NULL);
    memcpy(v.name, "a\\n\"b", 6); /* backslash, n, quote: must come back as they are */
    round_trip(&v, false, "quote and backslash");
}

TEST(options_text_is_cut_to_the_buffer)
{
    struct values v = {0};
    (void)deq_opt_defaults(&table, &v, NULL);
    memcpy(v.list, "aaaaaaaaaa\nbbbbbbbbbb\ncccc", 27);
    for (size_t i = 0; i < DEQ_COUNT(opts); i++)
        for (size_t cap = 1; cap < 24; cap++) {
            char out[32];
            memset(out, '~', sizeof out);
            deq_opt_text(&opts[i], &v, out, cap);
            CHECK_MSG(memchr(out, 0, cap) && out[cap] == '~', "%s into %zu bytes", opts[i].name, cap);
        }
    char out[64];
    deq_opt_text(&opts[7], &v, out, sizeof out);
    CHECK(!strcmp(out, "[\"aaaaaaaaaa\", \"bbbbbbbbbb\", \"cccc\"]"));
}
