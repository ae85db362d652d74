#define _GNU_SOURCE
#include "core/data/safetensors.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/math/half.h"

struct deq_safetensors {
    char *path;
    void *map; /* NULL for parsed memory */
    size_t map_len;
    json_t *header; /* names and metadata strings live here */
    struct deq_tensor *tensors; /* in the order of their data */
    size_t n;
};

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {[DEQ_F32] = {"F32", 4}, [DEQ_F16] = {"F16", 2}, [DEQ_BF16] = {"BF16", 2}, [DEQ_F64] = {"F64", 8},
              [DEQ_I64] = {"I64", 8}, [DEQ_I32] = {"I32", 4}, [DEQ_I8] = {"I8", 1},     [DEQ_U8] = {"U8", 1}};

size_t deq_dtype_bytes(enum deq_dtype t)
{
    return dtypes[t].bytes;
}

const char *deq_dtype_name(enum deq_dtype t)
{
    return dtypes[t].name;
}

static bool uint_of(const json_t *v, uint64_t *ret)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *ret = (uint64_t)json_integer_value(v);
    return true;
}

static enum deq_rc parse_entry(const char *path, const char *name, const json_t *v, uint64_t data_len, const char *data,
                               struct deq_tensor *t, struct deq_err *err)
{
    if (!json_is_object(v) || json_object_size(v) != 3)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: expected an object with dtype, shape, data_offsets", path, name);
    const char *dtype = json_string_value(json_object_get(v, "dtype"));
    const json_t *shape = json_object_get(v, "shape"), *off = json_object_get(v, "data_offsets");
    size_t d = 0;
    while (dtype && d < DEQ_COUNT(dtypes) && strcmp(dtype, dtypes[d].name))
        d++;
    if (!dtype || d == DEQ_COUNT(dtypes))
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: dtype %s is not one of F32 F16 BF16 F64 I64 I32 I8 U8", path, name,
                        dtype ? dtype : "(missing)");
    if (!json_is_array(shape) || json_array_size(shape) > DEQ_ST_DIMS_MAX)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: shape must be an array of at most %d sizes", path, name, DEQ_ST_DIMS_MAX);
    uint64_t count = 1, begin, end, bytes;
    t->n_dims = (unsigned)json_array_size(shape);
    for (unsigned i = 0; i < t->n_dims; i++)
        if (!uint_of(json_array_get(shape, i), &t->shape[i]) || __builtin_mul_overflow(count, t->shape[i], &count))
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: shape[%u] is not a size, or the product is too large", path, name, i);
    if (!json_is_array(off) || json_array_size(off) != 2 || !uint_of(json_array_get(off, 0), &begin) ||
        !uint_of(json_array_get(off, 1), &end))
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: data_offsets must be two integers", path, name);
    if (begin > end || end > data_len)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: data_offsets [%llu, %llu] are outside the %llu bytes of data", path, name,
                        (unsigned long long)begin, (unsigned long long)end, (unsigned long long)data_len);
    if (__builtin_mul_overflow(count, dtypes[d].bytes, &bytes) || bytes != end - begin)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: shape times %s is not its %llu bytes", path, name, dtype,
                        (unsigned long long)(end - begin));
    t->name = name;
    t->dtype = (enum deq_dtype)d;
    t->count = count;
    t->data = data + begin;
    t->bytes = bytes;
    return DEQ_OK;
}

static int by_data(const void *a, const void *b)
{
    const struct deq_tensor *x = a, *y = b;
    if (x->data != y->data)
        return (const char *)x->data < (const char *)y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty tensors before the one that starts there */
}

enum deq_rc deq_safetensors_parse(const void *bytes, size_t len, const char *path, struct deq_safetensors **ret_file, struct deq_err *err)
{
    const unsigned char *p = bytes;
    uint64_t n = 0;
    if (len < 8)
        return deq_fail(err, DEQ_EFORMAT, "%s: %zu bytes are too few for a safetensors file", path, len);
    for (int i = 7; i >= 0; i--)
        n = n << 8 | p[i];
    if (n > DEQ_ST_HEADER_MAX || n > len - 8)
        return deq_fail(err, DEQ_EFORMAT, "%s: header length %llu is more than the file or the limit of %d bytes", path,
                        (unsigned long long)n, DEQ_ST_HEADER_MAX);
    if (!n || p[8] != '{')
        return deq_fail(err, DEQ_EFORMAT, "%s: the header does not start with '{'", path);

