#include "server/api/fields.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/json.h"

enum { BODY_FLAGS = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL }; /* of every body: \u0000 is a character */

/* --- Errors and JSON --- */

bool fields_fail(struct request_error *e, int status, const char *code, const char *param, const char *fmt, ...)
{
    if (e->status)
        return false; /* the first one counts */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    for (char *s = e->message; *s; s++) /* parts of the input may stand in it, cut anywhere: ASCII only */
        if ((unsigned char)*s < 0x20 || (unsigned char)*s >= 0x7f)
            *s = '?';
    e->status = status;
    e->code = code;
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    for (char *s = e->param; *s; s++)
        if ((unsigned char)*s < 0x20 || (unsigned char)*s >= 0x7f)
            *s = '?';
    return false;
}

/* Depth is counted before parsing: the parser itself would recurse 2,048 deep. */
static bool shallow(const char *s, size_t n)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        if (in_string) {
            if (s[i] == '\\')
                i++;
            else if (s[i] == '"')
                in_string = false;
        } else if (s[i] == '"') {
            in_string = true;
        } else if (s[i] == '{' || s[i] == '[') {
            if (++depth > JSON_DEPTH_MAX)
                return false;
        } else if (s[i] == '}' || s[i] == ']') {
            depth--;
        }
    }
    return true;
}

/* A key that is null is absent, but for what stands in a JSON Schema, where const may be null. */
static void drop_nulls(json_t *v)
{
    const char *key;
    json_t *x;
    void *next;
    if (json_is_object(v)) {
        json_object_foreach_safe(v, next, key, x) {
            if (json_is_null(x))
                json_object_del(v, key);
            else if (strcmp(key, "schema") && strcmp(key, "json"))
                drop_nulls(x);
        }
    } else if (json_is_array(v)) {
        for (size_t i = 0; i < json_array_size(v); i++)
            drop_nulls(json_array_get(v, i));
    }
}

static bool no_memory(struct request_error *err)
{
    return fields_fail(err, 503, "out_of_memory", NULL, "out of memory; try again later");
}

json_t *fields_parse(const char *body, size_t len, struct request_error *err)
{
    json_error_t je = {0};
    if (!len) {
        fields_fail(err, 400, "invalid_json", NULL, "the body is empty; expected a JSON object");
        return NULL;
    }
    if (!shallow(body, len)) {
        fields_fail(err, 400, "invalid_json", NULL, "the JSON is nested more than %d deep", JSON_DEPTH_MAX);
        return NULL;
    }
    json_t *root = NULL;
    /* 1e308 stands for a number that no type holds: the field's own range is what it exceeds, and its name is told */
    const enum deq_rc rc = deq_json_parse_clamped(body, len, BODY_FLAGS, &root, &je);
    if (rc == DEQ_ENOMEM) {
        no_memory(err);
        return NULL;
    }
    if (rc) {
        fields_fail(err, 400, "invalid_json", NULL, "the body is not JSON: line %d, column %d: %s", je.line, je.column,
                    je.text);
        return NULL;
    }
    drop_nulls(root);
    if (!json_is_object(root) || json_object_size(root) > JSON_KEYS_MAX) {
        json_decref(root);
        fields_fail(err, 400, "invalid_json", NULL, "expected a JSON object of at most %d keys", JSON_KEYS_MAX);
        return NULL;
    }
    return root;
}

/* --- Fields --- */

static void path_of(const struct object *o, const char *name, char out[64])
{
    snprintf(out, 64, "%s%.50s", o->prefix, name);
}

bool fields_bad_type(const struct object *o, const char *name, const char *expected)
{
    char path[64];
    path_of(o, name, path);
    return fields_fail(o->err, 400, "invalid_type", path, "%s: expected %s", path, expected);
}

static bool bad_range(const struct object *o, const char *name, double lo, double hi)
{
    char path[64];
    path_of(o, name, path);
    return fields_fail(o->err, 400, "invalid_value", path, "%s: must be between %.10g and %.10g", path, lo, hi);
}

bool fields_bad_value(const struct object *o, const char *name, const char *expected)
{
    char path[64];
    path_of(o, name, path);
    return fields_fail(o->err, 400, "invalid_value", path, "%s: %s", path, expected);
}

