#include "core/import/entries.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/data/safetensors.h"

enum { FULL_NAME = 3 * DEQ_ENTRY_NAME, NOTES_MAX = 1 << 16, IGNORED_TOLD = 20 };

void deq_entries_init(struct deq_entries *e)
{
    deq_buf_init(&e->notes, NOTES_MAX);
}

void deq_entries_note(struct deq_entries *e, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    deq_buf_add(&e->notes, line, strlen(line) + 1);
}

/* --- The model in the file --- */

/* Appends what stands before the first dot of a name, unless it is there. */
static void add_top(struct deq_buf *list, const char *name)
{
    const size_t n = strcspn(name, ".");
    for (size_t at = 0; at + n <= list->len; at += strcspn(list->data + at, ",") + 2)
        if (!memcmp(list->data + at, name, n) && (at + n == list->len || list->data[at + n] == ','))
            return;
    if (list->len)
        deq_buf_str(list, ", ");
    deq_buf_add(list, name, n);
}

/* What a user sees at the top of the checkpoint, to tell what it is; full at some names. */
static enum deq_rc no_model(struct deq_entries *e, const char *anchor)
{
    struct deq_buf list;
    deq_buf_init(&list, 160);
    for (size_t i = 0; i < deq_checkpoint_count(e->file); i++)
        add_top(&list, deq_checkpoint_at(e->file, i)->name);
    for (size_t i = 0; i < deq_checkpoint_ignored_count(e->file); i++)
        add_top(&list, deq_checkpoint_ignored_at(e->file, i)->name);
    const enum deq_rc rc = deq_fail(e->err, DEQ_EFORMAT,
                                    "%s: entry %s: missing; this is not a state dict of %s; at its top: %s%s",
                                    e->checkpoint, anchor, e->model, list.len ? list.data : "nothing",
                                    list.failed ? "..." : "");
    deq_buf_free(&list);
    return rc;
}

/* The entries' common prefix is whatever stands before the anchor's name. */
static enum deq_rc find_prefix(struct deq_entries *e, const char *anchor)
{
    bool found = false;
    const size_t k = strlen(anchor);
    for (size_t i = 0; i < deq_checkpoint_count(e->file); i++) {
        const char *name = deq_checkpoint_at(e->file, i)->name;
        const size_t n = strlen(name);
        if (n < k || strcmp(name + n - k, anchor) || (n > k && name[n - k - 1] != '.'))
            continue;
        if (found)
            return deq_fail(e->err, DEQ_EFORMAT, "%s: holds two models, %s%s and %s; save one state dict",
                            e->checkpoint, e->prefix, anchor, name);
        if (n - k >= sizeof e->prefix)
            return deq_fail(e->err, DEQ_EFORMAT, "%s: entry %s: its name is too long", e->checkpoint, name);
        memcpy(e->prefix, name, n - k);
        found = true;
    }
    return found ? DEQ_OK : no_model(e, anchor);
}

/* Nothing is read before its shape was checked, so a shape that only the configuration claims reserves nothing. */
enum deq_rc deq_entries_open(struct deq_entries *e, const char *anchor)
{
    enum deq_rc rc = deq_checkpoint_open(e->checkpoint, &e->file, e->err);
    if (rc)
        return rc;
    e->checkpoint = deq_checkpoint_path(e->file);
    if ((rc = find_prefix(e, anchor)))
        return rc;
    for (size_t i = 0; i < deq_checkpoint_count(e->file); i++)
        e->half = DEQ_MAX(e->half, (size_t)deq_checkpoint_at(e->file, i)->count);
    e->used = DEQ_NEW_ARRAY(bool, deq_checkpoint_count(e->file) + 1);
    e->piece = DEQ_NEW_ARRAY(float, 2 * (size_t)DEQ_ENTRY_PIECE);
    return e->used && e->piece ? DEQ_OK : deq_fail(e->err, DEQ_ENOMEM, "%s: no memory to read it", e->checkpoint);
}

enum deq_rc deq_entries_room(struct deq_entries *e)
{
    e->scratch = DEQ_NEW_ARRAY(float, 2 * e->half);
    return e->scratch ? DEQ_OK : deq_fail(e->err, DEQ_ENOMEM, "%s: no memory to read it", e->checkpoint);
}

void deq_entries_close(struct deq_entries *e)
{
    deq_buf_free(&e->notes);
    deq_checkpoint_close(e->file);
    deq_free(e->used);
    deq_free(e->piece);
    deq_free(e->scratch);
}

/* --- Entries by name --- */

static const struct deq_checkpoint_tensor *find(const struct deq_entries *e, const char *name)
{
    char full[FULL_NAME];
    snprintf(full, sizeof full, "%s%s", e->prefix, name);
    return deq_checkpoint_find(e->file, full);
}

bool deq_entries_has(const struct deq_entries *e, const char *name)
{
    return find(e, name);
}

