#include "core/form/schema_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/mem.h"

static const char *const type_names[TYPES] = {[OBJECT] = "object",   [ARRAY] = "array",     [STRING] = "string",
                                              [NUMBER] = "number",   [INTEGER] = "integer", [BOOLEAN] = "boolean",
                                              [NUL] = "null"};
/* The words that are known, and the types that they speak of. */
static const struct {
    const char *name;
    unsigned types; /* 0: any */
} keywords[] = {
    {"type", 0}, {"enum", 0}, {"const", 0}, {"anyOf", 0}, {"oneOf", 0}, {"allOf", 0}, {"$ref", 0},
    {"properties", 1 << OBJECT}, {"required", 1 << OBJECT}, {"additionalProperties", 1 << OBJECT},
    {"items", 1 << ARRAY}, {"prefixItems", 1 << ARRAY}, {"minItems", 1 << ARRAY}, {"maxItems", 1 << ARRAY},
    {"minLength", 1 << STRING}, {"maxLength", 1 << STRING}, {"pattern", 1 << STRING}, {"format", 1 << STRING},
    {"minimum", 1 << NUMBER}, {"maximum", 1 << NUMBER}, {"exclusiveMinimum", 1 << NUMBER},
    {"exclusiveMaximum", 1 << NUMBER},
};

deq_expr schema_fail(struct schema_reader *r, const char *keyword, const char *why)
{
    if (!r->rc)
        r->rc = deq_fail(r->err, DEQ_EINVAL, "%.60s: %s", keyword, why);
    return DEQ_NEVER;
}

bool schema_work(struct schema_reader *r, const char *keyword, size_t n)
{
    r->work += (uint32_t)DEQ_MIN(n, (size_t)SCHEMA_WORK_MAX);
    if (r->work > SCHEMA_WORK_MAX)
        schema_fail(r, keyword, "too large: too much to compare");
    return !r->rc;
}

deq_expr schema_no_memory(struct schema_reader *r)
{
    if (!r->rc)
        r->rc = deq_fail(r->err, DEQ_ENOMEM, "no memory for a form");
    return DEQ_NEVER;
}

/* --- References --- */

static const json_t *step_into(const json_t *at, const char *name)
{
    if (!json_is_array(at))
        return json_object_get(at, name);
    size_t i = 0, digits = strspn(name, "0123456789");
    for (size_t k = 0; k < digits && k < 9; k++)
        i = i * 10 + (size_t)(name[k] - '0');
    return digits && !name[digits] ? json_array_get(at, i) : NULL;
}

/* What a JSON pointer with "#" before it names; escapes of URIs are not looked for. */
static const json_t *find_pointer(const json_t *root, const char *pointer)
{
    const json_t *at = root;
    while (at && *pointer == '/') {
        char name[256];
        size_t n = 0;
        for (pointer++; *pointer && *pointer != '/' && n + 1 < sizeof name; pointer++) {
            const bool escape = *pointer == '~' && (pointer[1] == '0' || pointer[1] == '1');
            name[n++] = !escape ? *pointer : *++pointer == '0' ? '~' : '/';
        }
        name[n] = 0;
        at = step_into(at, name);
    }
    return *pointer ? NULL : at;
}

static const json_t *referred(struct schema_reader *r, const char *ref)
{
    const json_t *to = ref && ref[0] == '#' ? find_pointer(r->root, ref + 1) : NULL;
    if (!to)
        schema_fail(r, "$ref", "nothing is there; references are within the schema, such as #/$defs/name");
    return to;
}

/* --- What a schema allows, roughly --- */

static unsigned type_of_value(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return 1 << OBJECT;
    case JSON_ARRAY: return 1 << ARRAY;
    case JSON_STRING: return 1 << STRING;
    case JSON_INTEGER: return 1 << INTEGER | 1 << NUMBER;
    case JSON_REAL: return json_real_value(v) == floor(json_real_value(v)) ? 1 << INTEGER | 1 << NUMBER : 1 << NUMBER;
    case JSON_NULL: return 1 << NUL;
    default: return 1 << BOOLEAN;
    }
}

