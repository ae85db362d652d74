#include "core/import/checkpoint_files.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/json_fields.h"
#include "core/base/mem.h"
#include "core/base/text.h"

enum { INDEX_MAX_BYTES = 16 << 20, PATH = 4096, NAME = 256 };

struct part {
    char path[PATH];
    struct deq_torchfile *torch;        /* one of the two */
    struct deq_safetensors *safetensors;
};

struct deq_checkpoint {
    char path[PATH];
    struct part *part; /* [n_parts] */
    size_t n_parts;
    struct deq_checkpoint_tensor *tensors; /* [n] in the files' order */
    const struct deq_checkpoint_tensor **by_name; /* [n] sorted */
    size_t n;
    const struct deq_torchfile_ignored **ignored; /* [n_ignored] */
    size_t n_ignored;
    json_t *index;
};

/* --- Which files --- */

/* In the order in which transformers looks for them; then the looped models' own. */
static const char *const usual[] = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                                    "pytorch_model.bin.index.json", "model.pt", "model.bin"};

static bool ends_with(const char *s, const char *tail)
{
    const size_t n = strlen(s), k = strlen(tail);
    return n >= k && !strcmp(s + n - k, tail);
}

/* The state dict that training code leaves beside its config.json under a name of its own, for the message: the first
 * in the order of names, "" where there is none. */
static void find_state_dict(const char *dir, char out[NAME])
{
    out[0] = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if ((ends_with(e->d_name, ".pth") || ends_with(e->d_name, ".pt")) && (!out[0] || strcmp(e->d_name, out) < 0))
            snprintf(out, NAME, "%s", e->d_name);
    if (d)
        closedir(d);
}

static enum deq_rc find_file(const char *path, char out[PATH], struct deq_err *err)
{
    if (!deq_io_is_dir(path)) {
        const int n = snprintf(out, PATH, "%s", path);
        return n >= 0 && n < PATH ? DEQ_OK : deq_fail(err, DEQ_EINVAL, "%.100s...: path too long", path);
    }
    for (size_t i = 0; i < DEQ_COUNT(usual); i++) {
        if (!deq_io_join(out, PATH, path, usual[i]))
            return deq_fail(err, DEQ_EINVAL, "%.100s...: path too long", path);
        if (deq_io_exists(out))
            return DEQ_OK;
    }
    char other[NAME];
    find_state_dict(path, other);
    return deq_fail(err, DEQ_ENOTFOUND,
                    "%s: no weights there, expected model.safetensors, with or without "
                    "model.safetensors.index.json and its shards, pytorch_model.bin or model.pt%s%s%s",
                    path, other[0] ? "; there is " : "", other, other[0] ? ": name that file, and --config FILE" : "");
}

/* A header's first byte follows its eight bytes of length. */
static enum deq_rc is_safetensors(const char *path, bool *ret, struct deq_err *err)
{
    struct deq_file f;
    char begin[9] = {0};
    enum deq_rc rc = deq_file_open(path, &f, err);
    if (rc)
        return rc;
    rc = deq_file_read(&f, 0, begin, (size_t)DEQ_MIN(f.bytes, sizeof begin), "", err);
    deq_file_close(&f);
    *ret = begin[8] == '{';
    return rc;
}

static enum deq_rc open_part(struct part *p, struct deq_err *err)
{
    bool safe = false;
    const enum deq_rc rc = is_safetensors(p->path, &safe, err);
    if (rc)
        return rc;
    return safe ? deq_safetensors_open(p->path, &p->safetensors, err) : deq_torchfile_open(p->path, &p->torch, err);
}

/* --- Shards --- */

static enum deq_rc read_index(struct deq_checkpoint *c, json_t **ret_map, struct deq_err *err)
{
    char *text;
    size_t len;
    enum deq_rc rc = deq_text_read(c->path, INDEX_MAX_BYTES, &text, &len, err);
    if (rc)
        return rc;
    rc = deq_fields_parse(text, len, c->path, &c->index, err);
    deq_free(text);
    if (rc)
        return rc;
    *ret_map = json_object_get(c->index, "weight_map");
    if (!json_is_object(*ret_map) || !json_object_size(*ret_map))
        return deq_fail(err, DEQ_EFORMAT, "%s: weight_map: expected an object of a tensor's name: its file", c->path);
    return DEQ_OK;
}

