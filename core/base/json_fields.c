#include "core/base/json_fields.h"

#include <string.h>

#include "core/base/json.h"

enum deq_rc deq_fields_parse(const char *text, size_t len, const char *name, json_t **ret, struct deq_err *err)
{
    json_error_t je;
    json_t *root = NULL;
    if (deq_json_parse(text, len, JSON_REJECT_DUPLICATES, &root, &je) == DEQ_ENOMEM)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", name);
    if (!json_is_object(root)) {
        json_decref(root);
        return deq_fail(err, DEQ_EFORMAT, "%s: line %d column %d: %s", name, root ? 1 : je.line, root ? 1 : je.column,
                        root ? "expected an object" : je.text);
    }
    *ret = root;
    return DEQ_OK;
}

const json_t *deq_fields_take(struct deq_fields *f, const char *key, bool required)
{
    if (f->n_seen < DEQ_FIELDS_MAX)
        f->seen[f->n_seen++] = key;
    const json_t *v = json_object_get(f->obj, key);
    if (f->null_is_absent && json_is_null(v))
        v = NULL;
    if (!v && required && !f->rc)
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s%s: %s", f->file, f->prefix, key,
                         f->missing ? f->missing : "missing");
    return f->rc ? NULL : v;
}

void deq_fields_u32(struct deq_fields *f, const char *key, bool required, uint32_t lo, uint32_t hi, uint32_t *ret)
{
    const json_t *v = deq_fields_take(f, key, required);
    if (!v)
        return;
    if (!json_is_integer(v) || json_integer_value(v) < lo || json_integer_value(v) > hi)
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s%s: expected an integer in %u..%u", f->file, f->prefix, key, lo,
                         hi);
    else
        *ret = (uint32_t)json_integer_value(v);
}

void deq_fields_float(struct deq_fields *f, const char *key, float lo, float hi, float *ret)
{
    const json_t *v = deq_fields_take(f, key, false);
    if (!v)
        return;
    const float d = (float)json_number_value(v); /* a bound that was written as a float is inside */
    if (!json_is_number(v) || !(d >= lo && d <= hi))
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s%s: expected a number in %g..%g", f->file, f->prefix, key,
                         (double)lo, (double)hi);
    else
        *ret = d;
}

void deq_fields_double(struct deq_fields *f, const char *key, double lo, double hi, double *ret)
{
    const json_t *v = deq_fields_take(f, key, false);
    if (!v)
        return;
    const double d = json_number_value(v);
    if (!json_is_number(v) || !(d >= lo && d <= hi))
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s%s: expected a number in %g..%g", f->file, f->prefix, key, lo, hi);
    else
        *ret = d;
}

void deq_fields_bool(struct deq_fields *f, const char *key, bool *ret)
{
    const json_t *v = deq_fields_take(f, key, false);
    if (!v)
        return;
    if (!json_is_boolean(v))
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s%s: expected true or false", f->file, f->prefix, key);
    else
        *ret = json_is_true(v);
}

/* The array of a key, or NULL: absent, or an error stands. */
static const json_t *take_array(struct deq_fields *f, const char *key, uint32_t max, const char *items)
{
    const json_t *v = deq_fields_take(f, key, false);
    if (!v || (json_is_array(v) && json_array_size(v) <= max))
        return v;
    f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s%s: expected an array of at most %u %s", f->file, f->prefix, key, max,
                     items);
    return NULL;
}

void deq_fields_u32s(struct deq_fields *f, const char *key, uint32_t max, uint32_t lo, uint32_t hi, uint32_t *ret,
                     uint32_t *ret_n)
{
    const json_t *v = take_array(f, key, max, "integers"), *item;
    size_t i;
    json_array_foreach((json_t *)v, i, item) {
        if (!json_is_integer(item) || json_integer_value(item) < lo || json_integer_value(item) > hi) {
            f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s%s[%zu]: expected an integer in %u..%u", f->file, f->prefix,
                             key, i, lo, hi);
            return;
        }
        ret[i] = (uint32_t)json_integer_value(item);
    }
    if (v)
        *ret_n = (uint32_t)json_array_size(v);
}

void deq_fields_bools(struct deq_fields *f, const char *key, uint32_t max, bool *ret, uint32_t *ret_n)
{
    const json_t *v = take_array(f, key, max, "booleans"), *item;
    size_t i;
    json_array_foreach((json_t *)v, i, item) {
        if (!json_is_boolean(item)) {
            f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s%s[%zu]: expected true or false", f->file, f->prefix, key, i);
            return;
        }
        ret[i] = json_is_true(item);
    }
    if (v)
        *ret_n = (uint32_t)json_array_size(v);
}

