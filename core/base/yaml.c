#include "core/base/yaml.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/mem.h"

enum { KEYS_MAX = 1024, SLOTS = 2 * KEYS_MAX };

struct level {
    size_t key_len; /* length of the path before this mapping's keys */
    bool in_list, any_key;
    int index;
};

struct walker {
    const char *name;
    char path[DEQ_YAML_KEY_MAX * 2];
    struct level level[DEQ_YAML_DEPTH_MAX];
    unsigned depth;
    bool want_value; /* a key was read */
    unsigned key_line, key_column;
    char *seen[KEYS_MAX]; /* full paths of keys, for duplicates */
    size_t n_seen;
    uint16_t slot[SLOTS]; /* where they are found again by hash: place in seen + 1, 0: none */
};

static enum deq_rc at(const struct walker *w, const yaml_mark_t *m, struct deq_err *err, const char *what,
                      const char *arg)
{
    return deq_fail(err, DEQ_EFORMAT, "%s: line %zu, column %zu: %s%s", w->name, m->line + 1, m->column + 1, what, arg);
}

/* Where the path is, or would be, found again. */
static uint16_t *slot_of(struct walker *w)
{
    const struct deq_hash h = deq_siphash(&(struct deq_hash){{0}}, w->path, strlen(w->path));
    size_t i = h.h[0] % SLOTS;
    while (w->slot[i] && strcmp(w->seen[w->slot[i] - 1], w->path))
        i = (i + 1) % SLOTS;
    return &w->slot[i];
}

static enum deq_rc push_key(struct walker *w, const yaml_event_t *e, struct deq_err *err)
{
    const char *key = (const char *)e->data.scalar.value;
    size_t base = w->level[w->depth - 1].key_len, len = e->data.scalar.length;
    if (!len || len > DEQ_YAML_KEY_MAX - 2 || strlen(key) != len || base + len + 2 > sizeof w->path)
        return at(w, &e->start_mark, err, "a key must have 1..126 bytes", "");
    if (!strcmp(key, "<<"))
        return at(w, &e->start_mark, err, "merge keys are not supported", "");
    snprintf(w->path + base, sizeof w->path - base, "%s%s", base ? "." : "", key);
    uint16_t *slot = slot_of(w);
    if (*slot)
        return at(w, &e->start_mark, err, "key given twice: ", w->path);
    if (w->n_seen == KEYS_MAX)
        return at(w, &e->start_mark, err, "too many keys", "");
    if (!(w->seen[w->n_seen] = deq_strdup(w->path)))
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory", w->name);
    *slot = (uint16_t)++w->n_seen;
    w->key_line = (unsigned)e->start_mark.line + 1;
    w->key_column = (unsigned)e->start_mark.column + 1;
    w->want_value = w->level[w->depth - 1].any_key = true;
    return DEQ_OK;
}

bool deq_yaml_is_null(const char *text)
{
    static const char *const names[] = {"", "~", "null", "Null", "NULL"};
    bool found = false;
    for (size_t i = 0; i < DEQ_COUNT(names); i++)
        found = found || !strcmp(text, names[i]);
    return found;
}

static bool is_null(const yaml_event_t *e)
{
    const char *value = (const char *)e->data.scalar.value;
    return e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && e->data.scalar.length == strlen(value) &&
           deq_yaml_is_null(value);
}

/* The item that stands at m, of the key that was read last. */
static struct deq_yaml_item item_at(const struct walker *w, const yaml_mark_t *m, enum deq_yaml_kind kind)
{
    return (struct deq_yaml_item){.key = w->path,
                                  .kind = kind,
                                  .line = (unsigned)m->line + 1,
                                  .column = (unsigned)m->column + 1,
                                  .key_line = w->key_line,
                                  .key_column = w->key_column,
                                  .index = -1};
}

static enum deq_rc on_scalar(struct walker *w, const yaml_event_t *e, deq_yaml_fn fn, void *ctx, struct deq_err *err)
{
    struct level *top = w->depth ? &w->level[w->depth - 1] : NULL;
    const char *value = (const char *)e->data.scalar.value;
    if (e->data.scalar.anchor || e->data.scalar.tag)
        return at(w, &e->start_mark, err, "anchors and tags are not supported", "");
    if (!top)
        return is_null(e) ? DEQ_OK : at(w, &e->start_mark, err, "expected a mapping of keys", "");
    if (!top->in_list && !w->want_value)
        return push_key(w, e, err);
    if (strlen(value) != e->data.scalar.length)
        return at(w, &e->start_mark, err, "the value holds a NUL byte", "");
    struct deq_yaml_item item = item_at(w, &e->start_mark, is_null(e) ? DEQ_YAML_NULL : DEQ_YAML_SCALAR);
    item.value = item.kind == DEQ_YAML_SCALAR ? value : NULL;
    item.index = top->in_list ? top->index++ : -1;
    w->want_value = false;
    return fn(ctx, &item, err);
}