bool fields_missing(const struct object *o, const char *name)
{
    char path[64];
    path_of(o, name, path);
    return fields_fail(o->err, 400, "missing_parameter", path, "%s: missing", path);
}

bool fields_unsupported(const struct object *o, const char *name, const char *why)
{
    char path[64];
    path_of(o, name, path);
    return fields_fail(o->err, 400, "unsupported_parameter", path, "%s: not supported by this server: %s", path, why);
}

bool fields_no_memory(const struct object *o)
{
    return no_memory(o->err);
}

const char *fields_word(const json_t *v)
{
    const char *s = json_string_value(v);
    return !s || strlen(s) == json_string_length(v) ? s : "";
}

bool fields_whole(const json_t *v, int64_t *ret, bool *ret_held)
{
    const double x = json_number_value(v);
    if (!json_is_number(v) || x != floor(x))
        return false;
    /* cppcheck-suppress incorrectLogicOperator; it does not know hexadecimal floats */
    *ret_held = json_is_integer(v) || (x >= -0x1p63 && x < 0x1p63);
    *ret = json_is_integer(v) ? json_integer_value(v) : *ret_held ? (int64_t)x : x < 0 ? INT64_MIN : INT64_MAX;
    return true;
}

bool fields_take_int(const struct object *o, const char *name, const json_t *v, json_int_t lo, json_int_t hi,
                     int64_t *ret)
{
    int64_t x;
    bool held;
    char path[64];
    if (!fields_whole(v, &x, &held))
        return fields_bad_type(o, name, "an integer");
    path_of(o, name, path);
    if (!held || x < lo || x > hi)
        return fields_fail(o->err, 400, "invalid_value", path, "%s: must be between %lld and %lld", path, (long long)lo,
                           (long long)hi);
    *ret = x;
    return true;
}

bool fields_take_number(const struct object *o, const char *name, const json_t *v, double lo, double hi, float *ret)
{
    if (!json_is_number(v))
        return fields_bad_type(o, name, "a number");
    const double x = json_number_value(v);
    if (!(x >= lo && x <= hi))
        return bad_range(o, name, lo, hi);
    *ret = (float)x;
    return true;
}

/* What no row of a table knows. */
static bool take_the_rest(const struct object *o)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)o->json, key, v) {
        bool known = false;
        for (size_t i = 0; i < o->fields->n && !known; i++)
            known = !strcmp(key, o->fields->rows[i].name);
        if (!known && !fields_take_neutral(o, key, v, &known))
            return false;
        if (!known && strcmp(o->context->conf->unknown_fields, "ignore")) {
            char path[64];
            path_of(o, key, path);
            return fields_fail(o->err, 400, "unknown_parameter", path, "%s: unknown field", path);
        }
    }
    return true;
}

bool fields_take(const struct object *o, void *request)
{
    for (size_t i = 0; i < o->fields->n; i++) {
        const struct field *f = &o->fields->rows[i];
        const json_t *v = json_object_get(o->json, f->name);
        char *at = (char *)request + f->at;
        bool ok = true;
        if (!v)
            continue;
        switch (f->kind) {
        case BOOL:
            ok = json_is_boolean(v) || fields_bad_type(o, f->name, "a boolean");
            if (ok)
                *(bool *)(void *)at = json_is_true(v);
            break;
        case INT:
            ok = fields_take_int(o, f->name, v, (json_int_t)f->lo, f->hi >= 0x1p63 ? INT64_MAX : (json_int_t)f->hi,
                                 (int64_t *)(void *)at);
            break;
        case NUMBER: ok = fields_take_number(o, f->name, v, f->lo, f->hi, (float *)(void *)at); break;
        case OTHER: ok = f->take(o, f, v, request); break;
        }
        if (!ok)
            return false;
    }
    return take_the_rest(o);
}

void fields_print(const char *where, const struct fields *f)
{
    static const char *const kinds[] = {[BOOL] = "boolean", [INT] = "integer", [NUMBER] = "number"};
    _Static_assert(DEQ_COUNT(kinds) == OTHER, "a word for each kind that is parsed here");
    for (const struct field *r = f->rows; r < f->rows + f->n; r++)
        printf("%s\t%s\t%s\t%.17g\t%.17g\n", where, r->name, r->kind == OTHER ? r->type : kinds[r->kind], r->lo, r->hi);
    fields_print_neutral(where, f->body);
}
