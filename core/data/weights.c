#include "core/data/weights.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/math/half.h"

/* --- The table: one walk, made twice; the first counts --- */

void deq_weights_put(struct deq_weights *w, const struct deq_put *put, const char *name, ...)
{
    size_t count;
    if (!deq_mul_size(put->rows ? put->rows : 1, put->cols, &count) || count > ((size_t)1 << 40)) {
        w->overflow = true;
        return;
    }
    const bool held = !w->packed || !(put->packed || put->turned);
    if (w->params) {
        struct deq_param *p = &w->params[w->n_params];
        *p = (struct deq_param){.role = put->role, .parts = DEQ_MAX(put->parts, 1u), .rows = put->rows,
                                .cols = put->cols, .offset = w->n, .count = count, .slot = put->slot,
                                .packed = put->packed, .turned = put->turned};
        va_list ap;
        va_start(ap, name);
        vsnprintf(p->name, sizeof p->name, name, ap);
        va_end(ap);
        *put->slot = held && w->data ? w->data + w->n : NULL;
    }
    w->n_params++;
    w->parameters += count;
    w->share[w->putting] += put->role == DEQ_ROLE_FIXED ? 0 : count;
    w->n += held ? DEQ_ROUND_UP(count, (size_t)16) : 0; /* every tensor starts at a cache line */
}

void deq_weights_put_rounded(struct deq_weights *w, struct deq_packed *rounded)
{
    if (w->params)
        w->params[w->n_params - 1].rounded = rounded;
}

static void walk(struct deq_weights *w)
{
    w->n = w->n_params = w->parameters = 0;
    memset(w->share, 0, sizeof w->share);
    w->putting = DEQ_SHARE_CELL;
    w->n_main = SIZE_MAX;
    w->walk(w);
    w->n_main = DEQ_MIN(w->n_main, w->n);
}

enum deq_rc deq_weights_build(struct deq_weights *w, bool packed, struct deq_err *err)
{
    w->packed = packed;
    walk(w);
    if (w->overflow)
        return deq_fail(err, DEQ_EFORMAT, "the configured shapes are too large");
    float *data = w->bare ? NULL : DEQ_NEW_ARRAY(float, w->n);
    struct deq_param *params = DEQ_NEW_ARRAY(struct deq_param, w->n_params);
    if ((!data && !w->bare) || !params) {
        deq_free(data);
        deq_free(params);
        return deq_fail(err, DEQ_ENOMEM, "no memory for %zu parameters", w->n);
    }
    w->data = data;
    w->params = params;
    walk(w);
    return DEQ_OK;
}

void deq_weights_free(struct deq_weights *w)
{
    if (!w)
        return;
    for (size_t i = 0; w->packed && i < w->n_params && w->params; i++) {
        if (w->params[i].packed)
            deq_packed_free(w->params[i].packed);
        if (w->params[i].turned)
            deq_packed_free(w->params[i].turned);
        if (w->params[i].rounded)
            deq_packed_free(w->params[i].rounded);
    }
    deq_free(w->data);
    deq_free(w->params);
    deq_free(w);
}

/* --- Files --- */

enum deq_rc deq_weights_check(const struct deq_weights *w, const struct deq_safetensors *f, const char *path,
                              bool *ret_bf16, struct deq_err *err)
{
    bool all_bf16 = true;
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        const struct deq_tensor *t = deq_safetensors_find(f, p->name);
        const uint64_t shape[2] = {p->rows ? p->rows : p->cols, p->cols};
        const unsigned n_dims = p->rows ? 2 : 1;
        char want[64], got[DEQ_ST_DIMS_MAX * 24];
        deq_shape_text(n_dims, shape, want, sizeof want);
        if (!t)
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: missing, expected shape %s", path, p->name, want);
        if (t->n_dims != n_dims || memcmp(t->shape, shape, n_dims * sizeof *shape)) {
            deq_shape_text(t->n_dims, t->shape, got, sizeof got);
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: has shape %s, expected %s (config.json)", path, p->name,
                            got, want);
        }
        const enum deq_rc rc = deq_tensor_is_float(f, t, err);
        if (rc)
            return rc;
        all_bf16 = all_bf16 && (t->dtype == DEQ_BF16 || p->role == DEQ_ROLE_FIXED);
    }
    for (size_t i = 0; i < deq_safetensors_count(f); i++) {
        const char *name = deq_safetensors_at(f, i)->name;
        bool known = false;
        for (size_t j = 0; j < w->n_params && !known; j++)
            known = !strcmp(name, w->params[j].name);
        if (!known)
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: not part of a model with this config.json", path, name);
    }
    if (ret_bf16)
        *ret_bf16 = all_bf16;
    return DEQ_OK;
}

