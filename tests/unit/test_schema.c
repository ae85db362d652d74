/* core/form/schema*.c: what each keyword takes, what is refused by name, and that random texts of random schemas are
 * JSON of the type asked for (tests/clients/forms.py asks another validator, of the answers of a daemon). */
#include "core/form/schema.h"

#include <stdlib.h>

#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "tests/unit/forms.h"

#define LIST(...) {__VA_ARGS__}
#define T(type, ...) "{\"type\":\"" type "\"" __VA_ARGS__ "}"

struct schema_case {
    const char *schema;
    const char *good[10], *bad[10]; /* NULL behind the last */
};

static void check_all(const struct schema_case *t, size_t n)
{
    for (size_t i = 0; i < n; i++)
        check_form(DEQ_FORM_SCHEMA, t[i].schema, t[i].good, t[i].bad);
}

TEST(schema_of_scalars)
{
    static const struct schema_case t[] = {
        {T("boolean"), LIST("true", "false"), LIST("null", "\"true\"", "1", " true", "tru")},
        {T("null"), LIST("null"), LIST("0", "")},
        {"{\"type\":[\"null\",\"integer\"]}", LIST("null", "-7"), LIST("1.5", "\"\"")},
        {T("string"), LIST("\"\"", "\"a\\n\\u00e9\\\"\"", "\"\xc3\xa9 \xf0\x9f\x98\x80\""),
         LIST("\"", "\"\n\"", "\"\\x\"", "\"\\ud800\"", "\"\\u0000\"", "\"\xc3\"", "a")},
        {T("string", ",\"minLength\":2,\"maxLength\":3"), LIST("\"ab\"", "\"\xc3\xa9\\n\"", "\"abc\""),
         LIST("\"a\"", "\"abcd\"", "\"\"")},
        {T("string", ",\"pattern\":\"^[a-c]+\\\\d$\""), LIST("\"a1\"", "\"cab0\""), LIST("\"1\"", "\"a1x\"", "a1")},
        {T("string", ",\"pattern\":\"b|^\\\"\""), LIST("\"abc\"", "\"b\"", "\"\\\"x\""), LIST("\"\"", "\"ac\\\"\"")},
        {T("string", ",\"format\":\"date\""), LIST("\"2024-12-31\"", "\"1999-02-28\""),
         LIST("\"2023-02-29\"", "\"2023-04-31\"", "\"2023-13-01\"", "\"23-01-01\"")},
        {T("string", ",\"format\":\"date-time\""), LIST("\"2024-01-05T23:59:59Z\"", "\"2024-01-05T00:00:00.5+01:00\""),
         LIST("\"2024-01-05\"", "\"2024-01-05T24:00:00Z\"")},
        {T("string", ",\"format\":\"uuid\""), LIST("\"01234567-89ab-cdef-0123-456789abcdef\""), LIST("\"0123\"")},
        {T("string", ",\"format\":\"ipv4\""), LIST("\"255.0.10.199\""), LIST("\"256.1.1.1\"", "\"1.1.1\"")},
        {T("string", ",\"format\":\"email\""), LIST("\"a.b@c.de\""), LIST("\"a.b\"", "\"@c.de\"")},
        {"{\"enum\":[\"a\",1,2.5,null,true,{\"x\":[1]}]}", LIST("\"a\"", "1", "2.5", "null", "true", "{\"x\":[1]}"),
         LIST("2", "a", "false")},
        {"{\"enum\":[\"a\",1,null],\"type\":\"string\"}", LIST("\"a\""), LIST("1", "null")},
        {"{\"const\":0.1}", LIST("0.1"), LIST("0.10", "0")},
        {"{\"const\":null}", LIST("null"), LIST("0")},
        {"true", LIST("1", "[{\"a\":null}]"), LIST("")},
        {"{}", LIST("\"x\"", "{\"a\": [1, 2.5e3, {}]}", "[]"), LIST("[1,]", "{\"a\"}", "[1,  2]")},
    };
    check_all(t, DEQ_COUNT(t));
}

