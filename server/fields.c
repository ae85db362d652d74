#include "server/fields.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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

json_t *fields_parse(const char *body, size_t len, struct request_error *err)
{
    json_error_t je;
    if (!len) {
        fields_fail(err, 400, "invalid_json", NULL, "the body is empty; expected a JSON object");
        return NULL;
    }
    if (!shallow(body, len)) {
        fields_fail(err, 400, "invalid_json", NULL, "the JSON is nested more than %d deep", JSON_DEPTH_MAX);
        return NULL;
    }
    json_t *root = json_loadb(body, len, JSON_REJECT_DUPLICATES, &je);
    if (!root) {
        fields_fail(err, 400, "invalid_json", NULL, "the body is not JSON: line %d, column %d: %s", je.line, je.column, je.text);
        return NULL;
    }
    if (!json_is_object(root) || json_object_size(root) > JSON_KEYS_MAX) {
        json_decref(root);
        fields_fail(err, 400, "invalid_json", NULL, "expected a JSON object of at most %d keys", JSON_KEYS_MAX);
        return NULL;
    }
    return root;
}

/* --- Fields. null counts as absent everywhere, as OpenAI's specification has it --- */

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

bool fields_bad_range(const struct object *o, const char *name, double lo, double hi)
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

bool fields_no_memory(const struct object *o)
{
    return fields_fail(o->err, 500, "internal_error", NULL, "out of memory");
}

bool fields_take_int(const struct object *o, const char *name, const json_t *v, json_int_t lo, json_int_t hi, int64_t *ret)
{
    if (!json_is_integer(v))
        return fields_bad_type(o, name, "an integer");
    if (json_integer_value(v) < lo || json_integer_value(v) > hi)
        return fields_bad_range(o, name, (double)lo, (double)hi);
    *ret = json_integer_value(v);
    return true;
}

bool fields_take_number(const struct object *o, const char *name, const json_t *v, double lo, double hi, float *ret)
{
    if (!json_is_number(v))
        return fields_bad_type(o, name, "a number");
    const double x = json_number_value(v);
    if (!(x >= lo && x <= hi))
        return fields_bad_range(o, name, lo, hi);
    *ret = (float)x;
    return true;
}

/* Empty, false; and the words for "as if it were not there" of two fields. */
static bool is_neutral(const char *name, const json_t *v)
{
    const char *text = json_string_value(v), *type = json_string_value(json_object_get(v, "type"));
    if (!strcmp(name, "tool_choice") && text && (!strcmp(text, "auto") || !strcmp(text, "none")))
        return true;
    if (!strcmp(name, "response_format") && type && !strcmp(type, "text") && json_object_size(v) == 1)
        return true;
    return json_is_false(v) || (text && !*text) ||
           (json_is_array(v) && !json_array_size(v)) || (json_is_object(v) && !json_object_size(v));
}

bool fields_take_fields(const struct object *o, const struct field *table, size_t n, void *request)
{
    for (size_t i = 0; i < n; i++) {
        const struct field *f = &table[i];
        const json_t *v = json_object_get(o->json, f->name);
        char *at = (char *)request + f->at, path[64];
        bool ok = true;
        if (!v || json_is_null(v))
            continue;
        switch (f->kind) {
        case BOOL:
            ok = json_is_boolean(v) || fields_bad_type(o, f->name, "a boolean");
            if (ok)
                *(bool *)(void *)at = json_is_true(v);
            break;
        case INT: ok = fields_take_int(o, f->name, v, (json_int_t)f->lo, f->hi >= 0x1p63 ? INT64_MAX : (json_int_t)f->hi, (int64_t *)(void *)at); break;
        case NUMBER: ok = fields_take_number(o, f->name, v, f->lo, f->hi, (float *)(void *)at); break;
        case OTHER: ok = f->take(o, f, v, request); break;
        case NEUTRAL:
            path_of(o, f->name, path);
            ok = is_neutral(f->name, v) || fields_fail(o->err, 400, "unsupported_parameter", path, "%s: not supported by this server", path);
            break;
        }
        if (!ok)
            return false;
    }
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)o->json, key, v) {
        bool known = false;
        for (size_t i = 0; i < n && !known; i++)
            known = !strcmp(key, table[i].name);
        if (!known) {
            char path[64];
            path_of(o, key, path);
            return fields_fail(o->err, 400, "unknown_parameter", path, "%s: unknown field", path);
        }
    }
    return true;
}

void fields_print(const char *where, const struct field *table, size_t n)
{
    static const char *const kinds[] = {[BOOL] = "boolean", [INT] = "integer", [NUMBER] = "number"};
    for (size_t i = 0; i < n; i++)
        printf("%s\t%s\t%s\t%.17g\t%.17g\n", where, table[i].name, table[i].kind >= OTHER ? table[i].type : kinds[table[i].kind], table[i].lo, table[i].hi);
}