/* The number of the part of that file, which is opened when it is met first. */
static enum deq_rc part_of(struct deq_checkpoint *c, const char *tensor, const json_t *v, size_t *ret,
                           struct deq_err *err)
{
    const char *file = json_string_value(v), *slash = strrchr(c->path, '/');
    const int dir = slash ? (int)(slash + 1 - c->path) : 0;
    if (!file || !*file || strchr(file, '/'))
        return deq_fail(err, DEQ_EFORMAT, "%s: weight_map.%s: expected the name of a file beside it", c->path, tensor);
    for (size_t i = 0; i < c->n_parts; i++)
        if (!strcmp(c->part[i].path + dir, file)) {
            *ret = i;
            return DEQ_OK;
        }
    if (c->n_parts == DEQ_CHECKPOINT_PARTS_MAX)
        return deq_fail(err, DEQ_EFORMAT, "%s: more than %d files", c->path, DEQ_CHECKPOINT_PARTS_MAX);
    struct part *p = &c->part[c->n_parts];
    const int n = snprintf(p->path, sizeof p->path, "%.*s%s", dir, c->path, file);
    if (n < 0 || (size_t)n >= sizeof p->path)
        return deq_fail(err, DEQ_EINVAL, "%s: weight_map.%s: path too long", c->path, tensor);
    *ret = c->n_parts++;
    if (!deq_io_exists(p->path))
        return deq_fail(err, DEQ_ENOTFOUND, "%s: missing, though %s says that it holds %s", p->path, c->path, tensor);
    return open_part(p, err);
}

static enum deq_rc open_shards(struct deq_checkpoint *c, struct deq_err *err)
{
    json_t *map = NULL, *v;
    const char *name;
    enum deq_rc rc = read_index(c, &map, err);
    if (rc)
        return rc;
    json_object_foreach(map, name, v) {
        size_t i = 0;
        if ((rc = part_of(c, name, v, &i, err)))
            return rc;
        const struct part *p = &c->part[i];
        if (p->torch ? !deq_torchfile_find(p->torch, name) : !deq_safetensors_find(p->safetensors, name))
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: missing, though %s says that it is there", p->path, name,
                            c->path);
    }
    return DEQ_OK;
}

/* --- One name space --- */

static struct deq_checkpoint_tensor of_torch(const struct deq_torchfile_tensor *t)
{
    struct deq_checkpoint_tensor r = {.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims, .count = t->count,
                                      .in_part = t};
    memcpy(r.shape, t->shape, t->n_dims * sizeof *t->shape);
    return r;
}

static struct deq_checkpoint_tensor of_safetensors(const struct deq_tensor *t)
{
    struct deq_checkpoint_tensor r = {.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims, .count = t->count,
                                      .in_part = t};
    memcpy(r.shape, t->shape, t->n_dims * sizeof *t->shape);
    return r;
}

static size_t tensors_of(const struct part *p)
{
    return p->torch ? deq_torchfile_count(p->torch) : deq_safetensors_count(p->safetensors);
}

static int by_name(const void *a, const void *b)
{
    const struct deq_checkpoint_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static enum deq_rc list(struct deq_checkpoint *c, struct deq_err *err)
{
    size_t n = 0, n_ignored = 0;
    for (size_t i = 0; i < c->n_parts; i++) {
        n += tensors_of(&c->part[i]);
        n_ignored += c->part[i].torch ? deq_torchfile_ignored_count(c->part[i].torch) : 0;
    }
    c->tensors = DEQ_NEW_ARRAY(struct deq_checkpoint_tensor, n + 1);
    c->ignored = DEQ_NEW_ARRAY(const struct deq_torchfile_ignored *, n_ignored + 1);
    c->by_name = DEQ_NEW_ARRAY(const struct deq_checkpoint_tensor *, n + 1);
    if (!c->tensors || !c->by_name || !c->ignored)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", c->path);
    for (size_t i = 0; i < c->n_parts; i++) {
        const struct part *p = &c->part[i];
        for (size_t j = 0; j < tensors_of(p); j++) {
            struct deq_checkpoint_tensor *t = &c->tensors[c->n++];
            *t = p->torch ? of_torch(deq_torchfile_at(p->torch, j))
                          : of_safetensors(deq_safetensors_at(p->safetensors, j));
            t->part = (unsigned)i;
            t->file = p->path;
            if (c->index && !json_object_get(json_object_get(c->index, "weight_map"), t->name))
                return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: not in the weight_map of %s", p->path, t->name,
                                c->path);
        }
        for (size_t j = 0; p->torch && j < deq_torchfile_ignored_count(p->torch); j++)
            c->ignored[c->n_ignored++] = deq_torchfile_ignored_at(p->torch, j);
    }
    for (size_t i = 0; i < c->n; i++)
        c->by_name[i] = &c->tensors[i];
    qsort(c->by_name, c->n, sizeof *c->by_name, by_name);
    for (size_t i = 1; i < c->n; i++)
        if (!by_name(&c->by_name[i - 1], &c->by_name[i]))
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: %s has it too", c->by_name[i]->file, c->by_name[i]->name,
                            c->by_name[i - 1]->file);
    return DEQ_OK;
}

