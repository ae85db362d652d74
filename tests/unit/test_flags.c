/* core/base/flags.c: flags by a table. */
#include <stdlib.h>

#include "core/base/flags.h"
#include "tests/unit/test.h"

enum colour { RED, GREEN, BLUE };

struct values {
    uint32_t count;
    uint64_t seed;
    float tol;
    double rate;
    enum colour colour;
    const char *out;
    struct deq_args sets;
    bool json;
};

#define AT(field) offsetof(struct values, field)
static const struct deq_opt rows[] = {
    {"--count", DEQ_OPT_U32, AT(count), 1, 100, "5", NULL, "How many."},
    {"--seed", DEQ_OPT_U64, AT(seed), 0, 9007199254740992.0, "0", NULL, "Seed."},
    {"--tol", DEQ_OPT_FLOAT, AT(tol), 0, 10, NULL, NULL, "Tolerance."},
    {"--rate", DEQ_OPT_DOUBLE, AT(rate), 1e-6, INFINITY, "inf", NULL, "Rate."},
    {"--colour", DEQ_OPT_ENUM, AT(colour), 0, 0, "green", "red|green|blue", "Colour."},
    {"--out", DEQ_OPT_ARG, AT(out), 0, 0, NULL, "FILE", "Where to write."},
    {"--set", DEQ_OPT_ARGS, AT(sets), 0, 2, NULL, "KEY=VALUE", "Sets."},
    {"--json", DEQ_OPT_BOOL, AT(json), 0, 0, NULL, NULL, "As JSON."},
};
static const struct deq_command command = {.usage = "x FILE [options]",
                                           .about = "Tries.",
                                           .flags = {rows, DEQ_COUNT(rows)},
                                           .min_args = 1,
                                           .max_args = 2};

static enum deq_rc parse(const char *line, struct values *v, const char **args, size_t *n, bool *help,
                         struct deq_err *e)
{
    static char text[256];
    char *argv[32] = {"x"}, *save = NULL;
    int argc = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char *w = strtok_r(text, " ", &save); w; w = strtok_r(NULL, " ", &save))
        argv[argc++] = !strcmp(w, "EMPTY") ? "" : w;
    return deq_flags_parse(&command, argc, argv, v, args, n, help, e);
}

TEST(flags_values)
{
    struct values v = {.tol = -1};
    struct deq_err e;
    const char *args[2];
    size_t n;
    bool help;
    CHECK(!parse("a", &v, args, &n, &help, &e) && n == 1 && !help);
    CHECK(v.count == 5 && v.seed == 0 && v.tol == -1 && isinf(v.rate) && v.colour == GREEN && !v.out && !v.sets.n &&
          !v.json);
    CHECK(!parse("--count 7 a --seed=9007199254740992 --tol 0.5 --rate 2.5 --colour blue --out --x --set a=1 --json "
                 "--set=b=2 -",
                 &v, args, &n, &help, &e));
    CHECK(v.count == 7 && v.seed == 9007199254740992u && v.tol == 0.5f && v.rate == 2.5 && v.colour == BLUE &&
          !strcmp(v.out, "--x") && v.json);
    CHECK(v.sets.n == 2 && !strcmp(v.sets.item[0], "a=1") && !strcmp(v.sets.item[1], "b=2") && n == 2 &&
          !strcmp(args[0], "a") && !strcmp(args[1], "-"));
    CHECK(!parse("-- --count b", &v, args, &n, &help, &e) && n == 2 && !strcmp(args[0], "--count"));
    CHECK(!parse("--out=--json a", &v, args, &n, &help, &e) && !strcmp(v.out, "--json"));
    CHECK(!parse("--help --nonsense", &v, args, &n, &help, &e) && help);
}