TEST(schema_of_numbers)
{
    static const struct schema_case t[] = {
        {T("number"), LIST("0", "-0.5", "12.25e-3", "1E+5", "999999999999999"),
         LIST("01", ".5", "1.", "+1", "1e", "9999999999999999", "1e999")},
        {T("integer"), LIST("0", "-12", "999999999999999999"), LIST("1.0", "-0", "00", "-", "1e3")},
        {T("integer", ",\"minimum\":5,\"maximum\":123"), LIST("5", "9", "10", "99", "100", "123"),
         LIST("4", "124", "0", "1000", "-5", "05")},
        {T("integer", ",\"exclusiveMinimum\":-13,\"exclusiveMaximum\":7"), LIST("-12", "-9", "-1", "0", "6"),
         LIST("-13", "7", "-20", "13", "-0")},
        {T("integer", ",\"minimum\":0.5,\"maximum\":2.5"), LIST("1", "2"), LIST("0", "3")},
        {T("integer", ",\"minimum\":1989"), LIST("1989", "2000", "19890"), LIST("1988", "999", "0")},
        {T("integer", ",\"maximum\":-305"), LIST("-305", "-1000", "-310"), LIST("-304", "-99", "305", "0")},
        {T("integer", ",\"minimum\":-1e30,\"maximum\":0"), LIST("-1", "0"), LIST("1")},
        {T("number", ",\"minimum\":0"), LIST("0", "0.0", "0.001", "17.5"), LIST("-0.1", "-1", "1e3")},
        {T("number", ",\"exclusiveMinimum\":0,\"exclusiveMaximum\":1"), LIST("0.5", "0.001", "0.9999"),
         LIST("0", "0.0", "1", "1.0", "-0.5")},
        {T("number", ",\"minimum\":-2,\"maximum\":3"), LIST("-2", "-2.0", "-1.9", "-0.5", "0", "2.99", "3", "3.0"),
         LIST("-2.1", "3.01", "4", "-3")},
        /* a double of 99.9999999999999999 is 100, one of 100000.0000000000001 is 100000 */
        {T("number", ",\"minimum\":9,\"exclusiveMaximum\":100"), LIST("9", "99", "99.9", "98.9999999999999999",
         "99.9999999999999"), LIST("8", "99.9999999999999999", "100", "100.0")},
        {T("number", ",\"exclusiveMinimum\":99,\"exclusiveMaximum\":100"), LIST("99.5", "99.0000001"),
         LIST("99", "99.0", "99.00000000000001", "99.99999999999999", "100")},
        {T("number", ",\"exclusiveMinimum\":100000,\"maximum\":100001"), LIST("100000.1", "100000.00001", "100001"),
         LIST("100000", "100000.0", "100000.0000000000001")},
        {T("number", ",\"exclusiveMinimum\":-100"), LIST("-99.5", "-1", "7"), LIST("-99.9999999999999999", "-100")},
        {T("number", ",\"minimum\":999999999999998,\"exclusiveMaximum\":999999999999999"), LIST("999999999999998"),
         LIST("999999999999998.5", "999999999999999")},
        {T("number", ",\"maximum\":-5"), LIST("-5", "-5.5", "-100"), LIST("-4.9", "0", "5")},
    };
    check_all(t, DEQ_COUNT(t));
}

/* Every bound of small integers, to the last one: exact. */
TEST(schema_bounds_of_integers_are_exact)
{
    char schema[96], text[16];
    for (int lo = -12; lo <= 105; lo += 13)
        for (int hi = lo; hi <= 130; hi += 9) {
            snprintf(schema, sizeof schema, T("integer", ",\"minimum\":%d,\"maximum\":%d"), lo, hi);
            struct deq_form *f = form_of(DEQ_FORM_SCHEMA, schema, NULL);
            REQUIRE(f);
            int wrong = 0;
            for (int i = -150; i <= 150; i++) {
                snprintf(text, sizeof text, "%d", i);
                wrong += (form_takes(f, text) == 2) != (i >= lo && i <= hi);
            }
            CHECK_MSG(!wrong, "%s: %d are wrong", schema, wrong);
            deq_form_free(f);
        }
}