enum deq_rc deq_weights_read(struct deq_weights *w, const struct deq_safetensors *f, struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; !rc && i < w->n_params; i++)
        rc = deq_tensor_to_f32(f, deq_safetensors_find(f, w->params[i].name), w->data + w->params[i].offset, err);
    return rc;
}

/* [n_params] as a file has them; the caller's, deq_free. NULL: no memory */
static struct deq_tensor_out *describe(const struct deq_weights *w, bool bf16)
{
    struct deq_tensor_out *out = DEQ_NEW_ARRAY(struct deq_tensor_out, w->n_params);
    for (size_t i = 0; out && i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        out[i] = (struct deq_tensor_out){.name = p->name,
                                         .dtype = bf16 && p->role != DEQ_ROLE_FIXED ? DEQ_BF16 : DEQ_F32,
                                         .n_dims = p->rows ? 2 : 1,
                                         .shape = {p->rows ? p->rows : p->cols, p->cols}};
    }
    return out;
}

enum deq_rc deq_weights_save(const char *path, const struct deq_weights *w, bool bf16, struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    struct deq_tensor_out *out = describe(w, bf16);
    uint16_t *half = bf16 ? DEQ_NEW_ARRAY(uint16_t, w->n) : NULL;
    const char *const meta[] = {"format", w->format, NULL};
    if (!out || (bf16 && !half))
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to write it", path);
    for (size_t i = 0; !rc && bf16 && i < w->n; i++)
        half[i] = deq_f32_to_bf16(w->data[i]);
    for (size_t i = 0; !rc && i < w->n_params; i++)
        out[i].data = out[i].dtype == DEQ_BF16 ? (const void *)(half + w->params[i].offset)
                                               : (const void *)(w->data + w->params[i].offset);
    if (!rc)
        rc = deq_safetensors_write(path, out, w->n_params, meta, err);
    deq_free(half);
    deq_free(out);
    return rc;
}

struct deq_weights_file {
    const struct deq_weights *table;
    struct deq_safetensors_new *file;
    bool bf16;
};

enum deq_rc deq_weights_create(const char *path, const struct deq_weights *table, bool bf16,
                               struct deq_weights_file **ret, struct deq_err *err)
{
    const char *const meta[] = {"format", table->format, NULL};
    struct deq_weights_file *f = DEQ_NEW(struct deq_weights_file);
    struct deq_tensor_out *out = describe(table, bf16);
    enum deq_rc rc = f && out ? deq_safetensors_create(path, out, table->n_params, meta, &f->file, err)
                              : deq_fail(err, DEQ_ENOMEM, "%s: no memory to write it", path);
    deq_free(out);
    if (rc) {
        deq_free(f);
        return rc;
    }
    f->table = table;
    f->bf16 = bf16;
    *ret = f;
    return DEQ_OK;
}

const struct deq_param *deq_weights_param(const struct deq_weights *w, float *const *slot)
{
    for (size_t i = 0; i < w->n_params; i++)
        if (w->params[i].slot == slot)
            return &w->params[i];
    return NULL;
}

enum deq_rc deq_weights_file_put(struct deq_weights_file *f, const struct deq_param *p, size_t first, size_t n,
                                 const float *x, struct deq_err *err)
{
    enum { PIECE = 4096 };
    uint16_t half[PIECE];
    const size_t number = (size_t)(p - f->table->params);
    if (!f->bf16 || p->role == DEQ_ROLE_FIXED)
        return deq_safetensors_put(f->file, number, first, n, x, err);
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0, k; i < n && !rc; i += k) {
        k = DEQ_MIN(n - i, (size_t)PIECE);
        for (size_t j = 0; j < k; j++)
            half[j] = deq_f32_to_bf16(x[i + j]);
        rc = deq_safetensors_put(f->file, number, first + i, k, half, err);
    }
    return rc;
}

enum deq_rc deq_weights_file_finish(struct deq_weights_file *f, enum deq_rc rc, struct deq_err *err)
{
    rc = deq_safetensors_finish(f->file, rc, err);
    deq_free(f);
    return rc;
}