    enum deq_rc rc = DEQ_OK;
    struct deq_safetensors *f = DEQ_NEW(struct deq_safetensors);
    json_error_t je;
    const char *data = (const char *)p + 8 + n, *key;
    json_t *v;
    if (!f || !(f->path = deq_strdup(path))) {
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory", path);
        goto out;
    }
    f->header = json_loadb((const char *)p + 8, n, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(f->header)) {
        rc = deq_fail(err, DEQ_EFORMAT, "%s: the header is not JSON: %s", path, f->header ? "not an object" : je.text);
        goto out;
    }
    if (json_object_size(f->header) > DEQ_ST_TENSORS_MAX) {
        rc = deq_fail(err, DEQ_EFORMAT, "%s: more than %d tensors", path, DEQ_ST_TENSORS_MAX);
        goto out;
    }
    f->tensors = DEQ_NEW_ARRAY(struct deq_tensor, json_object_size(f->header) + 1);
    if (!f->tensors) {
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory", path);
        goto out;
    }
    json_object_foreach(f->header, key, v) {
        if (!strcmp(key, "__metadata__")) {
            const char *mk;
            json_t *mv;
            if (!json_is_object(v)) {
                rc = deq_fail(err, DEQ_EFORMAT, "%s: __metadata__ is not an object", path);
                goto out;
            }
            json_object_foreach(v, mk, mv) {
                if (!json_is_string(mv)) {
                    rc = deq_fail(err, DEQ_EFORMAT, "%s: __metadata__.%s is not a string", path, mk);
                    goto out;
                }
            }
            continue;
        }
        if (strlen(key) > DEQ_ST_NAME_MAX) {
            rc = deq_fail(err, DEQ_EFORMAT, "%s: a tensor's name is longer than %d bytes", path, DEQ_ST_NAME_MAX);
            goto out;
        }
        rc = parse_entry(path, key, v, len - 8 - n, data, &f->tensors[f->n], err);
        if (rc)
            goto out;
        f->n++;
    }
    qsort(f->tensors, f->n, sizeof *f->tensors, by_data);
    const char *at = data;
    for (size_t i = 0; i < f->n; i++) {
        const struct deq_tensor *t = &f->tensors[i];
        if ((const char *)t->data != at) {
            rc = deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: its data %s", path, t->name,
                          (const char *)t->data < at ? "overlap another tensor's" : "leave a hole before them");
            goto out;
        }
        at += t->bytes;
    }
    if (at != (const char *)bytes + len) {
        rc = deq_fail(err, DEQ_EFORMAT, "%s: %zu bytes follow the last tensor", path, (size_t)((const char *)bytes + len - at));
        goto out;
    }
    *ret_file = f;
    f = NULL;
out:
    deq_safetensors_close(f);
    return rc;
}

enum deq_rc deq_safetensors_open(const char *path, struct deq_safetensors **ret_file, struct deq_err *err)
{
    void *map;
    size_t len;
    enum deq_rc rc = deq_io_map(path, 8, &map, &len, err);
    if (rc)
        return rc;
    rc = deq_safetensors_parse(map, len, path, ret_file, err);
    if (rc) {
        deq_io_unmap(map, len);
        return rc;
    }
    (*ret_file)->map = map;
    (*ret_file)->map_len = len;
    return DEQ_OK;
}

void deq_safetensors_close(struct deq_safetensors *f)
{
    if (!f)
        return;
    deq_io_unmap(f->map, f->map_len);
    json_decref(f->header);
    deq_free(f->tensors);
    deq_free(f->path);
    deq_free(f);
}

size_t deq_safetensors_count(const struct deq_safetensors *f)
{
    return f->n;
}

const struct deq_tensor *deq_safetensors_at(const struct deq_safetensors *f, size_t i)
{
    return &f->tensors[i];
}

const struct deq_tensor *deq_safetensors_find(const struct deq_safetensors *f, const char *name)
{
    for (size_t i = 0; i < f->n; i++)
        if (!strcmp(f->tensors[i].name, name))
            return &f->tensors[i];
    return NULL;
}