enum deq_dtype deq_entries_dtype(const struct deq_entries *e, const char *name)
{
    return find(e, name)->dtype;
}

/* The name without the prefix; NULL: it is not of the model. */
static const char *own_name(const struct deq_entries *e, size_t i)
{
    const char *name = deq_checkpoint_at(e->file, i)->name;
    const size_t n = strlen(e->prefix);
    return strncmp(name, e->prefix, n) ? NULL : name + n;
}

bool deq_entries_all(const struct deq_entries *e, enum deq_dtype dtype, const char *except)
{
    for (size_t i = 0; i < deq_checkpoint_count(e->file); i++) {
        const char *name = own_name(e, i);
        if (name && strcmp(name, except) && deq_checkpoint_at(e->file, i)->dtype != dtype)
            return false;
    }
    return true;
}

bool deq_entries_has_any(const struct deq_entries *e, const char *begin)
{
    for (size_t i = 0; i < deq_checkpoint_count(e->file); i++) {
        const char *name = own_name(e, i);
        if (name && !strncmp(name, begin, strlen(begin)))
            return true;
    }
    return false;
}

static void use(struct deq_entries *e, const struct deq_checkpoint_tensor *t)
{
    const size_t i = (size_t)(t - deq_checkpoint_at(e->file, 0));
    e->n_used += !e->used[i];
    e->used[i] = true;
    if (e->progress)
        e->progress(e->ctx, e->n_used, deq_checkpoint_count(e->file), t->name);
}

enum deq_rc deq_entries_find(struct deq_entries *e, const char *name, struct deq_entry_shape shape,
                             const struct deq_checkpoint_tensor **ret)
{
    char want[96], got[160];
    const struct deq_checkpoint_tensor *t = find(e, name);
    uint64_t d[DEQ_ENTRY_DIMS];
    for (unsigned i = 0; i < shape.n; i++)
        d[i] = shape.d[i];
    deq_shape_text(shape.n, d, want, sizeof want);
    if (!t)
        return deq_fail(e->err, DEQ_EFORMAT, "%s: entry %s%s: missing, expected shape %s", e->checkpoint, e->prefix,
                        name, want);
    bool fits = t->n_dims >= shape.n;
    for (unsigned i = 0; fits && i < t->n_dims; i++)
        fits = t->shape[i] == (i < shape.n ? d[i] : 1);
    if (!fits) {
        deq_shape_text(t->n_dims, t->shape, got, sizeof got);
        return deq_fail(e->err, DEQ_EFORMAT, "%s: entry %s: has shape %s, expected %s by %s", e->checkpoint, t->name,
                        got, want, e->config);
    }
    if (t->dtype > DEQ_F64)
        return deq_fail(e->err, DEQ_EFORMAT, "%s: entry %s: dtype %s, expected a floating-point one", e->checkpoint,
                        t->name, deq_dtype_name(t->dtype));
    use(e, t);
    *ret = t;
    return DEQ_OK;
}

enum deq_rc deq_entries_read(struct deq_entries *e, const char *name, struct deq_entry_shape shape, float *out)
{
    const struct deq_checkpoint_tensor *t = NULL;
    const enum deq_rc rc = deq_entries_find(e, name, shape, &t);
    return rc ? rc : deq_checkpoint_read(e->file, t, 0, t->count, out, e->err);
}

enum deq_rc deq_entries_piece(struct deq_entries *e, const struct deq_checkpoint_tensor *t, uint64_t first, size_t n,
                              float *out)
{
    return deq_checkpoint_read(e->file, t, first, n, out, e->err);
}

enum deq_rc deq_entries_fold(struct deq_entries *e, const char *v, const char *g, struct deq_entry_shape shape,
                             float *out)
{
    float *scale = e->scratch;
    size_t cols = 1;
    for (unsigned i = 1; i < shape.n; i++)
        cols *= shape.d[i];
    enum deq_rc rc = deq_entries_read(e, v, shape, out);
    if (!rc && !e->weight_norm.no_scale)
        rc = deq_entries_read(e, g, DEQ_SHAPE1(shape.d[0]), scale);
    for (size_t r = 0; r < shape.d[0] && !rc; r++) {
        double sum = 0;
        for (size_t k = 0; k < cols; k++)
            sum += (double)out[r * cols + k] * (double)out[r * cols + k];
        double factor = (e->weight_norm.no_scale ? e->weight_norm.target_norm : (double)scale[r]) / sqrt(sum);
        if (e->weight_norm.clip && factor > e->weight_norm.clip_value)
            factor = e->weight_norm.clip_value;
        if (!isfinite(factor) || sum <= 0)
            return deq_fail(e->err, DEQ_EFORMAT, "%s: entry %s%s: row %zu is zero, its weight norm has no direction",
                            e->checkpoint, e->prefix, v, r);
        for (size_t k = 0; k < cols; k++)
            out[r * cols + k] = (float)(factor * (double)out[r * cols + k]);
    }
    return rc;
}