static enum deq_rc on_event(struct walker *w, const yaml_event_t *e, deq_yaml_fn fn, void *ctx, struct deq_err *err)
{
    struct level *top = w->depth ? &w->level[w->depth - 1] : NULL;
    struct deq_yaml_item item;
    switch (e->type) {
    case YAML_ALIAS_EVENT:
        return at(w, &e->start_mark, err, "aliases are not supported", "");
    case YAML_MAPPING_START_EVENT:
        if (e->data.mapping_start.anchor || e->data.mapping_start.tag)
            return at(w, &e->start_mark, err, "anchors and tags are not supported", "");
        if ((top && top->in_list) || (top && !w->want_value))
            return at(w, &e->start_mark, err, "a mapping is not expected here", "");
        if (w->depth == DEQ_YAML_DEPTH_MAX)
            return at(w, &e->start_mark, err, "nested too deeply", "");
        w->level[w->depth++] = (struct level){.key_len = top ? strlen(w->path) : 0};
        w->want_value = false;
        return DEQ_OK;
    case YAML_MAPPING_END_EVENT:
        w->depth--;
        if (!w->depth || top->any_key)
            return DEQ_OK;
        w->path[top->key_len] = 0; /* nothing came after the section's own key */
        item = item_at(w, &e->start_mark, DEQ_YAML_EMPTY_MAPPING);
        return fn(ctx, &item, err);
    case YAML_SEQUENCE_START_EVENT:
        if (e->data.sequence_start.anchor || e->data.sequence_start.tag)
            return at(w, &e->start_mark, err, "anchors and tags are not supported", "");
        if (!top || top->in_list || !w->want_value || w->depth == DEQ_YAML_DEPTH_MAX)
            return at(w, &e->start_mark, err, "a sequence is not expected here", "");
        w->level[w->depth++] = (struct level){.key_len = strlen(w->path), .in_list = true};
        w->want_value = false;
        item = item_at(w, &e->start_mark, DEQ_YAML_SEQUENCE);
        return fn(ctx, &item, err);
    case YAML_SEQUENCE_END_EVENT:
        w->depth--;
        return DEQ_OK;
    case YAML_SCALAR_EVENT: return on_scalar(w, e, fn, ctx, err);
    default: return DEQ_OK;
    }
}

/* What libyaml says is wrong, and where. Of bytes that are no text it knows the offset only. */
static enum deq_rc not_yaml(const yaml_parser_t *p, const char *text, const char *name, struct deq_err *err)
{
    size_t line = p->problem_mark.line, column = p->problem_mark.column;
    if (p->error == YAML_MEMORY_ERROR)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory", name);
    if (p->error == YAML_READER_ERROR)
        line = column = 0;
    for (size_t i = 0; p->error == YAML_READER_ERROR && i < p->problem_offset; i++) {
        column = text[i] == '\n' ? 0 : column + 1;
        line += text[i] == '\n';
    }
    return deq_fail(err, DEQ_EFORMAT, "%s: line %zu, column %zu: %s%s%s", name, line + 1, column + 1,
                    p->context ? p->context : "", p->context ? ": " : "", p->problem ? p->problem : "not YAML");
}

enum deq_rc deq_yaml_walk(const char *text, size_t len, const char *name, deq_yaml_fn fn, void *ctx,
                          struct deq_err *err)
{
    yaml_parser_t parser;
    if (len > DEQ_YAML_MAX_BYTES)
        return deq_fail(err, DEQ_EFORMAT, "%s: %zu bytes, the limit is %d", name, len, DEQ_YAML_MAX_BYTES);
    struct walker *w = DEQ_NEW(struct walker);
    if (!w || !yaml_parser_initialize(&parser)) {
        deq_free(w);
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory", name);
    }
    w->name = name;
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    enum deq_rc rc = DEQ_OK;
    unsigned documents = 0, open = 0;
    for (bool done = false; !done && rc != DEQ_ENOMEM;) { /* after an error only to see whether the rest is YAML */
        yaml_event_t e;
        if (!yaml_parser_parse(&parser, &e)) {
            rc = not_yaml(&parser, text, name, err);
            break;
        }
        if (!rc && e.type == YAML_DOCUMENT_START_EVENT && ++documents > 1)
            rc = at(w, &e.start_mark, err, "a second document is not expected", "");
        else if (!rc)
            rc = on_event(w, &e, fn, ctx, err);
        open += e.type == YAML_MAPPING_START_EVENT || e.type == YAML_SEQUENCE_START_EVENT;
        open -= e.type == YAML_MAPPING_END_EVENT || e.type == YAML_SEQUENCE_END_EVENT;
        /* libyaml's time for a token grows with the depth that it stands in */
        done = e.type == YAML_STREAM_END_EVENT || open > DEQ_YAML_DEPTH_MAX + 1;
        yaml_event_delete(&e);
    }
    yaml_parser_delete(&parser);
    for (size_t i = 0; i < w->n_seen; i++)
        deq_free(w->seen[i]);
    deq_free(w);
    return rc;
}

enum deq_rc deq_yaml_walk_file(const char *path, deq_yaml_fn fn, void *ctx, struct deq_err *err)
{
    char *text;
    size_t len;
    enum deq_rc rc = deq_io_read(path, DEQ_YAML_MAX_BYTES, &text, &len, err);
    if (rc)
        return rc;
    rc = deq_yaml_walk(text, len, path, fn, ctx, err);
    deq_free(text);
    return rc;
}