static unsigned type_named(struct schema_reader *r, const json_t *name)
{
    for (unsigned t = 0; t < TYPES && json_is_string(name); t++)
        if (!strcmp(json_string_value(name), type_names[t]))
            return t == NUMBER ? 1 << NUMBER | 1 << INTEGER : 1u << t;
    schema_fail(r, "type", "must be object, array, string, number, integer, boolean, null, or an array of these");
    return 0;
}

unsigned schema_types(struct schema_reader *r, const json_t *s)
{
    const json_t *type = json_object_get(s, "type");
    unsigned types = 0;
    if (json_is_array(type))
        for (size_t i = 0; i < json_array_size(type); i++)
            types |= type_named(r, json_array_get(type, i));
    else if (type)
        types = type_named(r, type);
    if (type)
        return types;
    for (size_t i = 0; i < DEQ_COUNT(keywords); i++)
        types |= json_object_get(s, keywords[i].name) ? keywords[i].types : 0;
    return !types ? ALL_TYPES : types & 1 << NUMBER ? types | 1 << INTEGER : types;
}

uint32_t schema_count(struct schema_reader *r, const json_t *s, const char *keyword, uint32_t absent)
{
    const json_t *v = json_object_get(s, keyword);
    if (!v)
        return absent;
    const double n = json_is_number(v) ? json_number_value(v) : -1;
    if (n < 0 || n != floor(n) || n > 1e9)
        schema_fail(r, keyword, "must be a whole number from 0 to 1000000000");
    return r->rc ? absent : (uint32_t)n;
}

static bool check_keywords(struct schema_reader *r, const json_t *s)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)s, key, v) {
        bool known = schema_is_annotation(key);
        for (size_t i = 0; !known && i < DEQ_COUNT(keywords); i++)
            known = !strcmp(key, keywords[i].name);
        if (!known)
            schema_fail(r, key, "this keyword is not supported");
    }
    return !r->rc;
}

/* --- Values --- */

deq_expr schema_literal(struct schema_reader *r, const json_t *value)
{
    char *text = NULL;
    if (json_is_real(value)) { /* the shortest that reads back the same */
        for (int digits = 1; digits <= 17 && !r->rc; digits++) {
            deq_free_plain(text);
            text = deq_json_text(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(digits));
            if (!text || strtod(text, NULL) == json_real_value(value))
                break;
        }
        if (fabs(json_real_value(value)) >= 1e308)
            schema_fail(r, "enum, const", "a number is too large");
    } else {
        text = deq_json_text(value, JSON_ENCODE_ANY | JSON_COMPACT);
    }
    const deq_expr all = text ? deq_expr_str(r->x, text) : schema_no_memory(r);
    deq_free_plain(text);
    return all;
}

/* Values that a list names, and the types allow. */
static deq_expr literals(struct schema_reader *r, const json_t *s, const json_t *values, const char *keyword)
{
    const unsigned types = json_object_get(s, "type") ? schema_types(r, s) : (unsigned)ALL_TYPES;
    const char *key;
    json_t *v;
    deq_expr all = DEQ_NEVER;
    json_object_foreach((json_t *)s, key, v) {
        if (strcmp(key, keyword) && strcmp(key, "type") && !schema_is_annotation(key))
            return schema_fail(r, key, "not supported beside enum or const");
    }
    for (size_t i = 0; schema_work(r, keyword, 1) && !r->x->failed && i < json_array_size(values); i++)
        if (types & type_of_value(json_array_get(values, i)))
            all = deq_expr_alt(r->x, all, schema_literal(r, json_array_get(values, i)));
    return all;
}

