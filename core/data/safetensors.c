#define _GNU_SOURCE
#include "core/data/safetensors.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/math/half.h"

struct deq_safetensors {
    char *path;
    const char *bytes;    /* the caller's, or NULL: `file` is read */
    struct deq_file file;
    json_t *header; /* names and metadata strings live here */
    struct deq_tensor *tensors; /* in the order of their data */
    const struct deq_tensor **by_name; /* [n] sorted */
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

void deq_shape_text(unsigned n, const uint64_t *shape, char *out, size_t cap)
{
    size_t at = (size_t)snprintf(out, cap, "[");
    for (unsigned i = 0; i < n && at < cap; i++)
        at += (size_t)snprintf(out + at, cap - at, "%s%llu", i ? ", " : "", (unsigned long long)shape[i]);
    if (at < cap)
        snprintf(out + at, cap - at, "]");
}

static bool uint_of(const json_t *v, uint64_t *ret)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *ret = (uint64_t)json_integer_value(v);
    return true;
}

/* The data begin at byte data_at of the file and are data_len long. */
static enum deq_rc parse_entry(const char *path, const char *name, const json_t *v, uint64_t data_at, uint64_t data_len,
                               struct deq_tensor *t, struct deq_err *err)
{
    if (!json_is_object(v) || json_object_size(v) != 3)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: expected an object with dtype, shape, data_offsets", path,
                        name);
    const char *dtype = json_string_value(json_object_get(v, "dtype"));
    const json_t *shape = json_object_get(v, "shape"), *off = json_object_get(v, "data_offsets");
    size_t d = 0;
    while (dtype && d < DEQ_COUNT(dtypes) && strcmp(dtype, dtypes[d].name))
        d++;
    if (!dtype || d == DEQ_COUNT(dtypes))
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: dtype %s is not one of F32 F16 BF16 F64 I64 I32 I8 U8", path,
                        name, dtype ? dtype : "(missing)");
    if (!json_is_array(shape) || json_array_size(shape) > DEQ_ST_DIMS_MAX)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: shape must be an array of at most %d sizes", path, name,
                        DEQ_ST_DIMS_MAX);
    uint64_t count = 1, begin, end, bytes;
    t->n_dims = (unsigned)json_array_size(shape);
    for (unsigned i = 0; i < t->n_dims; i++)
        if (!uint_of(json_array_get(shape, i), &t->shape[i]) || __builtin_mul_overflow(count, t->shape[i], &count))
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: shape[%u] is not a size, or the product is too large",
                            path, name, i);
    if (!json_is_array(off) || json_array_size(off) != 2 || !uint_of(json_array_get(off, 0), &begin) ||
        !uint_of(json_array_get(off, 1), &end))
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: data_offsets must be two integers", path, name);
    if (begin > end || end > data_len)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: data_offsets [%llu, %llu] are outside the %llu bytes of data",
                        path, name, (unsigned long long)begin, (unsigned long long)end, (unsigned long long)data_len);
    if (__builtin_mul_overflow(count, dtypes[d].bytes, &bytes) || bytes != end - begin)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: shape times %s is not its %llu bytes", path, name, dtype,
                        (unsigned long long)(end - begin));
    t->name = name;
    t->dtype = (enum deq_dtype)d;
    t->count = count;
    t->offset = data_at + begin;
    t->bytes = bytes;
    return DEQ_OK;
}

static int by_data(const void *a, const void *b)
{
    const struct deq_tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty tensors before the one that starts there */
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const struct deq_tensor *const *)a)->name, (*(const struct deq_tensor *const *)b)->name);
}

static int name_of(const void *name, const void *b)
{
    return strcmp(name, (*(const struct deq_tensor *const *)b)->name);
}

static enum deq_rc check_metadata(const char *path, json_t *meta, struct deq_err *err)
{
    const char *key;
    json_t *v;
    if (!json_is_object(meta))
        return deq_fail(err, DEQ_EFORMAT, "%s: __metadata__ is not an object", path);
    json_object_foreach(meta, key, v) {
        if (!json_is_string(v))
            return deq_fail(err, DEQ_EFORMAT, "%s: __metadata__.%s is not a string", path, key);
    }
    return DEQ_OK;
}

/* Every byte from `at` to the end belongs to one tensor. */
static enum deq_rc check_tiling(const struct deq_safetensors *f, uint64_t at, uint64_t end, struct deq_err *err)
{
    for (size_t i = 0; i < f->n; i++) {
        const struct deq_tensor *t = &f->tensors[i];
        if (t->offset != at)
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: its data %s", f->path, t->name,
                            t->offset < at ? "overlap another tensor's" : "leave a hole before them");
        at += t->bytes;
    }
    return at == end ? DEQ_OK
                     : deq_fail(err, DEQ_EFORMAT, "%s: %llu bytes follow the last tensor", f->path,
                                (unsigned long long)(end - at));
}

