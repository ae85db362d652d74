#include "core/engine/saved.h"

#include <math.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/mem.h"

enum { CHUNK = 1 << 16, SUM_BYTES = sizeof(struct deq_hash), MORE_TENSORS = 2, TENSORS = 8 };

/* --- The checksum --- */

struct sum {
    struct deq_hash h;
    size_t n;
    char chunk[CHUNK];
};

static struct sum *sum_new(void)
{
    struct sum *s = DEQ_NEW(struct sum);
    if (s)
        s->h = (struct deq_hash){{0x6465712e73746174u, 0x652e707265666978u}};
    return s;
}

static void sum_chunk(struct sum *s)
{
    s->h = deq_siphash(&s->h, s->chunk, s->n);
    s->n = 0;
}

static void sum_add(struct sum *s, const void *data, size_t len)
{
    for (const char *p = data; len;) {
        const size_t n = DEQ_MIN(len, CHUNK - s->n);
        memcpy(s->chunk + s->n, p, n);
        s->n += n;
        p += n;
        len -= n;
        if (s->n == CHUNK)
            sum_chunk(s);
    }
}

static struct deq_hash sum_end(struct sum *s)
{
    if (s->n)
        sum_chunk(s);
    return s->h;
}

/* --- Writing --- */

struct writing {
    const struct deq_saved_content *c;
    struct deq_buf head;
    struct sum *sum;
    struct deq_hash end;
};

/* Header, tensors and pages, checksum, in the order of the file. */
static struct deq_part part_of(void *ctx, size_t i)
{
    struct writing *w = ctx;
    const struct deq_saved_content *c = w->c;
    const size_t pages_at = c->pages_first ? 1 : 1 + c->n, tensors_at = c->pages_first ? 1 + c->n_pages : 1;
    struct deq_part p;
    if (!i) {
        p = (struct deq_part){w->head.data, w->head.len};
    } else if (i - pages_at < c->n_pages) {
        p = (struct deq_part){c->page(c->ctx, i - pages_at), c->page_bytes};
    } else if (i - tensors_at < c->n) {
        const struct deq_tensor_out *t = &c->tensors[i - tensors_at];
        p = (struct deq_part){t->data, deq_dtype_bytes(t->dtype)};
        for (unsigned d = 0; d < t->n_dims; d++)
            p.len *= t->shape[d];
    } else {
        w->end = sum_end(w->sum);
        return (struct deq_part){&w->end, SUM_BYTES};
    }
    if (p.data)
        sum_add(w->sum, p.data, p.len);
    return p;
}

static bool make_head(struct writing *w)
{
    const struct deq_saved_content *c = w->c;
    const struct deq_saved_of *of = c->of;
    const char *const meta[] = {"format", of->format, "version", "1", "model_type", of->model_type, "numeric_class",
                                of->numeric_class, "fingerprint", of->fingerprint, "configuration", of->configuration,
                                NULL};
    struct deq_tensor_out all[TENSORS];
    memcpy(all + c->pages_first, c->tensors, c->n * sizeof *all);
    all[c->pages_first ? 0 : c->n] = (struct deq_tensor_out){"pages", DEQ_U8, 2, {c->n_pages, c->page_bytes}, NULL};
    all[c->n + 1] = (struct deq_tensor_out){"checksum", DEQ_U8, 1, {SUM_BYTES}, NULL};
    deq_buf_init(&w->head, DEQ_SAVED_HEAD_MAX);
    return deq_safetensors_header(all, c->n + MORE_TENSORS, meta, &w->head);
}

enum deq_rc deq_saved_write(const struct deq_saved_content *c, const char *path, struct deq_buf *out,
                            struct deq_err *err)
{
    struct writing w = {.c = c, .sum = sum_new()};
    const struct deq_parts parts = {1 + c->n + c->n_pages + 1, part_of, &w};
    enum deq_rc rc = w.sum && make_head(&w) ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory to write a state");
    if (!rc && path)
        rc = deq_io_replace_private(path, &parts, err);
    for (size_t i = 0; !rc && !path && i < parts.n; i++) {
        const struct deq_part p = part_of(&w, i);
        const void *bytes = p.data;
        if (!deq_buf_add(out, bytes, p.len))
            rc = deq_fail(err, DEQ_ENOMEM, "no memory for the bytes of a state");
    }
    deq_buf_free(&w.head);
    deq_free(w.sum);
    return rc;
}

/* --- Reading --- */