const char *deq_safetensors_meta(const struct deq_safetensors *f, const char *key)
{
    return json_string_value(json_object_get(json_object_get(f->header, "__metadata__"), key));
}

/* The first element that is not finite, or n. Almost always there is none: that is asked first, without a branch a number. */
static uint64_t first_not_finite(const float *x, uint64_t n)
{
    uint32_t all_ones = 0, bits;
    for (uint64_t i = 0; i < n; i++) {
        memcpy(&bits, &x[i], 4);
        all_ones |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    uint64_t i = all_ones ? 0 : n;
    while (i < n && isfinite(x[i]))
        i++;
    return i;
}

enum deq_rc deq_tensor_to_f32(const struct deq_safetensors *f, const struct deq_tensor *t, float *out, struct deq_err *err)
{
    const unsigned char *p = t->data;
    uint16_t h;
    double d;
    switch (t->dtype) {
    case DEQ_F32:
        memcpy(out, p, t->count * sizeof *out);
        break;
    case DEQ_BF16:
        for (uint64_t i = 0; i < t->count; i++) {
            memcpy(&h, p + 2 * i, 2);
            out[i] = deq_bf16_to_f32(h);
        }
        break;
    case DEQ_F16:
        for (uint64_t i = 0; i < t->count; i++) {
            memcpy(&h, p + 2 * i, 2);
            out[i] = deq_f16_to_f32(h);
        }
        break;
    case DEQ_F64:
        for (uint64_t i = 0; i < t->count; i++) {
            memcpy(&d, p + 8 * i, 8);
            out[i] = (float)d;
        }
        break;
    default:
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: dtype %s, expected a floating-point one", f->path, t->name, deq_dtype_name(t->dtype));
    }
    const uint64_t bad = first_not_finite(out, t->count);
    return bad == t->count ? DEQ_OK
                           : deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: element %llu is not finite", f->path, t->name, (unsigned long long)bad);
}

enum deq_rc deq_safetensors_write(const char *path, const struct deq_tensor_out *tensors, size_t n, const char *const *meta,
                                  struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    struct deq_buf head;
    char *text = NULL;
    deq_buf_init(&head, DEQ_ST_HEADER_MAX);
    json_t *root = json_object(), *m = json_object();
    struct deq_part *parts = DEQ_NEW_ARRAY(struct deq_part, n + 1);
    uint64_t at = 0;
    if (!root || !m || !parts) {
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to write it", path);
        goto out;
    }
    for (; meta && meta[0]; meta += 2)
        json_object_set_new(m, meta[0], json_string(meta[1]));
    if (json_object_size(m))
        json_object_set(root, "__metadata__", m);
    for (size_t i = 0; i < n; i++) {
        const struct deq_tensor_out *t = &tensors[i];
        json_t *shape = json_array();
        uint64_t bytes = deq_dtype_bytes(t->dtype);
        for (unsigned d = 0; d < t->n_dims; d++) {
            json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
            bytes *= t->shape[d];
        }
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", deq_dtype_name(t->dtype), "shape", shape, "data_offsets",
                                  (json_int_t)at, (json_int_t)(at + bytes));
        if (!entry || json_object_set_new(root, t->name, entry) < 0) {
            rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory for its header", path);
            goto out;
        }
        parts[i + 1] = (struct deq_part){t->data, bytes};
        at += bytes;
    }
    text = json_dumps(root, JSON_COMPACT);
    if (!text) {
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory for its header", path);
        goto out;
    }
    size_t len = DEQ_ROUND_UP(strlen(text), 8); /* spaces pad the header so that data are aligned to 8 bytes */
    unsigned char size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (unsigned char)((uint64_t)len >> (8 * i));
    deq_buf_add(&head, size, 8);
    deq_buf_str(&head, text);
    while (!head.failed && head.len < len + 8)
        deq_buf_str(&head, " ");
    if (head.failed) {
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory for its header", path);
        goto out;
    }
    parts[0] = (struct deq_part){head.data, head.len};
    rc = deq_io_replace(path, parts, n + 1, err);
out:
    free(text); /* jansson's */
    deq_buf_free(&head);
    json_decref(root);
    json_decref(m);
    deq_free(parts);
    return rc;
}
