#include "core/base/options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/yaml.h"

const struct deq_opt *deq_opt_find(const struct deq_opt_table *t, const char *name)
{
    for (size_t i = 0; i < t->n; i++)
        if (!strcmp(t->opt[i].name, name))
            return &t->opt[i];
    return NULL;
}

/* Levenshtein distance, for names below 64 bytes */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[65];
    size_t la = strlen(a), lb = strlen(b);
    if (la > 64 || lb > 64)
        return 99;
    for (size_t j = 0; j <= lb; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= la; i++) {
        unsigned diag = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned sub = diag + (a[i - 1] != b[j - 1]);
            diag = row[j];
            row[j] = DEQ_MIN(sub, DEQ_MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[lb];
}

const char *deq_opt_nearest(const struct deq_opt_table *t, const char *name)
{
    const char *best = NULL;
    unsigned least = (unsigned)DEQ_MAX((size_t)3, strlen(name) / 2) + 1;
    for (size_t i = 0; i < t->n; i++) {
        /* a forgotten prefix counts as near */
        const char *dot = strrchr(t->opt[i].name, '.');
        unsigned d = distance(name, t->opt[i].name);
        if (dot && !strcmp(dot + 1, name))
            d = 0;
        if (d < least) {
            least = d;
            best = t->opt[i].name;
        }
    }
    return best;
}

/* A section that stands alone, or with a value, is mistyped as a key is. */
static bool near_section(const struct deq_opt_table *t, const char *name, char ret[64])
{
    for (size_t i = 0; i < t->n; i++) {
        const char *dot = strchr(t->opt[i].name, '.');
        if (!dot || dot - t->opt[i].name >= 64)
            continue;
        snprintf(ret, 64, "%.*s", (int)(dot - t->opt[i].name), t->opt[i].name);
        if (distance(name, ret) <= strlen(ret) / 3)
            return true;
    }
    return false;
}

/* " (did you mean NAME?)", or nothing */
static const char *did_you_mean(const struct deq_opt_table *t, const char *name, char ret[160])
{
    const char *near = deq_opt_nearest(t, name);
    char section[64];
    if (!near && !strchr(name, '.') && near_section(t, name, section))
        near = section;
    snprintf(ret, 160, near ? " (did you mean %s?)" : "%s", near ? near : "");
    return ret;
}

static bool parse_number(const char *text, double max, double *ret)
{
    char *end;
    if (isinf(max) && !strcmp(text, "inf")) {
        *ret = INFINITY;
        return true;
    }
    /* strtod would take hexadecimal, "inf", "nan" and leading blanks; the programs run in the C locale */
    if (!*text || strspn(text, "0123456789+-.eE") != strlen(text))
        return false;
    errno = 0;
    *ret = strtod(text, &end);
    return !*end && isfinite(*ret);
}

static bool parse_u64(const char *text, uint64_t *ret)
{
    char *end;
    if (!*text || strspn(text, "0123456789") != strlen(text))
        return false;
    errno = 0;
    *ret = strtoull(text, &end, 10);
    return !*end && !errno;
}

static bool parse_bytes(const char *text, uint64_t *ret)
{
    char digits[32];
    size_t n = strspn(text, "0123456789");
    if (!n || n >= sizeof digits)
        return false;
    memcpy(digits, text, n);
    digits[n] = 0;
    const char *name = text + n;
    const uint64_t unit = !*name                                       ? 1
                          : !strcmp(name, "K") || !strcmp(name, "KiB") ? 1u << 10
                          : !strcmp(name, "M") || !strcmp(name, "MiB") ? 1u << 20
                          : !strcmp(name, "G") || !strcmp(name, "GiB") ? 1u << 30
                                                                       : 0;
    return unit && parse_u64(digits, ret) && !__builtin_mul_overflow(*ret, unit, ret);
}

/* The place of text in "a|b|c", or -1. */
static int choice(const char *choices, const char *text)
{
    const size_t n = strlen(text);
    int i = 0;
    for (const char *c = choices; *c; i++) {
        size_t len = strcspn(c, "|");
        if (len == n && !memcmp(c, text, n))
            return i;
        c += len + (c[len] == '|');
    }
    return -1;
}

/* Compared as integers: a double would round what is just beyond 2^53. */
static bool outside(const struct deq_opt *o, uint64_t u)
{
    return u < (uint64_t)o->min || (o->max < 0x1p64 && u > (uint64_t)o->max);
}

enum deq_rc deq_opt_set(const struct deq_opt *o, void *values, const char *text, int item, struct deq_err *err)
{
    void *p = (char *)values + o->offset;
    double d;
    uint64_t u = 0;
    int k;
    struct deq_args *list;
    switch (o->type) {
    case DEQ_OPT_BOOL:
        if (strcmp(text, "true") && strcmp(text, "false"))
            return deq_fail(err, DEQ_EINVAL, "%s: \"%s\" is not true or false", o->name, text);
        *(bool *)p = *text == 't';
        return DEQ_OK;
    case DEQ_OPT_U32:
    case DEQ_OPT_U64:
        if (!parse_u64(text, &u) || outside(o, u))
            return deq_fail(err, DEQ_EINVAL, "%s: \"%s\" is not an integer in %.0f..%.0f", o->name, text, o->min,
                            o->max);
        if (o->type == DEQ_OPT_U32)
            *(uint32_t *)p = (uint32_t)u;
        else
            *(uint64_t *)p = u;
        return DEQ_OK;
    case DEQ_OPT_BYTES:
        if (!parse_bytes(text, &u) || outside(o, u))
            return deq_fail(err, DEQ_EINVAL, "%s: \"%s\" is not a size in %.0f..%.0f bytes (units K, M, G)", o->name,
                            text, o->min, o->max);
        *(uint64_t *)p = u;
        return DEQ_OK;
    case DEQ_OPT_FLOAT:
    case DEQ_OPT_DOUBLE:
        if (!parse_number(text, o->max, &d) || d < o->min || d > o->max)
            return deq_fail(err, DEQ_EINVAL, "%s: \"%s\" is not a number in %g..%g", o->name, text, o->min, o->max);
        if (o->type == DEQ_OPT_FLOAT)
            *(float *)p = (float)d;
        else
            *(double *)p = d;
        return DEQ_OK;
    case DEQ_OPT_ENUM:
        if ((k = choice(o->choices, text)) < 0)
            return deq_fail(err, DEQ_EINVAL, "%s: \"%s\" is not one of %s", o->name, text, o->choices);
        *(int *)p = k;
        return DEQ_OK;
    case DEQ_OPT_ARG:
        if (!*text) /* of a shell's variable that is not set */
            return deq_fail(err, DEQ_EINVAL, "%s: the value is empty", o->name);
        *(const char **)p = text;
        return DEQ_OK;
    case DEQ_OPT_ARGS:
        list = p;
        if (list->n >= (size_t)o->max)
            return deq_fail(err, DEQ_EINVAL, "%s: given more than %.0f times", o->name, o->max);
        list->flag[list->n] = o->name;
        list->item[list->n++] = text;
        return DEQ_OK;
    case DEQ_OPT_STR:
        if (o->choices && choice(o->choices, text) < 0)
            return deq_fail(err, DEQ_EINVAL, "%s: \"%s\" is not one of %s", o->name, text, o->choices);
        if (strlen(text) + 1 > (size_t)o->max)
            return deq_fail(err, DEQ_EINVAL, "%s: longer than %.0f bytes", o->name, o->max - 1);
        memcpy(p, text, strlen(text) + 1);
        return DEQ_OK;
    case DEQ_OPT_LIST: {
        char *s = p;
        size_t have = item > 0 ? strlen(s) : 0, n = strlen(text);
        if (strchr(text, '\n') || have + n + 2 > (size_t)o->max)
            return deq_fail(err, DEQ_EINVAL, "%s: the list is longer than %.0f bytes or an item holds a line end",
                            o->name, o->max);
        if (have)
            s[have++] = '\n';
        memcpy(s + have, text, n + 1);
        return DEQ_OK;
    }
    }
    return DEQ_EINVAL;
}

enum deq_rc deq_opt_defaults(const struct deq_opt_table *t, void *values, struct deq_err *err)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->opt[i].def) {
            enum deq_rc rc = deq_opt_set(&t->opt[i], values, t->opt[i].def, 0, err);
            if (rc)
                return rc;
        }
    return DEQ_OK;
}