/* The header's n bytes of a file of len. */
static enum deq_rc parse_header(struct deq_safetensors *f, const char *text, size_t n, uint64_t len,
                                struct deq_err *err)
{
    json_error_t je;
    const char *key;
    json_t *v;
    if (deq_json_parse(text, n, JSON_REJECT_DUPLICATES, &f->header, &je) == DEQ_ENOMEM)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory for the header", f->path);
    if (!json_is_object(f->header))
        return deq_fail(err, DEQ_EFORMAT, "%s: the header is not JSON: %s", f->path,
                        f->header ? "not an object" : je.text);
    if (json_object_size(f->header) > DEQ_ST_TENSORS_MAX)
        return deq_fail(err, DEQ_EFORMAT, "%s: more than %d tensors", f->path, DEQ_ST_TENSORS_MAX);
    f->tensors = DEQ_NEW_ARRAY(struct deq_tensor, json_object_size(f->header) + 1);
    f->by_name = DEQ_NEW_ARRAY(const struct deq_tensor *, json_object_size(f->header) + 1);
    if (!f->tensors || !f->by_name)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory", f->path);
    json_object_foreach(f->header, key, v) {
        enum deq_rc rc;
        if (!strcmp(key, "__metadata__"))
            rc = check_metadata(f->path, v, err);
        else if (strlen(key) > DEQ_ST_NAME_MAX)
            rc = deq_fail(err, DEQ_EFORMAT, "%s: a tensor's name is longer than %d bytes", f->path, DEQ_ST_NAME_MAX);
        else
            rc = parse_entry(f->path, key, v, 8 + n, len - 8 - n, &f->tensors[f->n++], err);
        if (rc)
            return rc;
    }
    qsort(f->tensors, f->n, sizeof *f->tensors, by_data);
    for (size_t i = 0; i < f->n; i++)
        f->by_name[i] = &f->tensors[i];
    qsort(f->by_name, f->n, sizeof *f->by_name, by_name);
    return check_tiling(f, 8 + n, len, err);
}

static enum deq_rc read_bytes(const struct deq_safetensors *f, uint64_t at, void *out, size_t n, const char *what,
                              struct deq_err *err)
{
    if (!f->bytes)
        return deq_file_read(&f->file, at, out, n, what, err);
    memcpy(out, f->bytes + at, n);
    return DEQ_OK;
}

/* Everything before the data, of a file of len bytes. */
static enum deq_rc read_header(struct deq_safetensors *f, uint64_t len, struct deq_err *err)
{
    unsigned char size[9] = {0};
    uint64_t n = 0;
    if (len < 8)
        return deq_fail(err, DEQ_EFORMAT, "%s: %llu bytes are too few for a safetensors file", f->path,
                        (unsigned long long)len);
    enum deq_rc rc = read_bytes(f, 0, size, (size_t)DEQ_MIN(len, sizeof size), "header", err);
    if (rc)
        return rc;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | size[i];
    if (len > 8 && size[8] != '{')
        return deq_fail(err, DEQ_EFORMAT, "%s: not a safetensors file: its header does not start with '{'", f->path);
    if (n > DEQ_ST_HEADER_MAX || n > len - 8)
        return deq_fail(err, DEQ_EFORMAT, "%s: header length %llu is more than the file or the limit of %d bytes",
                        f->path, (unsigned long long)n, DEQ_ST_HEADER_MAX);
    if (!n)
        return deq_fail(err, DEQ_EFORMAT, "%s: the header is empty", f->path);
    char *text = deq_alloc((size_t)n);
    if (!text)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory", f->path);
    rc = read_bytes(f, 8, text, (size_t)n, "header", err);
    if (!rc)
        rc = parse_header(f, text, (size_t)n, len, err);
    deq_free(text);
    return rc;
}

/* bytes NULL: the file called path is opened. */
static enum deq_rc open_source(const char *bytes, uint64_t len, const char *path, struct deq_safetensors **ret_file,
                               struct deq_err *err)
{
    struct deq_safetensors *f = DEQ_NEW(struct deq_safetensors);
    if (!f || !(f->path = deq_strdup(path))) {
        deq_free(f);
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory", path);
    }
    f->bytes = bytes;
    f->file = (struct deq_file){.fd = -1, .bytes = len};
    enum deq_rc rc = bytes ? DEQ_OK : deq_file_open(f->path, &f->file, err);
    if (!rc)
        rc = read_header(f, f->file.bytes, err);
    if (rc)
        deq_safetensors_close(f);
    else
        *ret_file = f;
    return rc;
}

