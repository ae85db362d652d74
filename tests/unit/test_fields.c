/* server/api/fields.c: objects by a table of fields; an error names the field, and says what was expected. */
#include "server/api/fields.h"

#include "tests/unit/test.h"

struct shelf {
    bool on;
    int64_t count, wide;
    float rate;
    char word[16];
};

static bool take_word(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    const char *s = fields_word(v);
    if (!s)
        return fields_bad_type(o, f->name, f->type);
    if (strcmp(s, "red") && strcmp(s, "blue"))
        return fields_bad_value(o, f->name, "must be red or blue");
    snprintf((char *)request + f->at, sizeof((struct shelf *)0)->word, "%s", s);
    return true;
}

#define AT(f) offsetof(struct shelf, f)
static const struct field rows[] = {
    {"on", BOOL, 0, 0, AT(on), NULL, NULL},
    {"count", INT, 1, 100, AT(count), NULL, NULL},
    {"wide", INT, -0x1p63, 0x1p63, AT(wide), NULL, NULL},
    {"rate", NUMBER, -1, 2.5, AT(rate), NULL, NULL},
    {"word", OTHER, 0, 0, AT(word), take_word, "a string"},
};
static const struct fields shelf_fields = {.rows = rows, .n = DEQ_COUNT(rows), .body = BODY_CHAT};

/* "" when it was taken. */
static const char *take(const char *body, const char *prefix, const char *unknown, struct shelf *ret)
{
    static struct request_error err;
    struct conf conf = {0};
    snprintf(conf.unknown_fields, sizeof conf.unknown_fields, "%s", unknown);
    const struct request_context context = {.conf = &conf};
    err = (struct request_error){0};
    json_t *root = fields_parse(body, strlen(body), &err);
    const struct object o = {root, prefix, &shelf_fields, &context, &err};
    const bool ok = root && fields_take(&o, ret);
    CHECK(ok == !err.status && (ok || err.status == 400));
    json_decref(root);
    return err.message;
}

TEST(fields_of_every_kind_are_taken)
{
    struct shelf s = {0};
    CHECK_EQ(take("{\"on\":true,\"count\":16.0,\"wide\":-9223372036854775808,\"rate\":2.5,\"word\":\"blue\"}", "",
                  "refuse", &s),
             "");
    CHECK(s.on);
    CHECK_EQ(s.count, 16);
    CHECK_EQ(s.wide, INT64_MIN);
    CHECK_EQ(s.rate, 2.5f);
    CHECK_EQ(s.word, "blue");
    /* null is absent; what was not given stays */
    CHECK_EQ(take("{\"on\":null,\"word\":null,\"nobody_knows\":null,\"wide\":9223372036854775807}", "", "refuse", &s),
             "");
    CHECK(s.on);
    CHECK_EQ(s.wide, INT64_MAX);
    CHECK_EQ(s.word, "blue");
}

TEST(fields_say_which_and_why)
{
    static const struct {
        const char *body, *says;
    } t[] = {
        {"{\"on\":1}", "on: expected a boolean"},
        {"{\"count\":\"1\"}", "count: expected an integer"},
        {"{\"count\":1.5}", "count: expected an integer"},
        {"{\"count\":0}", "count: must be between 1 and 100"},
        {"{\"count\":101}", "count: must be between 1 and 100"},
        {"{\"count\":1e999}", "count: must be between 1 and 100"},
        {"{\"wide\":9223372036854775808}", "wide: must be between -9223372036854775808 and 9223372036854775807"},
        {"{\"rate\":[]}", "rate: expected a number"},
        {"{\"rate\":-1.01}", "rate: must be between -1 and 2.5"},
        {"{\"rate\":1e999}", "rate: must be between -1 and 2.5"},
        {"{\"word\":7}", "word: expected a string"},
        {"{\"word\":\"green\"}", "word: must be red or blue"},
        {"{\"word\":\"red\\u0000\"}", "word: must be red or blue"}, /* NUL is no end of a name */
        {"{\"store\":true}", "store: not supported by this server: answers are not kept"},
        {"{\"suffix\":\"\"}", "suffix: unknown field"}, /* neutral, but of another body */
        {"{\"cuont\":1}", "cuont: unknown field"},
        {"{\"cu\\u00e4nt\":1}", "cu??nt: unknown field"}, /* what a client makes up is told as ASCII */
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct shelf s = {0};
        CHECK_EQ(take(t[i].body, "", "refuse", &s), t[i].says);
    }
    struct shelf s = {0};
    CHECK_EQ(take("{\"count\":0}", "shelf.", "refuse", &s), "shelf.count: must be between 1 and 100");
    CHECK_EQ(take("{\"cuont\":0,\"count\":3}", "", "ignore", &s), "");
    CHECK_EQ(s.count, 3);
    CHECK(*take("{\"store\":true}", "", "ignore", &s)); /* known, and not served */
}

TEST(fields_of_what_is_no_object)
{
    static const struct {
        const char *body, *begins;
    } t[] = {
        {"", "the body is empty; expected a JSON object"},
        {"[]", "expected a JSON object of at most 128 keys"},
        {"{\"on\":true,\"on\":true}", "the body is not JSON: line 1, column 15: duplicate"},
        {"{\n\"on\":", "the body is not JSON: line 2, column 5: "},
        {"{\"on\":true} x", "the body is not JSON: line 1, column 13: "},
        {"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
         "expected a JSON object of at most 128 keys"},
        {"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", "the JSON is nested more than 32 deep"},
        {"{\"a\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"}", "a: unknown field"}, /* in a text nothing is nested */
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct shelf s = {0};
        const char *message = take(t[i].body, "", "refuse", &s);
        CHECK_MSG(!strncmp(message, t[i].begins, strlen(t[i].begins)), "%s: \"%s\"", t[i].body, message);
    }
}

TEST(fields_first_error_counts)
{
    struct request_error err = {0};
    CHECK(!fields_fail(&err, 400, "first", "a", "one %d", 1) && !fields_fail(&err, 503, "second", "b", "two"));
    CHECK_EQ(err.status, 400);
    CHECK_EQ(err.code, "first");
    CHECK_EQ(err.param, "a");
    CHECK_EQ(err.message, "one 1");
}