struct load {
    const struct deq_opt_table *t;
    void *values;
    const char *name;
};

static bool is_section(const struct deq_opt_table *t, const char *key)
{
    const size_t n = strlen(key);
    for (size_t i = 0; i < t->n; i++)
        if (!strncmp(t->opt[i].name, key, n) && t->opt[i].name[n] == '.')
            return true;
    return false;
}

static enum deq_rc on_item(void *ctx, const struct deq_yaml_item *item, struct deq_err *err)
{
    struct load *l = ctx;
    const struct deq_opt *o = deq_opt_find(l->t, item->key);
    char where[300], hint[160];
    const char *wrong = NULL;
    if (!o && is_section(l->t, item->key)) {
        if (item->kind == DEQ_YAML_NULL || item->kind == DEQ_YAML_EMPTY_MAPPING)
            return DEQ_OK;
        wrong = "is a section and takes keys of its own, not a value";
    } else if (!o) {
        return deq_fail(err, DEQ_EINVAL, "%s: line %u, column %u: unknown key %s%s", l->name, item->key_line,
                        item->key_column, item->key, did_you_mean(l->t, item->key, hint));
    } else if (item->kind == DEQ_YAML_NULL && item->index < 0) {
        return DEQ_OK;
    } else if (item->kind == DEQ_YAML_SEQUENCE && o->type == DEQ_OPT_LIST) {
        /* replaces what was there, an empty one too */
        *((char *)l->values + o->offset) = 0;
        return DEQ_OK;
    } else if (item->kind != DEQ_YAML_SCALAR) {
        wrong = item->kind == DEQ_YAML_SEQUENCE ? "takes one value, not a sequence"
                : item->kind == DEQ_YAML_NULL   ? "a null is no item of a list"
                                                : "takes a value, not a mapping";
    }
    if (wrong)
        return deq_fail(err, DEQ_EINVAL, "%s: line %u, column %u: %s %s", l->name, item->line, item->column, item->key,
                        wrong);
    enum deq_rc rc = deq_opt_set(o, l->values, item->value, item->index + 1, err);
    if (!rc)
        return DEQ_OK;
    snprintf(where, sizeof where, "%s: line %u, column %u", l->name, item->line, item->column);
    return deq_fail_prefix(err, rc, where);
}

