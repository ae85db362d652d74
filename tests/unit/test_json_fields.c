/* core/base/json_fields.c: what is asked for is checked, what nobody asked for is refused, the first error stands. */
#include "core/base/json_fields.h"

#include "tests/unit/test.h"

static const char TEXT[] = "{\"n\": 5, \"x\": 0.3, \"on\": true, \"none\": null, \"list\": [3, 1],"
                           " \"bits\": [true, false], \"how\": \"b\", \"inner\": {\"m\": 2}}";

/* Fields of an object; the caller frees it. */
static struct deq_fields open_fields(const char *text, struct deq_err *err)
{
    json_t *root = NULL;
    CHECK(!deq_fields_parse(text, strlen(text), "f.json", &root, err));
    return (struct deq_fields){.obj = root, .file = "f.json", .prefix = "", .err = err};
}

static void close_fields(struct deq_fields *f)
{
    json_decref((json_t *)f->obj);
}

TEST(json_fields_values)
{
    struct deq_err err = {0};
    struct deq_fields f = open_fields(TEXT, &err), inner;
    uint32_t n = 0, m = 0, list[2] = {0}, n_list = 9, n_bits = 9, n_absent = 9;
    bool on = false, bits[2] = {false, true};
    double x = 0;
    float y = 0;
    int how = -1;
    deq_fields_u32(&f, "n", true, 5, 5, &n);
    deq_fields_double(&f, "x", 0, 1, &x);
    deq_fields_float(&f, "x", 0, 0.3f, &y);
    deq_fields_bool(&f, "on", &on);
    deq_fields_u32s(&f, "list", 2, 1, 3, list, &n_list);
    deq_fields_bools(&f, "bits", 2, bits, &n_bits);
    deq_fields_u32s(&f, "absent", 2, 1, 3, list, &n_absent);
    deq_fields_enum(&f, "how", true, "a|b|c", &how);
    CHECK(deq_fields_take(&f, "none", true) != NULL); /* a value as any other */
    if (deq_fields_open(&f, "inner", "inner.", &inner)) {
        deq_fields_u32(&inner, "m", true, 0, 9, &m);
        deq_fields_close(&f, &inner);
    }
    deq_fields_no_others(&f);
    CHECK(!f.rc);
    CHECK(n == 5 && m == 2 && on && how == 1 && x == 0.3 && y == 0.3f);
    CHECK(n_list == 2 && list[0] == 3 && list[1] == 1 && n_bits == 2 && bits[0] && !bits[1]);
    CHECK_EQ(n_absent, 9u);
    close_fields(&f);
}

TEST(json_fields_null_is_absent)
{
    struct deq_err err = {0};
    struct deq_fields f = open_fields(TEXT, &err);
    uint32_t n = 7;
    f.null_is_absent = true;
    f.missing = "missing, expected an argument";
    deq_fields_u32(&f, "none", false, 0, 9, &n);
    CHECK(!f.rc && n == 7);
    deq_fields_u32(&f, "none", true, 0, 9, &n);
    CHECK(f.rc == DEQ_EFORMAT && n == 7);
    CHECK_EQ(err.text, "f.json: none: missing, expected an argument");
    close_fields(&f);
}

static void ask_u32(struct deq_fields *f) { uint32_t n; deq_fields_u32(f, "n", true, 6, 9, &n); }
static void ask_double(struct deq_fields *f) { double x; deq_fields_double(f, "x", 0.5, 1, &x); }
static void ask_number(struct deq_fields *f) { double x; deq_fields_double(f, "on", 0, 1, &x); }
static void ask_long(struct deq_fields *f) { uint32_t v[1], n; deq_fields_u32s(f, "list", 1, 0, 9, v, &n); }
static void ask_array(struct deq_fields *f) { uint32_t v[1], n; deq_fields_u32s(f, "n", 1, 0, 9, v, &n); }
static void ask_item(struct deq_fields *f) { uint32_t v[2], n; deq_fields_u32s(f, "list", 2, 2, 9, v, &n); }
static void ask_bits(struct deq_fields *f) { bool v[2]; uint32_t n; deq_fields_bools(f, "list", 2, v, &n); }
static void ask_absent(struct deq_fields *f) { (void)deq_fields_take(f, "absent", true); }
static void ask_nothing(struct deq_fields *f) { deq_fields_no_others(f); }

TEST(json_fields_first_error)
{
    static const struct {
        void (*ask)(struct deq_fields *f);
        const char *says;
    } cases[] = {
        {ask_u32, "f.json: n: expected an integer in 6..9"},
        {ask_double, "f.json: x: expected a number in 0.5..1"},
        {ask_number, "f.json: on: expected a number in 0..1"},
        {ask_long, "f.json: list: expected an array of at most 1 integers"},
        {ask_array, "f.json: n: expected an array of at most 1 integers"},
        {ask_item, "f.json: list[1]: expected an integer in 2..9"},
        {ask_bits, "f.json: list[0]: expected true or false"},
        {ask_absent, "f.json: absent: missing"},
        {ask_nothing, "f.json: n: unknown key"},
    };
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        struct deq_err err = {0};
        struct deq_fields f = open_fields(TEXT, &err);
        cases[i].ask(&f);
        ask_absent(&f); /* says nothing any more */
        CHECK_EQ(f.rc, DEQ_EFORMAT);
        CHECK_EQ(err.text, cases[i].says);
        close_fields(&f);
    }
}

TEST(json_fields_parse)
{
    static const char *const bad[][2] = {{"[]", "f.json: line 1 column 1: expected an object"}, {"{", "f.json: line 1"},
                                         {"{\"a\": 1, \"a\": 2}", "f.json: line 1"}};
    for (size_t i = 0; i < DEQ_COUNT(bad); i++) {
        struct deq_err err = {0};
        json_t *root = NULL;
        CHECK_EQ(deq_fields_parse(bad[i][0], strlen(bad[i][0]), "f.json", &root, &err), DEQ_EFORMAT);
        CHECK_MSG(!strncmp(err.text, bad[i][1], strlen(bad[i][1])), "%s", err.text);
        CHECK(root == NULL);
    }
}