/* {"type": type, "anyOf": [n references to one list], "enum": the list, or not, "$defs": the list}: of m texts. */
static char *many_references(const char *type, unsigned n, unsigned m, bool twice)
{
    const size_t cap = 128 + 24 * (size_t)n + 8 * (size_t)m;
    char *s = malloc(cap), *list = malloc(4 * (size_t)m + 1), *at = s;
    for (unsigned i = 0; i < m; i++)
        memcpy(list + 4 * i, ",\"x\"", 5);
    at += sprintf(at, "{\"type\":\"%s\",\"anyOf\":[", type);
    for (unsigned i = 0; i < n; i++)
        at += sprintf(at, "%s{\"$ref\":\"#/$defs/b\"}", i ? "," : "");
    at += sprintf(at, "]%s%s%s", twice ? ",\"enum\":[" : "", twice ? list + 1 : "", twice ? "]" : "");
    sprintf(at, ",\"$defs\":{\"b\":{\"enum\":[%s]}}}", list + 1);
    free(list);
    return s;
}

/* A schema of some thousand references to a list of some thousand values is given up early: read to its end it would
 * take millions of allocations, one of which fails here, and seconds. */
TEST(schema_is_given_up_as_soon_as_it_is_too_large)
{
    static const struct {
        const char *type, *words;
        bool twice;
    } t[] = {{"string", "too large: more than", false}, {"integer", "too much to compare", false},
             {"integer", "too much to compare", true}};
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        char *schema = many_references(t[i].type, 2000, 8000, t[i].twice);
        deq_mem_count_plain(true);
        deq_mem_fault(1 << 20, false);
        check_form_refused(DEQ_FORM_SCHEMA, schema, t[i].words);
        deq_mem_fault(0, false);
        deq_mem_count_plain(false);
        free(schema);
    }
}

TEST(schema_of_objects)
{
    static const struct schema_case t[] = {
        {T("object", ",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"null\"},\"c\":{\"const\":1}},"
                     "\"required\":[\"b\"]"),
         LIST("{\"b\":null}", "{\"a\": 1, \"b\": null}", "{\"a\":1,\"b\":null,\"c\":1}", "{\"b\":null, \"c\":1}"),
         LIST("{}", "{\"a\":1}", "{\"b\":null,\"a\":1}", "{\"b\":null,}", "{\"b\":null,\"d\":1}", "{,\"b\":null}")},
        {T("object", ",\"properties\":{\"a\":{\"const\":1},\"b\":{\"const\":2}}"),
         LIST("{}", "{\"a\":1}", "{\"b\":2}", "{\"a\":1,\"b\":2}"), LIST("{\"b\":2,\"a\":1}", "{\"a\":1\"b\":2}")},
        {T("object", ",\"properties\":{\"ab\":{\"const\":1}},\"additionalProperties\":{\"type\":\"boolean\"}"),
         LIST("{}", "{\"ab\":1}", "{\"ab\":1,\"x\":true}", "{\"a\":true}", "{\"abc\":false,\"\":true}"),
         LIST("{\"ab\":true}", "{\"x\":true,\"ab\":true}", "{\"x\":1}", "{\"\\u0061b\":true}")},
        {T("object", ",\"additionalProperties\":false"), LIST("{}"), LIST("{\"a\":1}")},
        {T("object", ",\"properties\":{},\"additionalProperties\":true"), LIST("{}", "{\"a\":[1]}"), LIST("[]")},
        {T("object"), LIST("{}", "{\"a\":1, \"b\":{}}"), LIST("[]", "{\"a\":1,}")},
        {T("object", ",\"required\":[\"x\"]"), LIST("{\"x\":1}", "{\"x\":1,\"y\":2}"), LIST("{}", "{\"y\":2}")},
        {"{\"properties\":{\"q\\\"\\n\":{\"const\":1}}}", LIST("{\"q\\\"\\n\":1}"), LIST("1", "{\"q\":1}")},
        {T("object", ",\"properties\":{\"a\":false,\"b\":{\"const\":1}}"), LIST("{}", "{\"b\":1}"), LIST("{\"a\":1}")},
    };
    check_all(t, DEQ_COUNT(t));
}