enum deq_rc deq_entries_matrix(struct deq_entries *e, const char *name, size_t rows, size_t cols, float *out)
{
    char v[2 * DEQ_ENTRY_NAME], g[2 * DEQ_ENTRY_NAME];
    snprintf(v, sizeof v, "%s.weight_v", name);
    snprintf(g, sizeof g, "%s.weight_g", name);
    if (deq_entries_has(e, v))
        return deq_entries_fold(e, v, g, DEQ_SHAPE2(rows, cols), out);
    snprintf(v, sizeof v, "%s.weight", name);
    return deq_entries_read(e, v, DEQ_SHAPE2(rows, cols), out);
}

/* Of the same number of elements, which `count` is. */
static enum deq_rc same_numbers(struct deq_entries *e, const struct deq_checkpoint_tensor *x,
                                const struct deq_checkpoint_tensor *y, bool *ret)
{
    enum deq_rc rc = DEQ_OK;
    float *a = e->piece, *b = e->piece + DEQ_ENTRY_PIECE;
    *ret = true;
    if (deq_checkpoint_shared(e->file, x, y))
        return DEQ_OK;
    for (uint64_t i = 0; i < x->count && !rc && *ret; i += DEQ_ENTRY_PIECE) {
        const size_t n = (size_t)DEQ_MIN(x->count - i, (uint64_t)DEQ_ENTRY_PIECE);
        rc = deq_checkpoint_read(e->file, x, i, n, a, e->err);
        if (!rc)
            rc = deq_checkpoint_read(e->file, y, i, n, b, e->err);
        *ret = !rc && !memcmp(a, b, n * sizeof *a);
    }
    return rc;
}

enum deq_rc deq_entries_same(struct deq_entries *e, const char *x, const char *y, struct deq_entry_shape shape,
                             bool *ret)
{
    const struct deq_checkpoint_tensor *a, *b;
    enum deq_rc rc = deq_entries_find(e, x, shape, &a);
    if (!rc)
        rc = deq_entries_find(e, y, shape, &b);
    return rc ? rc : same_numbers(e, a, b, ret);
}

/* --- What is left --- */

enum deq_rc deq_entries_pass(struct deq_entries *e, const char *name, struct deq_entry_shape shape)
{
    const struct deq_checkpoint_tensor *t;
    return find(e, name) ? deq_entries_find(e, name, shape, &t) : DEQ_OK;
}

static bool same_shape(const struct deq_checkpoint_tensor *x, const struct deq_checkpoint_tensor *y)
{
    return x->n_dims == y->n_dims && !memcmp(x->shape, y->shape, x->n_dims * sizeof *x->shape);
}

enum deq_rc deq_entries_pass_repeats(struct deq_entries *e, const char *again, const char *first)
{
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; i < deq_checkpoint_count(e->file) && !rc; i++) {
        const struct deq_checkpoint_tensor *t = deq_checkpoint_at(e->file, i);
        const char *name = own_name(e, i);
        char other[FULL_NAME];
        if (!name || strncmp(name, again, strlen(again)))
            continue;
        snprintf(other, sizeof other, "%s%s", first, name + strlen(again));
        const struct deq_checkpoint_tensor *twin = find(e, other);
        if (!twin)
            continue; /* left over, then */
        bool same = false;
        if (same_shape(t, twin))
            rc = same_numbers(e, t, twin, &same);
        if (!rc && !same)
            rc = deq_fail(e->err, DEQ_EFORMAT, "%s: entry %s: differs from %s, the same layer's", e->checkpoint,
                          t->name, twin->name);
        if (!rc)
            use(e, t);
    }
    return rc;
}

enum deq_rc deq_entries_none_left(struct deq_entries *e)
{
    size_t elsewhere = 0;
    for (size_t i = 0; i < deq_checkpoint_count(e->file); i++) {
        if (e->used[i])
            continue;
        if (own_name(e, i))
            return deq_fail(e->err, DEQ_EFORMAT, "%s: entry %s: not part of model_type %s with the arguments of %s",
                            e->checkpoint, deq_checkpoint_at(e->file, i)->name, e->model, e->config);
        elsewhere++;
    }
    if (elsewhere)
        deq_entries_note(e, "ignored: %zu tensors outside \"%s\"", elsewhere, e->prefix);
    const size_t n = deq_checkpoint_ignored_count(e->file);
    for (size_t i = 0; i < n && i < IGNORED_TOLD; i++) {
        const struct deq_torchfile_ignored *g = deq_checkpoint_ignored_at(e->file, i);
        deq_entries_note(e, "ignored: %s (%s)", g->name, g->what);
    }
    if (n > IGNORED_TOLD)
        deq_entries_note(e, "ignored: %zu more entries that are no tensors of numbers", n - IGNORED_TOLD);
    return DEQ_OK;
}