enum deq_rc deq_checkpoint_open(const char *path, struct deq_checkpoint **ret, struct deq_err *err)
{
    struct deq_checkpoint *c = DEQ_NEW(struct deq_checkpoint);
    enum deq_rc rc = c ? find_file(path, c->path, err) : deq_fail(err, DEQ_ENOMEM, "%s: no memory", path);
    const bool index = !rc && ends_with(c->path, ".json");
    if (!rc && !(c->part = DEQ_NEW_ARRAY(struct part, index ? DEQ_CHECKPOINT_PARTS_MAX : 1)))
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory", path);
    if (!rc && index) {
        rc = open_shards(c, err);
    } else if (!rc) {
        c->n_parts = 1;
        memcpy(c->part->path, c->path, sizeof c->path);
        rc = open_part(c->part, err);
    }
    if (!rc)
        rc = list(c, err);
    if (rc)
        deq_checkpoint_close(c);
    else
        *ret = c;
    return rc;
}

void deq_checkpoint_close(struct deq_checkpoint *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_parts; i++) {
        deq_torchfile_close(c->part[i].torch);
        deq_safetensors_close(c->part[i].safetensors);
    }
    json_decref(c->index);
    deq_free(c->part);
    deq_free(c->tensors);
    deq_free(c->by_name);
    deq_free(c->ignored);
    deq_free(c);
}

const char *deq_checkpoint_path(const struct deq_checkpoint *c)
{
    return c->path;
}

size_t deq_checkpoint_count(const struct deq_checkpoint *c)
{
    return c->n;
}

const struct deq_checkpoint_tensor *deq_checkpoint_at(const struct deq_checkpoint *c, size_t i)
{
    return &c->tensors[i];
}

const struct deq_checkpoint_tensor *deq_checkpoint_find(const struct deq_checkpoint *c, const char *name)
{
    const struct deq_checkpoint_tensor key = {.name = name}, *at = &key;
    const struct deq_checkpoint_tensor *const *t = bsearch(&at, c->by_name, c->n, sizeof *c->by_name, by_name);
    return t ? *t : NULL;
}

size_t deq_checkpoint_ignored_count(const struct deq_checkpoint *c)
{
    return c->n_ignored;
}

const struct deq_torchfile_ignored *deq_checkpoint_ignored_at(const struct deq_checkpoint *c, size_t i)
{
    return c->ignored[i];
}

/* --- Numbers --- */

bool deq_checkpoint_shared(const struct deq_checkpoint *c, const struct deq_checkpoint_tensor *x,
                           const struct deq_checkpoint_tensor *y)
{
    if (x->part != y->part || !c->part[x->part].torch)
        return false;
    const struct deq_torchfile_tensor *a = x->in_part, *b = y->in_part;
    return a->storage == b->storage && a->offset == b->offset && a->dtype == b->dtype && a->n_dims == b->n_dims &&
           !memcmp(a->shape, b->shape, a->n_dims * sizeof *a->shape) &&
           !memcmp(a->stride, b->stride, a->n_dims * sizeof *a->stride);
}

enum deq_rc deq_checkpoint_read(struct deq_checkpoint *c, const struct deq_checkpoint_tensor *t, uint64_t first,
                                size_t n, float *out, struct deq_err *err)
{
    const struct part *p = &c->part[t->part];
    return p->torch ? deq_torchfile_read(p->torch, t->in_part, first, n, out, err)
                    : deq_tensor_piece_to_f32(p->safetensors, t->in_part, first, n, out, err);
}