enum deq_rc deq_opt_parse(const struct deq_opt_table *t, void *values, const char *text, size_t len, const char *name,
                          struct deq_err *err)
{
    struct load l = {t, values, name};
    return deq_yaml_walk(text, len, name, on_item, &l, err);
}

enum deq_rc deq_opt_load(const struct deq_opt_table *t, void *values, const char *path, struct deq_err *err)
{
    struct load l = {t, values, path};
    return deq_yaml_walk_file(path, on_item, &l, err);
}

/* A value that has no place in a file: of a flag or a variable. A null puts back what the table has; of a list it is an
 * item, as the origin "null" is. */
static enum deq_rc set_text(const struct deq_opt_table *t, const struct deq_opt *o, void *values, const char *text,
                            struct deq_err *err)
{
    if (o->type != DEQ_OPT_LIST && *text && deq_yaml_is_null(text))
        return deq_opt_set(o, values, o->def ? o->def : "", 0, err);
    if (o->type != DEQ_OPT_LIST || text[0] != '[')
        return deq_opt_set(o, values, text, 0, err);
    char yaml[8192];
    const int n = snprintf(yaml, sizeof yaml, "%s: %s", o->name, text);
    if ((size_t)n >= sizeof yaml)
        return deq_fail(err, DEQ_EINVAL, "%s: the list is longer than %.0f bytes", o->name, o->max);
    return deq_opt_parse(t, values, yaml, (size_t)n, o->name, err);
}