/* --- The packed form --- */

static enum deq_rc pack_transposed(const struct deq_param *p, const float *x, enum deq_format f, struct deq_err *err)
{
    float *y = DEQ_NEW_ARRAY(float, p->count);
    if (!y)
        return deq_fail(err, DEQ_ENOMEM, "no memory to pack tensor %s", p->name);
    for (size_t i = 0; i < p->rows; i++)
        for (size_t j = 0; j < p->cols; j++)
            y[j * p->rows + i] = x[i * p->cols + j];
    enum deq_rc rc = deq_pack(y, p->cols, p->rows, f, p->turned, err);
    deq_free(y);
    return rc;
}

/* FNV-1a's step on whole words */
static uint64_t mix(uint64_t h, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], 4);
        h = (h ^ bits) * 0x100000001b3u;
        h ^= h >> 29;
    }
    return h;
}

static enum deq_rc take(struct deq_weights *w, const struct deq_param *p, const float *x, struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    const enum deq_format f = deq_format_of(w->numeric, p->role, w->bf16);
    w->fingerprint = mix(w->fingerprint, x, p->count);
    if (!p->packed && !p->turned)
        memcpy(*p->slot, x, p->count * sizeof(float));
    if (p->packed)
        rc = deq_pack(x, p->rows, p->cols, f, p->packed, err);
    if (!rc && p->turned)
        rc = pack_transposed(p, x, f, err);
    if (!rc && p->rounded && deq_pack(x, p->rows, p->cols, DEQ_FORMAT_I8, p->rounded, err) == DEQ_ENOMEM)
        rc = DEQ_ENOMEM;
    if (rc == DEQ_EFORMAT) {
        char where[DEQ_PARAM_NAME + 16];
        snprintf(where, sizeof where, "tensor %s", p->name);
        return deq_fail_prefix(err, rc, where);
    }
    return rc;
}

static void begin_packing(struct deq_weights *w, bool bf16)
{
    w->bf16 = bf16;
    w->bytes = deq_weights_held_bytes(w, bf16);
    w->fingerprint = 0xcbf29ce484222325u ^ (uint64_t)w->numeric; /* another class is another model */
}

enum deq_rc deq_weights_pack(struct deq_weights *w, const struct deq_weights *from, bool bf16, struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    begin_packing(w, bf16);
    for (size_t i = 0; i < w->n_params && !rc; i++)
        rc = take(w, &w->params[i], from->data + from->params[i].offset, err);
    return rc;
}

/* Numbers of the largest tensor: the scratch of loading. */
static size_t largest(const struct deq_weights *w)
{
    size_t n = 0;
    for (size_t i = 0; i < w->n_params; i++)
        n = DEQ_MAX(n, w->params[i].count);
    return n;
}

enum deq_rc deq_weights_pack_file(struct deq_weights *w, const struct deq_safetensors *file, bool bf16,
                                  const struct deq_stop *stop, struct deq_err *err)
{
    float *x = DEQ_NEW_ARRAY(float, largest(w));
    enum deq_rc rc = x ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory to read the weights");
    begin_packing(w, bf16);
    for (size_t i = 0; i < w->n_params && !rc; i++) {
        rc = stop->asked && stop->asked(stop->ctx)
                 ? deq_fail(err, DEQ_ECANCELED, "loading was given up")
                 : deq_tensor_to_f32(file, deq_safetensors_find(file, w->params[i].name), x, err);
        if (!rc)
            rc = take(w, &w->params[i], x, err);
    }
    deq_free(x);
    return rc;
}

uint64_t deq_weights_held_bytes(const struct deq_weights *w, bool bf16)
{
    uint64_t bytes = w->n * sizeof(float);
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        const enum deq_format f = deq_format_of(w->numeric, p->role, bf16);
        const struct deq_packed as_is = {.n = p->rows, .k = p->cols, .format = f},
                                turned = {.n = p->cols, .k = p->rows, .format = f},
                                rounded = {.n = p->rows, .k = p->cols, .format = DEQ_FORMAT_I8};
        bytes += (p->packed ? deq_packed_bytes(&as_is) : 0) + (p->turned ? deq_packed_bytes(&turned) : 0) +
                 (p->rounded ? deq_packed_bytes(&rounded) : 0);
    }
    return bytes;
}

uint64_t deq_weights_load_bytes(const struct deq_weights *w)
{
    return largest(w) * sizeof(float);
}
