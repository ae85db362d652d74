/* Two schemas as one that says what both say, word by word: for allOf, and for what stands beside anyOf, oneOf and
 * $ref. */
#include <stdio.h>
#include <string.h>

#include "core/form/schema_impl.h"

/* Words that no value depends on. */
bool schema_is_annotation(const char *keyword)
{
    static const char *const words[] = {
        "title",       "description", "default",       "examples",         "example",         "$schema",   "$id",
        "id",          "$comment",    "$defs",         "definitions",      "deprecated",      "readOnly",  "writeOnly",
        "$vocabulary", "strict",      "discriminator", "contentMediaType", "contentEncoding", "x-order"};
    for (size_t i = 0; i < DEQ_COUNT(words); i++)
        if (!strcmp(keyword, words[i]))
            return true;
    return false;
}

enum { MADE_WORK = 16 }; /* a schema that is made takes the memory of so many values */

/* Values within each other: what comparing them takes. */
static size_t count_values(const json_t *v)
{
    size_t n = 1, i;
    const char *key;
    json_t *in;
    json_array_foreach(v, i, in) {
        n += count_values(in);
    }
    json_object_foreach((json_t *)v, key, in) {
        n += count_values(in);
    }
    return n;
}

static json_t *keep(struct schema_reader *r, json_t *made)
{
    if (made && !json_array_append_new(r->made, made))
        return made;
    schema_no_memory(r);
    return NULL;
}

json_t *schema_without(struct schema_reader *r, const json_t *a, const char *keyword)
{
    json_t *rest = schema_work(r, keyword, MADE_WORK + json_object_size(a)) ? keep(r, json_object()) : NULL;
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)a, key, v) {
        if (rest && strcmp(key, keyword) && !schema_is_annotation(key) && json_object_set(rest, key, v))
            schema_no_memory(r);
    }
    return rest;
}

/* All that stands in either. */
static json_t *both_required(const json_t *a, const json_t *b)
{
    json_t *all = json_deep_copy(a);
    size_t i, k;
    json_t *x, *y;
    json_array_foreach(b, i, x) {
        bool known = false;
        json_array_foreach(a, k, y)
            known = known || json_equal(x, y);
        if (!known)
            json_array_append(all, x);
    }
    return all;
}

/* Each property must fit what either says of it. */
static json_t *both_properties(const json_t *a, const json_t *b)
{
    json_t *all = json_copy((json_t *)a);
    const char *name;
    json_t *y;
    json_object_foreach((json_t *)b, name, y) {
        json_t *x = json_object_get(a, name);
        if (!x || json_equal(x, y))
            json_object_set(all, name, y);
        else
            json_object_set_new(all, name, json_pack("{s:[OO]}", "allOf", x, y));
    }
    return all;
}

static json_t *both_types(const json_t *a, const json_t *b)
{
    json_t *la = json_is_array(a) ? json_incref((json_t *)a) : json_pack("[O]", a);
    json_t *lb = json_is_array(b) ? json_incref((json_t *)b) : json_pack("[O]", b), *all = json_array();
    size_t i, k;
    json_t *x, *y;
    json_array_foreach(la, i, x) {
        json_array_foreach(lb, k, y) {
            const char *s = json_string_value(x), *t = json_string_value(y);
            const bool narrower = s && t && !strcmp(s, "integer") && !strcmp(t, "number"),
                       wider = s && t && !strcmp(s, "number") && !strcmp(t, "integer");
            if (json_equal(x, y) || narrower || wider)
                json_array_append(all, wider ? y : x);
        }
    }
    json_decref(la);
    json_decref(lb);
    return all;
}

/* The value of a word that both have, and not the same; NULL: it cannot be told. */
static json_t *joined_word(const char *key, json_t *x, json_t *y)
{
    static const char *const least[] = {"minimum", "exclusiveMinimum", "minLength", "minItems"},
                            *const most[] = {"maximum", "exclusiveMaximum", "maxLength", "maxItems"};
    if (!strcmp(key, "required") && json_is_array(x) && json_is_array(y))
        return both_required(x, y);
    if (!strcmp(key, "properties") && json_is_object(x) && json_is_object(y))
        return both_properties(x, y);
    if (!strcmp(key, "type"))
        return both_types(x, y);
    for (size_t i = 0; i < DEQ_COUNT(least) && json_is_number(x) && json_is_number(y); i++) {
        const bool below = json_number_value(x) < json_number_value(y);
        if (!strcmp(key, least[i]))
            return json_incref(below ? y : x);
        if (!strcmp(key, most[i]))
            return json_incref(below ? x : y);
    }
    return NULL;
}

/* additionalProperties is of the properties beside it: with others that it does not know it says something else. */
static bool stays_closed(const json_t *a, const json_t *b)
{
    const json_t *others = json_object_get(a, "additionalProperties"), *mine = json_object_get(a, "properties");
    const char *name;
    json_t *v;
    if (!others || json_is_true(others))
        return true;
    json_object_foreach(json_object_get(b, "properties"), name, v) {
        if (!json_object_get(mine, name))
            return false;
    }
    return true;
}

const json_t *schema_join(struct schema_reader *r, const json_t *a, const json_t *b, const char *what)
{
    const char *key;
    json_t *v;
    if (++r->depth > SCHEMA_NEST_MAX)
        schema_fail(r, what, "too deep, or it refers to itself");
    a = a && json_object_get(a, "$ref") ? schema_target(r, a) : a;
    b = b && json_object_get(b, "$ref") ? schema_target(r, b) : b;
    r->depth--;
    if (r->rc || !a || !b)
        return NULL;
    if (json_is_true(a) || json_is_false(b))
        return b;
    if (json_is_true(b) || json_is_false(a))
        return a;
    const json_t *pa = json_object_get(a, "properties"), *pb = json_object_get(b, "properties");
    const size_t words = json_object_size(a) + json_object_size(b) + json_object_size(pa) + json_object_size(pb),
                 required = json_array_size(json_object_get(a, "required")),
                 types = json_array_size(json_object_get(a, "type"));
    if (!schema_work(r, what, MADE_WORK + words + required * json_array_size(json_object_get(b, "required")) +
                                  types * json_array_size(json_object_get(b, "type"))))
        return NULL;
    json_t *all = json_is_object(a) && json_is_object(b) ? keep(r, json_copy((json_t *)a)) : NULL;
    if (!all) {
        schema_fail(r, what, "must have schemas");
        return NULL;
    }
    if (!stays_closed(a, b) || !stays_closed(b, a))
        schema_fail(r, what, "additionalProperties there does not know all properties beside it: not supported");
    json_object_foreach((json_t *)b, key, v) {
        json_t *mine = json_object_get(all, key);
        if (schema_is_annotation(key) || mine == v)
            continue;
        if (mine && !schema_work(r, what, count_values(v)))
            return NULL;
        if (mine && json_equal(mine, v))
            continue;
        json_t *word = mine ? joined_word(key, mine, v) : json_incref(v);
        if (!word) {
            char why[160];
            snprintf(why, sizeof why, "%.40s stands there and beside it, and the two cannot be joined: not supported",
                     key);
            schema_fail(r, what, why);
        }
        json_object_set_new(all, key, word);
    }
    return r->rc ? NULL : all;
}