/* The place of `name` among "a|b|c", or -1. */
static int place_of(const char *choices, const char *name)
{
    const size_t n = strlen(name);
    int i = 0;
    for (const char *at = choices;; at++, i++) {
        const size_t len = strcspn(at, "|");
        if (len == n && !memcmp(at, name, n))
            return i;
        at += len;
        if (!*at)
            return -1;
    }
}

static void choice_text(const char *choices, int place, char *ret, size_t size)
{
    while (place-- > 0)
        choices += strcspn(choices, "|") + 1;
    snprintf(ret, size, "%.*s", (int)strcspn(choices, "|"), choices);
}

void deq_fields_enum(struct deq_fields *f, const char *key, bool required, const char *choices, int *ret)
{
    const json_t *v = deq_fields_take(f, key, required);
    if (!v)
        return;
    const char *s = json_string_value(v);
    const int place = s ? place_of(choices, s) : -1;
    if (place < 0) {
        char list[160];
        size_t n = 0;
        for (const char *c = choices; *c && n + 3 < sizeof list; c++) {
            list[n++] = *c == '|' ? ',' : *c;
            if (*c == '|')
                list[n++] = ' ';
        }
        list[n] = 0;
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s%s: %s is not one of %s", f->file, f->prefix, key,
                         s ? s : "(not a string)", list);
    } else
        *ret = place;
}

void deq_fields_text(struct deq_fields *f, const char *key, bool required, char *ret, size_t size)
{
    const json_t *v = deq_fields_take(f, key, required);
    if (!v)
        return;
    if (!json_is_string(v) || json_string_length(v) >= size)
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s%s: expected a string of at most %zu bytes", f->file, f->prefix,
                         key, size - 1);
    else
        memcpy(ret, json_string_value(v), json_string_length(v) + 1);
}

bool deq_fields_open(struct deq_fields *f, const char *key, const char *prefix, struct deq_fields *ret)
{
    const json_t *v = deq_fields_take(f, key, false);
    if (!v)
        return false;
    if (!json_is_object(v)) {
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s%s: expected an object", f->file, f->prefix, key);
        return false;
    }
    *ret = (struct deq_fields){.obj = v, .file = f->file, .prefix = prefix, .err = f->err};
    return true;
}

void deq_fields_close(struct deq_fields *f, struct deq_fields *inner)
{
    deq_fields_no_others(inner);
    f->rc = inner->rc;
}

void deq_fields_table(struct deq_fields *f, const struct deq_opt_table *t, void *values)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct deq_opt *o = &t->opt[i];
        char *at = (char *)values + o->offset;
        const bool required = !o->def;
        if (o->type == DEQ_OPT_U32)
            deq_fields_u32(f, o->name, required, (uint32_t)o->min, (uint32_t)o->max, (uint32_t *)(void *)at);
        else if (o->type == DEQ_OPT_FLOAT)
            deq_fields_float(f, o->name, (float)o->min, (float)o->max, (float *)(void *)at);
        else if (o->type == DEQ_OPT_BOOL)
            deq_fields_bool(f, o->name, (bool *)at);
        else if (o->type == DEQ_OPT_ENUM)
            deq_fields_enum(f, o->name, required, o->choices, (int *)(void *)at);
        else
            deq_fields_text(f, o->name, required, at, (size_t)o->max);
    }
}

void deq_fields_no_others(struct deq_fields *f)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)f->obj, key, v) {
        bool known = false;
        for (size_t i = 0; i < f->n_seen && !known; i++)
            known = !strcmp(key, f->seen[i]);
        if (!known && !f->rc)
            f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s%s: %s", f->file, f->prefix, key,
                             f->unknown ? f->unknown : "unknown key");
    }
}

bool deq_fields_write(const struct deq_opt_table *t, const void *values, json_t *obj)
{
    bool ok = true;
    for (size_t i = 0; i < t->n; i++) {
        const struct deq_opt *o = &t->opt[i];
        const char *at = (const char *)values + o->offset;
        char text[64];
        json_t *v;
        if (o->type == DEQ_OPT_U32)
            v = json_integer(*(const uint32_t *)(const void *)at);
        else if (o->type == DEQ_OPT_FLOAT)
            v = json_real((double)*(const float *)(const void *)at);
        else if (o->type == DEQ_OPT_BOOL)
            v = json_boolean(*(const bool *)at);
        else if (o->type == DEQ_OPT_ENUM) {
            choice_text(o->choices, *(const int *)(const void *)at, text, sizeof text);
            v = json_string(text);
        } else
            v = json_string(at);
        ok = !json_object_set_new(obj, o->name, v) && ok;
    }
    return ok;
}