static deq_expr enumerated(struct schema_reader *r, const json_t *s)
{
    const json_t *values = json_object_get(s, "enum");
    return json_is_array(values) ? literals(r, s, values, "enum") : schema_fail(r, "enum", "must be an array");
}

static deq_expr constant(struct schema_reader *r, const json_t *s)
{
    json_t *values = json_pack("[O]", json_object_get(s, "const"));
    const deq_expr all = values ? literals(r, s, values, "const") : schema_no_memory(r);
    json_decref(values);
    return all;
}

static deq_expr typed(struct schema_reader *r, const json_t *s)
{
    const unsigned types = schema_types(r, s);
    deq_expr all = DEQ_NEVER;
    if (types == ALL_TYPES && !json_object_get(s, "type"))
        return schema_any(r);
    if (types & 1 << OBJECT)
        all = deq_expr_alt(r->x, all, schema_object(r, s));
    if (types & 1 << ARRAY)
        all = deq_expr_alt(r->x, all, schema_array(r, s));
    if (types & 1 << STRING)
        all = deq_expr_alt(r->x, all, schema_string(r, s));
    if (types & (1 << NUMBER | 1 << INTEGER))
        all = deq_expr_alt(r->x, all, schema_number(r, s, !(types & 1 << NUMBER)));
    if (types & 1 << BOOLEAN)
        all = deq_expr_alt(r->x, all, deq_expr_alt(r->x, deq_expr_str(r->x, "true"), deq_expr_str(r->x, "false")));
    if (types & 1 << NUL)
        all = deq_expr_alt(r->x, all, deq_expr_str(r->x, "null"));
    return all;
}

deq_expr schema_any(struct schema_reader *r)
{
    if (!r->any) {
        static const char *const scalars[] = {"true", "false", "null"};
        json_t *nothing = json_object();
        r->any = 1 + deq_expr_declare(r->x);
        deq_expr all = nothing ? DEQ_NEVER : schema_no_memory(r);
        all = deq_expr_alt(r->x, all, schema_object(r, nothing));
        all = deq_expr_alt(r->x, all, schema_array(r, nothing));
        all = deq_expr_alt(r->x, all, schema_any_string(r));
        all = deq_expr_alt(r->x, all, schema_number(r, nothing, false));
        for (size_t i = 0; i < DEQ_COUNT(scalars); i++)
            all = deq_expr_alt(r->x, all, deq_expr_str(r->x, scalars[i]));
        deq_expr_define(r->x, r->any - 1, all);
        json_decref(nothing);
    }
    return deq_expr_rule(r->x, r->any - 1);
}

/* --- Combinations --- */

const json_t *schema_target(struct schema_reader *r, const json_t *v)
{
    for (unsigned hops = 0; !r->rc && json_object_get(v, "$ref"); hops++) {
        const json_t *to = referred(r, json_string_value(json_object_get(v, "$ref")));
        const json_t *rest = json_object_size(v) > 1 ? schema_without(r, v, "$ref") : NULL;
        if (hops > SCHEMA_NEST_MAX)
            schema_fail(r, "$ref", "it refers to itself, or through too many others");
        v = to && json_object_size(rest) ? schema_join(r, to, rest, "$ref") : to;
    }
    return r->rc ? NULL : v;
}

/* As schemas compare: 1 is 1.0, wherever in a value it stands. */
static bool same_value(struct schema_reader *r, const json_t *x, const json_t *y)
{
    const char *key;
    json_t *v;
    size_t i;
    if (!schema_work(r, "oneOf", 1))
        return true;
    if (json_is_number(x) && json_is_number(y))
        return json_number_value(x) == json_number_value(y);
    if (json_typeof(x) != json_typeof(y) || json_array_size(x) != json_array_size(y) ||
        json_object_size(x) != json_object_size(y))
        return false;
    json_array_foreach(x, i, v) {
        if (!same_value(r, v, json_array_get(y, i)))
            return false;
    }
    json_object_foreach((json_t *)x, key, v) {
        const json_t *other = json_object_get(y, key);
        if (!other || !same_value(r, v, other))
            return false;
    }
    return json_is_array(x) || json_is_object(x) || json_equal(x, y);
}