enum deq_rc deq_opt_assign(const struct deq_opt_table *t, void *values, const char *text, struct deq_err *err)
{
    char key[128], hint[160];
    const char *eq = strchr(text, '=');
    if (!eq || eq == text)
        return deq_fail(err, DEQ_EINVAL, "\"%s\": expected KEY=VALUE", text);
    snprintf(key, sizeof key, "%.*s", (int)DEQ_MIN(eq - text, (ptrdiff_t)sizeof key - 1), text);
    const struct deq_opt *o = (size_t)(eq - text) < sizeof key ? deq_opt_find(t, key) : NULL;
    if (!o && is_section(t, key))
        return deq_fail(err, DEQ_EINVAL, "%s is a section: expected one of its keys, as in %s.KEY=VALUE", key, key);
    if (!o)
        return deq_fail(err, DEQ_EINVAL, "unknown key %s%s", key, did_you_mean(t, key, hint));
    return set_text(t, o, values, eq + 1, err);
}

static void env_name(const char *prefix, const char *option, char ret[128])
{
    snprintf(ret, 128, "%s%s", prefix, option);
    for (char *c = ret; *c; c++)
        *c = *c == '.' ? '_' : (char)toupper((unsigned char)*c);
}

/* name: of a variable, of which the part after the prefix is no option's */
static enum deq_rc unknown_variable(const struct deq_opt_table *t, const char *prefix, const char *name,
                                    struct deq_err *err)
{
    char lower[128], near[128] = "";
    snprintf(lower, sizeof lower, "%s", name + strlen(prefix));
    for (char *c = lower; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    const char *option = deq_opt_nearest(t, lower);
    if (option)
        env_name(prefix, option, near);
    return deq_fail(err, DEQ_EINVAL, "%s: unknown variable of the environment%s%s%s; it must be unset or empty", name,
                    option ? " (did you mean " : "", near, option ? "?)" : "");
}

extern char **environ;

enum deq_rc deq_opt_env(const struct deq_opt_table *t, void *values, const char *prefix, deq_opt_others others,
                        struct deq_err *err)
{
    const size_t n_prefix = strlen(prefix);
    for (char **e = environ; e && *e; e++) {
        const char *value = strchr(*e, '=');
        char name[128], of[128];
        if (strncmp(*e, prefix, n_prefix) || !value || !*++value)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)DEQ_MIN(value - 1 - *e, (ptrdiff_t)sizeof name - 1), *e);
        size_t i = 0;
        for (; i < t->n; i++) {
            env_name(prefix, t->opt[i].name, of);
            if (!strcmp(of, name))
                break;
        }
        enum deq_rc rc = DEQ_OK;
        if (i < t->n && (rc = set_text(t, &t->opt[i], values, value, err)))
            deq_fail_prefix(err, rc, name);
        else if (i == t->n && !(others && others(name + n_prefix, value)))
            rc = unknown_variable(t, prefix, name, err);
        if (rc)
            return rc;
    }
    return DEQ_OK;
}

/* Appends at n what fits, NUL-terminated; returns the new length. */
static size_t put(char *out, size_t cap, size_t n, char c)
{
    if (n + 1 < cap)
        out[n++] = c;
    if (cap)
        out[n] = 0;
    return n;
}

/* YAML's double-quoted form */
static size_t quote(char *out, size_t cap, size_t n, const char *s, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    n = put(out, cap, n, '"');
    for (size_t i = 0; i < len; i++) {
        const unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\')
            n = put(out, cap, n, '\\');
        if (c >= 0x20 && c != 0x7f) {
            n = put(out, cap, n, (char)c);
            continue;
        }
        const char escape[4] = {'\\', 'x', hex[c >> 4], hex[c & 15]};
        for (size_t k = 0; k < 4; k++)
            n = put(out, cap, n, escape[k]);
    }
    return put(out, cap, n, '"');
}

