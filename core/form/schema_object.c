/* Objects and arrays. */
#include <string.h>

#include "core/base/mem.h"
#include "core/form/schema_impl.h"

/* "name": value */
static deq_expr member(struct schema_reader *r, deq_expr name, deq_expr value)
{
    const deq_expr colon = deq_expr_seq(r->x, deq_expr_str(r->x, ":"), deq_expr_maybe(r->x, deq_expr_str(r->x, " ")));
    return deq_expr_seq3(r->x, name, colon, value);
}

static deq_expr comma(struct schema_reader *r)
{
    return deq_expr_seq(r->x, deq_expr_str(r->x, ","), deq_expr_maybe(r->x, deq_expr_str(r->x, " ")));
}

static deq_expr around(struct schema_reader *r, const char *open, deq_expr inner, const char *close)
{
    return deq_expr_seq3(r->x, deq_expr_str(r->x, open), inner, deq_expr_str(r->x, close));
}

/* Properties by name: those declared, then those that are required only. */
struct property {
    const char *name;
    size_t len;
    const json_t *schema; /* NULL: as additionalProperties says */
    bool required;
};

static struct property *find(struct property *p, size_t n, const char *name, size_t len)
{
    for (size_t i = 0; i < n; i++)
        if (p[i].len == len && !memcmp(p[i].name, name, len))
            return &p[i];
    return NULL;
}

/* NULL: an error. */
static struct property *properties(struct schema_reader *r, const json_t *s, size_t *ret_n)
{
    const json_t *declared = json_object_get(s, "properties"), *required = json_object_get(s, "required");
    if (declared && !json_is_object(declared))
        schema_fail(r, "properties", "must be an object");
    if (required && !json_is_array(required))
        schema_fail(r, "required", "must be an array of names");
    if (json_object_size(declared) + json_array_size(required) > SCHEMA_PROPERTIES_MAX)
        schema_fail(r, "properties", "more than 1024 are not supported");
    struct property *p = DEQ_NEW_ARRAY(struct property, json_object_size(declared) + json_array_size(required));
    if (!p)
        schema_no_memory(r);
    size_t n = 0, len;
    const char *name;
    json_t *v;
    json_object_keylen_foreach((json_t *)declared, name, len, v) {
        if (p)
            p[n++] = (struct property){name, len, v, false};
    }
    for (size_t i = 0; !r->rc && i < json_array_size(required); i++) {
        const json_t *one = json_array_get(required, i);
        if (!json_is_string(one)) {
            schema_fail(r, "required", "must be an array of names");
            break;
        }
        struct property *known = find(p, n, json_string_value(one), json_string_length(one));
        if (!known)
            *(known = &p[n++]) = (struct property){json_string_value(one), json_string_length(one), NULL, false};
        known->required = true;
    }
    *ret_n = n;
    if (!r->rc)
        return p;
    deq_free(p);
    return NULL;
}

deq_expr schema_object(struct schema_reader *r, const json_t *s)
{
    const json_t *others = json_object_get(s, "additionalProperties");
    const bool closed = others ? json_is_false(others) : json_object_get(s, "properties") != NULL;
    size_t n = 0;
    struct property *p = properties(r, s, &n);
    const char **names = DEQ_NEW_ARRAY(const char *, n);
    if (!names)
        schema_no_memory(r);
    deq_expr list = DEQ_NEVER, other = DEQ_NEVER;
    if (!r->rc && others && !closed && !json_is_true(others))
        other = schema_value(r, others);
    else if (!r->rc && (!others || !closed))
        other = schema_any(r);
    for (size_t i = 0; !r->rc && i < n; i++)
        names[i] = p[i].name;
    if (!r->rc && !closed)
        list = member(r, schema_other_name(r, names, n), other);
    for (size_t i = n; !r->rc && i-- > 0;) {
        const deq_expr value = p[i].schema ? schema_value(r, p[i].schema) : other;
        const deq_expr one = value == DEQ_NEVER ? value : member(r, schema_name(r, p[i].name, p[i].len), value);
        list = deq_expr_member(r->x, one, p[i].required, list);
    }
    deq_free(p);
    deq_free(names);
    return r->rc ? (deq_expr)DEQ_NEVER : around(r, "{", deq_expr_list(r->x, list, comma(r)), "}");
}

/* --- Arrays --- */

/* Item i of an array that begins with those of `first`. */
static deq_expr items_from(struct schema_reader *r, const json_t *first, size_t i, deq_expr rest, uint32_t min,
                           uint32_t max)
{
    const size_t n = json_array_size(first);
    deq_expr all = DEQ_EMPTY;
    if (i == n) { /* behind them, each with a comma unless it is the very first */
        const uint32_t lo = min > n ? min - (uint32_t)n : 0,
                       hi = max == DEQ_EXPR_ENDLESS ? max : max > n ? max - (uint32_t)n : 0;
        const deq_expr more = deq_expr_seq(r->x, comma(r), rest);
        if (n)
            return deq_expr_repeat(r->x, more, lo, hi);
        if (!hi)
            return lo ? DEQ_NEVER : DEQ_EMPTY;
        all = deq_expr_seq(r->x, rest, deq_expr_repeat(r->x, more, lo ? lo - 1 : 0,
                                                       hi == DEQ_EXPR_ENDLESS ? hi : hi - 1));
        return lo ? all : deq_expr_maybe(r->x, all);
    }
    if (i < max) {
        const deq_expr item = schema_value(r, json_array_get(first, i)),
                       behind = items_from(r, first, i + 1, rest, min, max);
        all = deq_expr_seq3(r->x, i ? comma(r) : (deq_expr)DEQ_EMPTY, item, behind);
    }
    return i < min && i < max ? all : i < min ? DEQ_NEVER : deq_expr_maybe(r->x, all);
}

deq_expr schema_array(struct schema_reader *r, const json_t *s)
{
    const json_t *items = json_object_get(s, "items"), *first = json_object_get(s, "prefixItems");
    const uint32_t min = schema_count(r, s, "minItems", 0), max = schema_count(r, s, "maxItems", DEQ_EXPR_ENDLESS);
    if (first && (!json_is_array(first) || json_array_size(first) > 256))
        return schema_fail(r, "prefixItems", "must be an array of at most 256 schemas");
    if (json_is_array(items))
        return schema_fail(r, "items", "an array of schemas is not supported; prefixItems is");
    const deq_expr rest = r->rc ? (deq_expr)DEQ_NEVER : items ? schema_value(r, items) : schema_any(r);
    return r->rc ? (deq_expr)DEQ_NEVER : around(r, "[", items_from(r, first, 0, rest, min, max), "]");
}