/* Values that can be of no two branches: of other types, or with a property that both need and whose values differ. */
static bool apart(struct schema_reader *r, const json_t *a, const json_t *b);

static bool values_apart(struct schema_reader *r, const json_t *a, const json_t *b)
{
    json_t *va = json_object_get(a, "enum"), *vb = json_object_get(b, "enum");
    json_t *la = va ? json_incref(va) : json_pack("[O*]", json_object_get(a, "const"));
    json_t *lb = vb ? json_incref(vb) : json_pack("[O*]", json_object_get(b, "const"));
    bool apart_ = json_array_size(la) && json_array_size(lb);
    for (size_t i = 0; apart_ && i < json_array_size(la); i++)
        for (size_t k = 0; apart_ && k < json_array_size(lb); k++)
            apart_ = !same_value(r, json_array_get(la, i), json_array_get(lb, k));
    json_decref(la);
    json_decref(lb);
    return apart_;
}

static bool requires(const json_t *s, const char *name)
{
    const json_t *required = json_object_get(s, "required");
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *one = json_string_value(json_array_get(required, i));
        if (one && !strcmp(one, name))
            return true;
    }
    return false;
}

static bool objects_apart(struct schema_reader *r, const json_t *a, const json_t *b)
{
    const json_t *pa = json_object_get(a, "properties"), *pb = json_object_get(b, "properties");
    const char *name;
    json_t *x;
    json_object_foreach((json_t *)pa, name, x) {
        const json_t *y = json_object_get(pb, name);
        const size_t looked = json_array_size(json_object_get(a, "required")) +
                              json_array_size(json_object_get(b, "required"));
        if (!schema_work(r, "oneOf", 1 + looked))
            return false;
        if (y && requires(a, name) && requires(b, name) && apart(r, x, y))
            return true;
    }
    return false;
}

static bool apart(struct schema_reader *r, const json_t *a, const json_t *b)
{
    bool yes = false;
    if (++r->depth > SCHEMA_NEST_MAX)
        schema_fail(r, "oneOf", "too deep");
    (void)schema_work(r, "oneOf", 1);
    a = schema_target(r, a);
    b = schema_target(r, b);
    if (a && b && json_is_object(a) && json_is_object(b)) {
        const bool typed_both = json_object_get(a, "type") && json_object_get(b, "type");
        const unsigned shared = typed_both ? schema_types(r, a) & schema_types(r, b) : (unsigned)ALL_TYPES;
        yes = !shared || values_apart(r, a, b) || (shared == 1 << OBJECT && objects_apart(r, a, b));
    }
    r->depth--;
    return yes && !r->rc;
}

/* anyOf, or oneOf whose branches no value can share. */
static deq_expr one_of(struct schema_reader *r, const json_t *s, const char *keyword)
{
    const json_t *branches = json_object_get(s, keyword);
    json_t *rest = schema_without(r, s, keyword);
    deq_expr all = DEQ_NEVER;
    if (!json_is_array(branches) || !json_array_size(branches))
        return schema_fail(r, keyword, "must be an array of schemas");
    for (size_t i = 0; !r->rc && i < json_array_size(branches); i++) {
        const json_t *branch = json_array_get(branches, i);
        for (size_t k = 0; !strcmp(keyword, "oneOf") && k < i && !r->rc; k++)
            if (!apart(r, branch, json_array_get(branches, k)))
                schema_fail(r, keyword, "a value might fit two of its branches: they must differ in type, or in the "
                                        "const or enum of a property that all require (or take anyOf)");
        if (!r->rc && json_object_size(rest))
            branch = schema_join(r, rest, branch, keyword);
        if (!r->rc)
            all = deq_expr_alt(r->x, all, schema_value(r, branch));
    }
    return all;
}