/* Says what the file is of, where that is something else than it should be. */
static enum deq_rc check_meta(const struct deq_safetensors *f, const struct deq_saved_of *of, const char *path,
                              struct deq_err *err)
{
    const struct {
        const char *key, *want, *what;
    } all[] = {{"format", of->format, "kind of file"},
               {"version", "1", "version"},
               {"model_type", of->model_type, "kind of model"},
               {"numeric_class", of->numeric_class, "numeric class"},
               {"fingerprint", of->fingerprint, "model"},
               {"configuration", of->configuration, "configuration of the model"}};
    for (size_t i = 0; i < DEQ_COUNT(all); i++) {
        const char *got = deq_safetensors_meta(f, all[i].key);
        if (!got || strcmp(got, all[i].want))
            return deq_fail(err, DEQ_EFORMAT, "%s: of another %s: its %s is %.40s, here it is %s", path, all[i].what,
                            all[i].key, got ? got : "missing", all[i].want);
    }
    return DEQ_OK;
}

static enum deq_rc check_sum(const struct deq_safetensors *f, const char *path, struct deq_err *err)
{
    const uint64_t end = deq_safetensors_bytes(f) - SUM_BYTES; /* the last tensor is as long */
    const struct deq_tensor *last = deq_safetensors_at(f, deq_safetensors_count(f) - 1);
    struct deq_hash want;
    if (strcmp(last->name, "checksum") || last->bytes != SUM_BYTES)
        return deq_fail(err, DEQ_EFORMAT, "%s: does not end with a checksum", path);
    struct sum *s = sum_new();
    if (!s)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", path);
    enum deq_rc rc = DEQ_OK;
    for (uint64_t at = 0; !rc && at < end; at += CHUNK) {
        s->n = (size_t)DEQ_MIN((uint64_t)CHUNK, end - at);
        rc = deq_safetensors_raw(f, at, s->n, s->chunk, err);
        if (!rc)
            sum_chunk(s);
    }
    if (!rc)
        rc = deq_safetensors_raw(f, end, SUM_BYTES, &want, err);
    if (!rc && !deq_hash_equal(&s->h, &want))
        rc = deq_fail(err, DEQ_EFORMAT, "%s: damaged: its bytes are not those that its checksum is of", path);
    deq_free(s);
    return rc;
}

enum deq_rc deq_saved_open(const struct deq_saved_of *of, const void *bytes, uint64_t max_bytes, const char *path,
                           struct deq_safetensors **ret, struct deq_err *err)
{
    struct deq_safetensors *f = NULL;
    struct deq_file file;
    enum deq_rc rc = DEQ_OK;
    if (!bytes) { /* before anything is read */
        rc = deq_file_open(path, &file, err);
        if (rc)
            return rc;
        if (file.bytes > max_bytes)
            rc = deq_fail(err, DEQ_EFORMAT, "%s: %llu bytes, the limit is %llu", path, (unsigned long long)file.bytes,
                          (unsigned long long)max_bytes);
        deq_file_close(&file);
    }
    if (!rc)
        rc = bytes ? deq_safetensors_parse(bytes, (size_t)max_bytes, path, &f, err)
                   : deq_safetensors_open(path, &f, err);
    if (!rc)
        rc = check_meta(f, of, path, err);
    if (!rc && deq_safetensors_count(f) < MORE_TENSORS)
        rc = deq_fail(err, DEQ_EFORMAT, "%s: has no tensors", path);
    if (!rc)
        rc = check_sum(f, path, err);
    if (rc)
        deq_safetensors_close(f);
    else
        *ret = f;
    return rc;
}

enum deq_rc deq_saved_tensor(const struct deq_safetensors *f, const char *path, const char *name, enum deq_dtype dtype,
                             unsigned n_dims, const uint64_t *shape, const struct deq_tensor **ret,
                             struct deq_err *err)
{
    char want[64], got[64];
    const struct deq_tensor *t = deq_safetensors_find(f, name);
    if (!t)
        return deq_fail(err, DEQ_EFORMAT, "%s: has no tensor %s", path, name);
    bool same = t->dtype == dtype && t->n_dims == n_dims;
    for (unsigned d = 0; same && d < n_dims; d++)
        same = !shape[d] || shape[d] == t->shape[d];
    deq_shape_text(n_dims, shape, want, sizeof want);
    deq_shape_text(t->n_dims, t->shape, got, sizeof got);
    if (!same)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: %s %s, expected %s %s", path, name, deq_dtype_name(t->dtype),
                        got, deq_dtype_name(dtype), want);
    *ret = t;
    return DEQ_OK;
}

bool deq_saved_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}