TEST(schema_of_arrays)
{
    static const struct schema_case t[] = {
        {T("array", ",\"items\":{\"const\":1}"), LIST("[]", "[1]", "[1, 1,1]"), LIST("[2]", "[1,]", "[1 ,1]", "[,1]")},
        {T("array", ",\"items\":{\"const\":1},\"minItems\":2,\"maxItems\":3"), LIST("[1,1]", "[1,1,1]"),
         LIST("[]", "[1]", "[1,1,1,1]")},
        {T("array", ",\"maxItems\":0"), LIST("[]"), LIST("[1]")},
        {T("array", ",\"items\":false"), LIST("[]"), LIST("[1]")},
        {T("array", ",\"minItems\":1"), LIST("[1]", "[\"a\",[]]"), LIST("[]")},
        {T("array", ",\"prefixItems\":[{\"const\":1},{\"const\":2}],\"items\":{\"const\":3}"),
         LIST("[]", "[1]", "[1,2]", "[1,2,3,3]"), LIST("[2]", "[1,3]", "[3]")},
        {T("array", ",\"prefixItems\":[{\"const\":1},{\"const\":2}],\"items\":false,\"minItems\":1"),
         LIST("[1]", "[1,2]"), LIST("[]", "[1,2,3]", "[2]")},
        {T("array", ",\"prefixItems\":[{\"const\":1},{\"const\":2}],\"minItems\":3,\"maxItems\":4"),
         LIST("[1,2,null]", "[1,2,3,4]"), LIST("[1,2]", "[1,2,3,4,5]")},
    };
    check_all(t, DEQ_COUNT(t));
}

TEST(schema_combined)
{
    static const struct schema_case t[] = {
        {"{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"integer\",\"minimum\":3,\"maximum\":4}]}", LIST("null", "3", "4"),
         LIST("5", "true")},
        {"{\"oneOf\":[{\"type\":\"string\",\"maxLength\":1},{\"type\":\"boolean\"}]}", LIST("\"a\"", "true"),
         LIST("\"ab\"", "1")},
        {"{\"oneOf\":[" T("object", ",\"properties\":{\"k\":{\"const\":\"a\"},\"x\":{\"const\":1}},"
                                 "\"required\":[\"k\",\"x\"]")
         "," T("object", ",\"properties\":{\"k\":{\"enum\":[\"b\",\"c\"]}},\"required\":[\"k\"]") "]}",
         LIST("{\"k\":\"a\",\"x\":1}", "{\"k\":\"c\"}"), LIST("{\"k\":\"a\"}", "{\"k\":\"d\"}")},
        {"{\"allOf\":[{\"$ref\":\"#/$defs/a\"}],\"title\":\"t\",\"$defs\":{\"a\":{\"type\":\"integer\",\"minimum\":7,"
         "\"maximum\":9}}}", LIST("7", "9"), LIST("6")},
        {"{\"allOf\":[" T("integer", ",\"minimum\":1") "," T("number", ",\"maximum\":2") "]}",
         LIST("1", "2"), LIST("1.5", "3")},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1}},\"required\":[\"a\"],\"anyOf\":["
         "{\"required\":[\"b\"],\"properties\":{\"b\":{\"const\":2}}},{\"properties\":{\"c\":{\"const\":3}}}]}",
         LIST("{\"a\":1,\"b\":2}", "{\"a\":1}", "{\"a\":1,\"c\":3}"), LIST("{\"b\":2}", "{\"a\":1,\"b\":2,\"c\":3}")},
        {"{\"$ref\":\"#/$defs/tree\",\"$defs\":{\"tree\":" T("object", ",\"properties\":{\"v\":{\"type\":\"integer\"},"
         "\"kids\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/tree\"}}},\"required\":[\"v\",\"kids\"]") "}}",
         LIST("{\"v\":1,\"kids\":[]}",
              "{\"v\":1,\"kids\":[{\"v\":2, \"kids\":[]},{\"v\":3,\"kids\":[{\"v\":4,\"kids\":[]}]}]}"),
         LIST("{\"v\":1}", "{\"v\":1,\"kids\":[1]}")},
        {"{\"type\":\"object\",\"properties\":{\"next\":{\"$ref\":\"#\"}}}", LIST("{}", "{\"next\":{\"next\":{}}}"),
         LIST("{\"next\":1}")},
        {"{\"$ref\":\"#/definitions/a~1b/properties/x\","
         "\"definitions\":{\"a/b\":{\"properties\":{\"x\":{\"const\":5}}}}}",
         LIST("5"), LIST("6")},
    };
    check_all(t, DEQ_COUNT(t));
}