TEST(flags_messages_name_flag_value_and_what_was_expected)
{
    static const struct {
        const char *line, *says;
    } bad[] = {
        {"a --count 1.9", "--count: \"1.9\" is not an integer in 1..100"},
        {"a --count 0x10", "--count: \"0x10\" is not an integer"},
        {"a --count -1", "--count: \"-1\" is not an integer"},
        {"a --count 0", "--count: \"0\" is not an integer"},
        {"a --count 5x", "--count: \"5x\" is not an integer"},
        {"a --count EMPTY", "--count: \"\" is not an integer"},
        {"a --count=", "--count: \"\" is not an integer"},
        {"a --count 1e1", "--count: \"1e1\" is not an integer"},
        {"a --count 4294967297", "--count: \"4294967297\" is not an integer"},
        {"a --seed 18446744073709551617", "--seed: \"18446744073709551617\" is not an integer"},
        {"a --seed -5", "--seed: \"-5\" is not an integer"},
        {"a --tol nan", "--tol: \"nan\" is not a number in 0..10"},
        {"a --tol inf", "--tol: \"inf\" is not a number"},
        {"a --tol 0x1p3", "--tol: \"0x1p3\" is not a number"},
        {"a --tol 1e-2x", "--tol: \"1e-2x\" is not a number"},
        {"a --rate nan", "--rate: \"nan\" is not a number in 1e-06..inf"},
        {"a --rate infinity", "--rate: \"infinity\" is not a number"},
        {"a --rate -inf", "--rate: \"-inf\" is not a number"},
        {"a --rate 1e999", "--rate: \"1e999\" is not a number"},
        {"a --colour Blue", "--colour: \"Blue\" is not one of red|green|blue"},
        {"a --colour", "--colour needs a value"},
        {"a --out --json", "--out needs a value"},
        {"a --out=", "--out: the value is empty"},
        {"a --out EMPTY", "--out: the value is empty"},
        {"a --set x --set y --set z", "--set: given more than 2 times"},
        {"a --json=true", "--json takes no value"},
        {"a --cuont 5", "unknown flag --cuont (did you mean --count?)"},
        {"a --an-altogether-different-one", "unknown flag --an-altogether-different-one; --help lists them"},
        {"a -c 5", "unknown flag -c"},
        {"a b c", "unexpected argument \"c\""},
        {"--json", "1 of 1 arguments are missing"},
    };
    for (size_t i = 0; i < DEQ_COUNT(bad); i++) {
        struct values v = {0};
        struct deq_err e = {0};
        const char *args[2];
        size_t n;
        bool help;
        CHECK_MSG(parse(bad[i].line, &v, args, &n, &help, &e) == DEQ_EINVAL, "%s", bad[i].line);
        CHECK_MSG(strstr(e.text, bad[i].says), "%s: %s", bad[i].line, e.text);
    }
}

TEST(flags_help_is_the_table)
{
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    deq_flags_help(&command, f);
    fclose(f);
    CHECK(!strncmp(text, "Usage: x FILE [options]\n\nTries.\n\nOptions:\n", 42));
    for (size_t i = 0; i < DEQ_COUNT(rows); i++)
        CHECK_MSG(strstr(text, rows[i].name) && strstr(text, rows[i].help), "%s", rows[i].name);
    CHECK(strstr(text, "--count N") && strstr(text, "(1..100; default: 5)") &&
          strstr(text, "--colour red|green|blue") && strstr(text, "--out FILE") &&
          strstr(text, "(1e-06..inf; default: inf)") && strstr(text, "(0..10)"));
    free(text);
}

TEST(flags_help_is_broken_at_80_columns)
{
    static const struct {
        const char *left, *text, *want;
    } rows_of_help[] = {
        {"--out FILE", "short", "  --out FILE               short\n"},
        {"12345678901234567890123", "beside it", "  12345678901234567890123  beside it\n"},
        {"123456789012345678901234", "below", "  123456789012345678901234\n                           below\n"},
        {"x", "a text of which the last word just ends at column 80: xxxx here",
         "  x                        a text of which the last word just ends at column 80:\n"
         "                           xxxx here\n"},
        {"x", "one\ntwo", "  x                        one\n                           two\n"},
        {"x", "", "  x                        \n"},
    };
    for (size_t i = 0; i < DEQ_COUNT(rows_of_help); i++) {
        char *text = NULL;
        size_t len;
        FILE *f = open_memstream(&text, &len);
        deq_help_row(f, rows_of_help[i].left, rows_of_help[i].text);
        fclose(f);
        CHECK_MSG(!strcmp(text, rows_of_help[i].want), "\"%s\"", text);
        free(text);
    }
}