enum deq_rc deq_safetensors_parse(const void *bytes, size_t len, const char *path, struct deq_safetensors **ret_file,
                                  struct deq_err *err)
{
    return open_source(bytes, len, path, ret_file, err);
}

enum deq_rc deq_safetensors_open(const char *path, struct deq_safetensors **ret_file, struct deq_err *err)
{
    return open_source(NULL, 0, path, ret_file, err);
}

void deq_safetensors_close(struct deq_safetensors *f)
{
    if (!f)
        return;
    if (f->file.fd >= 0)
        deq_file_close(&f->file);
    json_decref(f->header);
    deq_free(f->tensors);
    deq_free(f->by_name);
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
    const struct deq_tensor *const *t = bsearch(name, f->by_name, f->n, sizeof *f->by_name, name_of);
    return t ? *t : NULL;
}

uint64_t deq_safetensors_bytes(const struct deq_safetensors *f)
{
    return f->file.bytes;
}

enum deq_rc deq_safetensors_raw(const struct deq_safetensors *f, uint64_t at, size_t n, void *out, struct deq_err *err)
{
    return read_bytes(f, at, out, n, "", err);
}

const char *deq_safetensors_meta(const struct deq_safetensors *f, const char *key)
{
    return json_string_value(json_object_get(json_object_get(f->header, "__metadata__"), key));
}

/* The first element that is not finite, or n. Almost always there is none: that is asked first,
 * without a branch a number. */
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

enum deq_rc deq_tensor_read(const struct deq_safetensors *f, const struct deq_tensor *t, uint64_t first, size_t n,
                            void *out, struct deq_err *err)
{
    const size_t size = deq_dtype_bytes(t->dtype);
    char what[DEQ_ST_NAME_MAX + 16];
    snprintf(what, sizeof what, "tensor %s", t->name);
    return read_bytes(f, t->offset + first * size, out, n * size, what, err);
}

static void widen(enum deq_dtype dtype, const unsigned char *p, size_t n, float *out)
{
    uint16_t h;
    double d;
    for (size_t i = 0; i < n; i++) {
        if (dtype == DEQ_F64) {
            memcpy(&d, p + 8 * i, 8);
            out[i] = (float)d;
        } else {
            memcpy(&h, p + 2 * i, 2);
            out[i] = dtype == DEQ_BF16 ? deq_bf16_to_f32(h) : deq_f16_to_f32(h);
        }
    }
}

enum deq_rc deq_tensor_is_float(const struct deq_safetensors *f, const struct deq_tensor *t, struct deq_err *err)
{
    if (t->dtype == DEQ_F32 || t->dtype == DEQ_F16 || t->dtype == DEQ_BF16 || t->dtype == DEQ_F64)
        return DEQ_OK;
    return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: dtype %s, expected a floating-point one", f->path, t->name,
                    deq_dtype_name(t->dtype));
}

enum deq_rc deq_tensor_piece_to_f32(const struct deq_safetensors *f, const struct deq_tensor *t, uint64_t first,
                                    size_t n, float *out, struct deq_err *err)
{
    enum { PIECE = 4096 }; /* elements: small enough for the stack, large enough that reading is all it costs */
    unsigned char piece[PIECE * sizeof(double)];
    enum deq_rc rc = deq_tensor_is_float(f, t, err);
    if (!rc && t->dtype == DEQ_F32)
        rc = deq_tensor_read(f, t, first, n, out, err);
    for (size_t i = 0, k; !rc && t->dtype != DEQ_F32 && i < n; i += k) {
        k = DEQ_MIN((size_t)PIECE, n - i);
        rc = deq_tensor_read(f, t, first + i, k, piece, err);
        if (!rc)
            widen(t->dtype, piece, k, out + i);
    }
    const uint64_t bad = rc ? n : first_not_finite(out, n);
    if (bad < n)
        rc = deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: element %llu is not finite", f->path, t->name,
                      (unsigned long long)(first + bad));
    return rc;
}

enum deq_rc deq_tensor_to_f32(const struct deq_safetensors *f, const struct deq_tensor *t, float *out,
                              struct deq_err *err)
{
    return deq_tensor_piece_to_f32(f, t, 0, t->count, out, err);
}