TEST(schema_refuses_by_name)
{
    static const char *const t[][2] = {
        {"{\"type\":\"array\",\"uniqueItems\":true}", "uniqueItems"},
        {"{\"multipleOf\":2}", "multipleOf"},
        {"{\"type\":\"object\",\"patternProperties\":{}}", "patternProperties"},
        {"{\"properties\":{\"a\":{\"not\":{}}}}", "not: "},
        {"{\"if\":{}}", "if: "},
        {"{\"minProperties\":1}", "minProperties"},
        {"{\"nullable\":true,\"type\":\"string\"}", "nullable"},
        {"{\"type\":\"text\"}", "type"},
        {"{\"type\":\"string\",\"format\":\"hostname\"}", "format"},
        {"{\"type\":\"string\",\"pattern\":\"a\",\"minLength\":1}", "pattern"},
        {"{\"type\":\"string\",\"pattern\":\"(?=a)\"}", "look-around"},
        {"{\"type\":\"string\",\"maxLength\":99999}", "maxLength"},
        {"{\"enum\":[1],\"minimum\":0}", "minimum"},
        {"{\"type\":\"number\",\"minimum\":0.5}", "minimum"},
        {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", "oneOf"},
        {"{\"oneOf\":[{\"const\":1},{\"const\":1.0}]}", "oneOf"},
        {"{\"oneOf\":[{\"const\":{\"a\":[1]}},{\"const\":{\"a\":[1.0]}}]}", "oneOf"},
        {"{\"allOf\":[{\"pattern\":\"a\"},{\"pattern\":\"b\"}]}", "pattern"},
        {"{\"allOf\":[{\"properties\":{\"a\":{}},\"additionalProperties\":false},{\"properties\":{\"b\":{}}}]}",
         "additionalProperties"},
        {"{\"$ref\":\"#/$defs/none\"}", "$ref"},
        {"{\"$ref\":\"https://example.org/x\"}", "$ref"},
        {"{\"$ref\":\"#\"}", "$ref"},
        {"{\"$defs\":{\"a\":{\"allOf\":[{\"$ref\":\"#/$defs/a\"}]}},\"$ref\":\"#/$defs/a\"}", "too deep"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "no text fits"},
        {"false", "no text fits"},
        {"{\"enum\":[]}", "no text fits"},
        {"{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "no text fits"},
        {"{\"type\":\"object\",\"required\":[\"x\"],\"additionalProperties\":false}", "no text fits"},
        {"{\"const\":1e400}", "JSON"},
        {"[1]", "schema"},
        {"{\"type\":", "not JSON: line 1"},
        {"{\"anyOf\":[]}", "anyOf"},
        {"{\"minItems\":-1}", "minItems"},
        {"{\"required\":[1]}", "required"},
        {"{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":4000},\"minItems\":90000}", "too large"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++)
        check_form_refused(DEQ_FORM_SCHEMA, t[i][0], t[i][1]);
}

/* --- Random schemas --- */

static uint64_t at;

static uint32_t draw(uint64_t seed, uint32_t n)
{
    return (uint32_t)(deq_rng_uniform(seed, 1, at++) * n);
}

static json_t *random_schema(uint64_t seed, unsigned depth)
{
    static const char *const leaves[] = {
        T("string", ",\"maxLength\":5"), T("integer", ",\"minimum\":-20,\"maximum\":300"), T("boolean"), T("null"),
        "{\"enum\":[\"the\",12,null]}", T("string", ",\"pattern\":\"^[a-c]{1,3}$\""),
        T("number", ",\"minimum\":0,\"maximum\":9"), T("string", ",\"format\":\"date\""), "{\"const\":[1,{\"a\":2}]}"};
    static const char *const names[] = {"name", "id", "kind", "the"};
    const uint32_t what = depth ? draw(seed, 6) : 5;
    json_t *s = json_object();
    if (what < 2) {
        json_t *properties = json_object(), *required = json_array();
        for (uint32_t i = 0; i < DEQ_COUNT(names); i++) {
            if (!draw(seed, 2))
                continue;
            json_object_set_new(properties, names[i], random_schema(seed, depth - 1));
            if (draw(seed, 2))
                json_array_append_new(required, json_string(names[i]));
        }
        json_object_set_new(s, "type", json_string("object"));
        json_object_set_new(s, "properties", properties);
        json_object_set_new(s, "required", required);
    } else if (what == 2) {
        json_object_set_new(s, "type", json_string("array"));
        json_object_set_new(s, "items", random_schema(seed, depth - 1));
        json_object_set_new(s, "maxItems", json_integer(draw(seed, 4)));
    } else if (what == 3) {
        json_object_set_new(s, "anyOf", json_pack("[oo]", random_schema(seed, depth - 1), random_schema(seed, 0)));
    } else {
        json_decref(s);
        s = json_loads(leaves[draw(seed, DEQ_COUNT(leaves))], 0, NULL);
    }
    return s;
}

/* As far as the schemas above go. */
static bool valid(const json_t *s, const json_t *v)
{
    const json_t *type = json_object_get(s, "type"), *list = json_object_get(s, "anyOf");
    const char *t = json_string_value(type), *name;
    json_t *x;
    if (list)
        return valid(json_array_get(list, 0), v) || valid(json_array_get(list, 1), v);
    if (json_object_get(s, "const"))
        return json_equal(json_object_get(s, "const"), v);
    for (size_t i = 0; (list = json_object_get(s, "enum")) && i < json_array_size(list); i++)
        if (json_equal(json_array_get(list, i), v))
            return true;
    if (!t)
        return false;
    if (!strcmp(t, "object")) {
        bool ok = json_is_object(v);
        json_object_foreach((json_t *)v, name, x)
            ok = ok && valid(json_object_get(json_object_get(s, "properties"), name), x);
        for (size_t i = 0; i < json_array_size(json_object_get(s, "required")); i++)
            ok = ok && json_object_get(v, json_string_value(json_array_get(json_object_get(s, "required"), i)));
        return ok;
    }
    if (!strcmp(t, "array")) {
        bool ok = json_is_array(v) &&
                  json_array_size(v) <= (size_t)json_integer_value(json_object_get(s, "maxItems"));
        for (size_t i = 0; i < json_array_size(v); i++)
            ok = ok && valid(json_object_get(s, "items"), json_array_get(v, i));
        return ok;
    }
    if (!strcmp(t, "integer"))
        return json_is_integer(v) && json_integer_value(v) >= -20 && json_integer_value(v) <= 300;
    if (!strcmp(t, "number"))
        return json_is_number(v) && json_number_value(v) >= 0 && json_number_value(v) <= 9;
    return !strcmp(t, "string") ? json_is_string(v) : !strcmp(t, "null") ? json_is_null(v) : json_is_boolean(v);
}

TEST(schema_random_texts_fit)
{
    int whole = 0;
    for (uint64_t seed = 0; seed < 100; seed++) {
        at = 0;
        json_t *s = random_schema(seed, 3), *v;
        char *text = json_dumps(s, JSON_COMPACT), out[4096], message[480] = "";
        struct deq_form *f = form_of(DEQ_FORM_SCHEMA, text, message);
        CHECK_MSG(f, "%s: %s", text, message);
        for (uint64_t try = 0; f && try < 3; try++) {
            if (!random_text(f, 1000 * seed + try, 400, false, out, sizeof out))
                continue;
            whole++;
            v = json_loads(out, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
            CHECK_MSG(v && valid(s, v), "%s: %s", text, out);
            json_decref(v);
        }
        deq_form_free(f);
        free(text);
        json_decref(s);
    }
    CHECK_MSG(whole > 250, "%d texts came to an end", whole); /* all are short: that many would be strange to miss */
}