static deq_expr all_of(struct schema_reader *r, const json_t *s)
{
    const json_t *parts = json_object_get(s, "allOf"), *joined = schema_without(r, s, "allOf");
    if (!json_is_array(parts))
        return schema_fail(r, "allOf", "must be an array of schemas");
    for (size_t i = 0; !r->rc && i < json_array_size(parts); i++)
        joined = schema_join(r, joined, json_array_get(parts, i), "allOf");
    return r->rc ? (deq_expr)DEQ_NEVER : schema_value(r, joined);
}

static deq_expr read_schema(struct schema_reader *r, const json_t *s)
{
    if (json_is_true(s))
        return schema_any(r);
    if (json_is_false(s))
        return DEQ_NEVER;
    if (!json_is_object(s))
        return schema_fail(r, "schema", "must be an object, true or false");
    if (!check_keywords(r, s))
        return DEQ_NEVER;
    if (json_object_get(s, "$ref")) {
        const json_t *to = schema_target(r, s);
        return to ? schema_value(r, to) : (deq_expr)DEQ_NEVER;
    }
    if (json_object_get(s, "allOf"))
        return all_of(r, s);
    if (json_object_get(s, "anyOf"))
        return one_of(r, s, "anyOf");
    if (json_object_get(s, "oneOf"))
        return one_of(r, s, "oneOf");
    if (json_object_get(s, "enum"))
        return enumerated(r, s);
    return json_object_get(s, "const") ? constant(r, s) : typed(r, s);
}

/* Each schema is a rule, which it may itself refer to. */
deq_expr schema_value(struct schema_reader *r, const json_t *s)
{
    uint32_t i = 0;
    while (i < r->n_nodes && r->node[i].json != s)
        i++;
    if (!r->rc)
        r->rc = deq_exprs_check(r->x, r->err); /* nothing that is read from here on would be of use */
    if (r->rc)
        return DEQ_NEVER;
    if (i < r->n_nodes)
        return deq_expr_rule(r->x, r->node[i].rule);
    if (r->n_nodes == DEQ_SCHEMA_NODES_MAX || r->depth > SCHEMA_NEST_MAX)
        return schema_fail(r, "schema", r->depth > SCHEMA_NEST_MAX ? "nested too deeply" : "too many parts");
    const uint32_t rule = deq_expr_declare(r->x);
    r->node[r->n_nodes++] = (struct node){.json = s, .rule = rule};
    r->depth++;
    const deq_expr body = read_schema(r, s);
    r->depth--;
    if (r->rc)
        return DEQ_NEVER;
    deq_expr_define(r->x, rule, body);
    return body == DEQ_NEVER ? body : deq_expr_rule(r->x, rule);
}

enum deq_rc deq_schema_read(struct deq_exprs *x, const char *text, size_t len, uint32_t *ret_root, struct deq_err *err)
{
    json_error_t where;
    struct schema_reader r = {.x = x, .err = err};
    const enum deq_rc rc =
        deq_json_parse(text, len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &r.root, &where);
    if (rc)
        return rc == DEQ_ENOMEM ? deq_fail(err, rc, "no memory for a form")
                                : deq_fail(err, DEQ_EINVAL, "it is not JSON: line %d, column %d: %s", where.line,
                                           where.column, where.text);
    r.node = DEQ_NEW_ARRAY(struct node, DEQ_SCHEMA_NODES_MAX);
    r.made = json_array();
    if (!r.node || !r.made)
        schema_no_memory(&r);
    *ret_root = deq_expr_declare(x);
    if (!r.rc)
        deq_expr_define(x, *ret_root, schema_value(&r, r.root));
    if (deq_json_failed())
        schema_no_memory(&r);
    json_decref(r.root);
    json_decref(r.made);
    deq_free(r.node);
    return r.rc;
}