/* The fewest digits that are read back as the same number. */
static void number_text(double x, bool single, char *out, size_t cap)
{
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(out, cap, "%.*g", digits, x);
        const double back = strtod(out, NULL);
        if (single ? (float)back == (float)x : back == x)
            break;
    }
}

void deq_opt_text(const struct deq_opt *o, const void *values, char *out, size_t cap)
{
    const void *p = (const char *)values + o->offset;
    switch (o->type) {
    case DEQ_OPT_U32: snprintf(out, cap, "%u", *(const uint32_t *)p); break;
    case DEQ_OPT_U64: snprintf(out, cap, "%llu", (unsigned long long)*(const uint64_t *)p); break;
    case DEQ_OPT_FLOAT: number_text((double)*(const float *)p, true, out, cap); break;
    case DEQ_OPT_DOUBLE: number_text(*(const double *)p, false, out, cap); break;
    case DEQ_OPT_BOOL: snprintf(out, cap, "%s", *(const bool *)p ? "true" : "false"); break;
    case DEQ_OPT_BYTES: {
        uint64_t u = *(const uint64_t *)p;
        unsigned shift = u && !(u & ((1u << 30) - 1))   ? 30
                         : u && !(u & ((1u << 20) - 1)) ? 20
                         : u && !(u & 1023)             ? 10
                                                        : 0;
        const char *unit = shift == 30 ? "G" : shift == 20 ? "M" : shift == 10 ? "K" : "";
        snprintf(out, cap, "%llu%s", (unsigned long long)(u >> shift), unit);
        break;
    }
    case DEQ_OPT_ENUM: {
        const char *c = o->choices;
        for (int i = *(const int *)p; i > 0; i--)
            c += strcspn(c, "|") + 1;
        quote(out, cap, 0, c, strcspn(c, "|"));
        break;
    }
    case DEQ_OPT_STR: quote(out, cap, 0, p, strlen(p)); break;
    case DEQ_OPT_ARG:
    case DEQ_OPT_ARGS: (void)put(out, cap, 0, 0); break; /* flags stand in no file */
    case DEQ_OPT_LIST: {
        size_t n = put(out, cap, 0, '[');
        for (const char *s = p; *s;) {
            const size_t len = strcspn(s, "\n");
            if (s != (const char *)p)
                n = put(out, cap, put(out, cap, n, ','), ' ');
            n = quote(out, cap, n, s, len);
            s += len + (s[len] == '\n');
        }
        put(out, cap, n, ']');
        break;
    }
    }
}

void deq_opt_dump(const struct deq_opt_table *t, const void *values, bool comments, FILE *out)
{
    char section[64] = "", text[8192];
    for (size_t i = 0; i < t->n; i++) {
        const struct deq_opt *o = &t->opt[i];
        const char *dot = strchr(o->name, '.'), *leaf = dot ? dot + 1 : o->name;
        size_t len = dot ? (size_t)(dot - o->name) : 0;
        const char *indent = dot ? "  " : "";
        if (dot && (strlen(section) != len || memcmp(section, o->name, len))) {
            snprintf(section, sizeof section, "%.*s", (int)len, o->name);
            fprintf(out, "%s%s:\n", i ? "\n" : "", section);
        }
        if (comments) {
            fprintf(out, "%s# %s", indent, o->help);
            if (o->choices)
                fprintf(out, " One of %s.", o->choices);
            else if (o->type == DEQ_OPT_U32 || o->type == DEQ_OPT_U64 || o->type == DEQ_OPT_FLOAT)
                fprintf(out, " %.16g..%.16g.", o->min, o->max);
            fputc('\n', out);
        }
        deq_opt_text(o, values, text, sizeof text);
        fprintf(out, "%s%s: %s\n", indent, leaf, text);
    }
}
