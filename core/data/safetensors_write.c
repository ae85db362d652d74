/* Writing safetensors: whole, replacing a file, or into a new one in pieces. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/data/safetensors.h"

static uint64_t bytes_of(const struct deq_tensor_out *t)
{
    uint64_t bytes = deq_dtype_bytes(t->dtype);
    for (unsigned d = 0; d < t->n_dims; d++)
        bytes *= t->shape[d];
    return bytes;
}

/* False: no memory */
static bool add_entry(json_t *root, const struct deq_tensor_out *t, uint64_t at)
{
    json_t *shape = json_array();
    for (unsigned d = 0; d < t->n_dims; d++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", deq_dtype_name(t->dtype), "shape", shape,
                              "data_offsets", (json_int_t)at, (json_int_t)(at + bytes_of(t)));
    return entry && !json_object_set_new(root, t->name, entry);
}

bool deq_safetensors_header(const struct deq_tensor_out *tensors, size_t n, const char *const *meta,
                            struct deq_buf *head)
{
    json_t *root = json_object(), *m = json_object();
    bool ok = root && m;
    uint64_t at = 0;
    for (; meta && meta[0]; meta += 2)
        json_object_set_new(m, meta[0], json_string(meta[1]));
    if (json_object_size(m))
        json_object_set(root, "__metadata__", m);
    for (size_t i = 0; i < n && ok; at += bytes_of(&tensors[i]), i++)
        ok = add_entry(root, &tensors[i], at);
    char *text = deq_json_text(ok ? root : NULL, JSON_COMPACT);
    json_decref(root);
    json_decref(m);
    if (!text)
        return false;
    const size_t len = DEQ_ROUND_UP(strlen(text), 8); /* spaces pad it so that data are aligned to 8 bytes */
    unsigned char size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (unsigned char)((uint64_t)len >> (8 * i));
    deq_buf_add(head, size, 8);
    deq_buf_str(head, text);
    free(text); /* jansson's */
    while (!head->failed && head->len < len + 8)
        deq_buf_str(head, " ");
    return !head->failed;
}

enum deq_rc deq_safetensors_write(const char *path, const struct deq_tensor_out *tensors, size_t n,
                                  const char *const *meta, struct deq_err *err)
{
    struct deq_buf head;
    deq_buf_init(&head, DEQ_ST_HEADER_MAX);
    struct deq_part *parts = DEQ_NEW_ARRAY(struct deq_part, n + 1);
    enum deq_rc rc = parts && deq_safetensors_header(tensors, n, meta, &head)
                         ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "%s: no memory for its header", path);
    if (!rc) {
        parts[0] = (struct deq_part){head.data, head.len};
        for (size_t i = 0; i < n; i++)
            parts[i + 1] = (struct deq_part){tensors[i].data, bytes_of(&tensors[i])};
        rc = deq_io_replace(path, parts, n + 1, err);
    }
    deq_buf_free(&head);
    deq_free(parts);
    return rc;
}

/* --- In pieces --- */

struct deq_safetensors_new {
    struct deq_new_file file;
    size_t n;
    struct place {
        uint64_t at, bytes, written;
        size_t size; /* bytes of an element */
    } *place;        /* [n] */
};

enum deq_rc deq_safetensors_create(const char *path, const struct deq_tensor_out *tensors, size_t n,
                                   const char *const *meta, struct deq_safetensors_new **ret, struct deq_err *err)
{
    struct deq_buf head;
    deq_buf_init(&head, DEQ_ST_HEADER_MAX);
    struct deq_safetensors_new *f = DEQ_NEW(struct deq_safetensors_new);
    struct place *place = DEQ_NEW_ARRAY(struct place, n + 1);
    enum deq_rc rc = f && place && deq_safetensors_header(tensors, n, meta, &head)
                         ? deq_new_file_begin(path, &f->file, err)
                         : deq_fail(err, DEQ_ENOMEM, "%s: no memory for its header", path);
    if (!rc) {
        uint64_t at = head.len;
        f->n = n;
        f->place = place;
        for (size_t i = 0; i < n; at += place[i++].bytes)
            place[i] = (struct place){at, bytes_of(&tensors[i]), 0, deq_dtype_bytes(tensors[i].dtype)};
        rc = deq_new_file_write(&f->file, 0, head.data, head.len, err);
        if (rc)
            (void)deq_new_file_end(&f->file, rc, err);
    }
    deq_buf_free(&head);
    if (rc) {
        deq_free(f);
        deq_free(place);
    } else {
        *ret = f;
    }
    return rc;
}

enum deq_rc deq_safetensors_put(struct deq_safetensors_new *f, size_t i, uint64_t first, size_t n, const void *data,
                                struct deq_err *err)
{
    struct place *p = &f->place[i];
    const uint64_t begin = first * p->size, bytes = n * p->size;
    if (begin > p->bytes || bytes > p->bytes - begin)
        return deq_fail(err, DEQ_EINVAL, "%s: tensor number %zu: past its end", f->file.path, i);
    p->written += bytes;
    return deq_new_file_write(&f->file, p->at + begin, data, bytes, err);
}

enum deq_rc deq_safetensors_finish(struct deq_safetensors_new *f, enum deq_rc rc, struct deq_err *err)
{
    for (size_t i = 0; i < f->n && !rc; i++)
        if (f->place[i].written != f->place[i].bytes)
            rc = deq_fail(err, DEQ_EINVAL, "%s: tensor number %zu: %llu of %llu bytes were given", f->file.path, i,
                          (unsigned long long)f->place[i].written, (unsigned long long)f->place[i].bytes);
    rc = deq_new_file_end(&f->file, rc, err);
    deq_free(f->place);
    deq_free(f);
    return rc;
}
