#include "core/data/torch_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/data/pickle.h"

enum { NOT_FLOAT = -1 };

/* Element types: a storage's class in the pickle, or a dtype beside an untyped storage. */
enum element { E_F32, E_F64, E_F16, E_BF16, E_I64, E_I32, E_I16, E_I8,
               E_U8, E_BOOL, E_C64, E_C128, E_U16, E_U32, E_U64, E_F8 };

static const struct {
    unsigned bytes;
    int dtype; /* enum deq_dtype, or NOT_FLOAT: such tensors are ignored */
    const char *what;
} elements[] = {
    [E_F32] = {4, DEQ_F32, "float32 tensor"},
    [E_F64] = {8, DEQ_F64, "float64 tensor"},
    [E_F16] = {2, DEQ_F16, "float16 tensor"},
    [E_BF16] = {2, DEQ_BF16, "bfloat16 tensor"},
    [E_I64] = {8, NOT_FLOAT, "int64 tensor"},
    [E_I32] = {4, NOT_FLOAT, "int32 tensor"},
    [E_I16] = {2, NOT_FLOAT, "int16 tensor"},
    [E_I8] = {1, NOT_FLOAT, "int8 tensor"},
    [E_U8] = {1, NOT_FLOAT, "uint8 tensor"},
    [E_BOOL] = {1, NOT_FLOAT, "bool tensor"},
    [E_C64] = {8, NOT_FLOAT, "complex64 tensor"},
    [E_C128] = {16, NOT_FLOAT, "complex128 tensor"},
    [E_U16] = {2, NOT_FLOAT, "uint16 tensor"},
    [E_U32] = {4, NOT_FLOAT, "uint32 tensor"},
    [E_U64] = {8, NOT_FLOAT, "uint64 tensor"},
    [E_F8] = {1, NOT_FLOAT, "float8 tensor"},
};

enum { /* tags of globals; the last two plus an enum element */
    TAG_MAPPING,
    TAG_TENSOR_V2,
    TAG_TENSOR_V3,
    TAG_PARAMETER,
    TAG_OTHER,
    TAG_UNTYPED,
    TAG_STORAGE = 100,
    TAG_DTYPE = 200,
};

static const struct deq_pickle_global allowed[] = {
    {"collections", "OrderedDict", DEQ_PICKLE_MAPPING, TAG_MAPPING},
    {"torch._utils", "_rebuild_tensor_v2", DEQ_PICKLE_FUNCTION, TAG_TENSOR_V2},
    {"torch._utils", "_rebuild_tensor_v3", DEQ_PICKLE_FUNCTION, TAG_TENSOR_V3},
    {"torch._utils", "_rebuild_parameter", DEQ_PICKLE_FUNCTION, TAG_PARAMETER},
    {"torch._utils", "_rebuild_parameter_with_state", DEQ_PICKLE_FUNCTION, TAG_PARAMETER},
    {"torch", "Size", DEQ_PICKLE_FUNCTION, TAG_OTHER},
    {"torch", "device", DEQ_PICKLE_FUNCTION, TAG_OTHER},
    {"torch.storage", "UntypedStorage", DEQ_PICKLE_CONSTANT, TAG_UNTYPED},
    {"torch", "FloatStorage", DEQ_PICKLE_CONSTANT, TAG_STORAGE + E_F32},
    {"torch", "DoubleStorage", DEQ_PICKLE_CONSTANT, TAG_STORAGE + E_F64},
    {"torch", "HalfStorage", DEQ_PICKLE_CONSTANT, TAG_STORAGE + E_F16},
    {"torch", "BFloat16Storage", DEQ_PICKLE_CONSTANT, TAG_STORAGE + E_BF16},
    {"torch", "LongStorage", DEQ_PICKLE_CONSTANT, TAG_STORAGE + E_I64},
    {"torch", "IntStorage", DEQ_PICKLE_CONSTANT, TAG_STORAGE + E_I32},
    {"torch", "ShortStorage", DEQ_PICKLE_CONSTANT, TAG_STORAGE + E_I16},
    {"torch", "CharStorage", DEQ_PICKLE_CONSTANT, TAG_STORAGE + E_I8},
    {"torch", "ByteStorage", DEQ_PICKLE_CONSTANT, TAG_STORAGE + E_U8},
    {"torch", "BoolStorage", DEQ_PICKLE_CONSTANT, TAG_STORAGE + E_BOOL},
    {"torch", "ComplexFloatStorage", DEQ_PICKLE_CONSTANT, TAG_STORAGE + E_C64},
    {"torch", "ComplexDoubleStorage", DEQ_PICKLE_CONSTANT, TAG_STORAGE + E_C128},
    {"torch", "float32", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_F32},
    {"torch", "float64", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_F64},
    {"torch", "float16", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_F16},
    {"torch", "bfloat16", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_BF16},
    {"torch", "int64", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_I64},
    {"torch", "int32", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_I32},
    {"torch", "int16", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_I16},
    {"torch", "int8", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_I8},
    {"torch", "uint8", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_U8},
    {"torch", "bool", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_BOOL},
    {"torch", "complex64", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_C64},
    {"torch", "complex128", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_C128},
    {"torch", "uint16", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_U16},
    {"torch", "uint32", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_U32},
    {"torch", "uint64", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_U64},
    {"torch", "float8_e4m3fn", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_F8},
    {"torch", "float8_e5m2", DEQ_PICKLE_CONSTANT, TAG_DTYPE + E_F8},
};

enum seen { NOT_SEEN, INSIDE, NAMED, PLAIN };

struct walk {
    const struct deq_pickle *p;
    const char *name; /* of the pickle */
    deq_torch_find_fn *find;
    void *ctx;
    struct deq_torch_state *out;
    unsigned char *seen; /* enum seen of every value that is a container */
    char path[DEQ_TORCH_NAME_MAX + 1];
    struct deq_err *err;
};

#define REFUSE(w, fmt, ...)                                          \
    deq_fail((w)->err, DEQ_EFORMAT, "%s: entry %s: " fmt, (w)->name, \
             *(w)->path ? (w)->path : "(whole file)", ##__VA_ARGS__)

static enum deq_rc no_memory(struct walk *w)
{
    return deq_fail(w->err, DEQ_ENOMEM, "%s: no memory", w->name);
}

/* --- views --- */

static bool is_kind(const struct deq_pickle *p, uint32_t value, enum deq_pickle_kind kind,
                    const struct deq_pickle_value **ret)
{
    *ret = deq_pickle_at(p, value);
    return (*ret)->kind == kind;
}

static bool size_of(const struct deq_pickle *p, uint32_t value, uint64_t *ret)
{
    const struct deq_pickle_value *v;
    if (!is_kind(p, value, DEQ_PICKLE_INT, &v) || v->integer < 0)
        return false;
    *ret = (uint64_t)v->integer;
    return true;
}

/* The persistent id ("storage", class, key, device, elements) must name a storage of just that size. */
static enum deq_rc storage(struct walk *w, uint32_t value, int *ret_tag, uint64_t *ret_storage, uint64_t *ret_bytes)
{
    const struct deq_pickle *p = w->p;
    const struct deq_pickle_value *v, *id, *word, *class, *key;
    uint64_t count, bytes, claimed;
    if (!is_kind(p, value, DEQ_PICKLE_PERSISTENT, &v))
        return REFUSE(w, "a tensor without a storage");
    if (!is_kind(p, v->id, DEQ_PICKLE_TUPLE, &id) || id->items.n != 5)
        return REFUSE(w, "its persistent id is not a tuple of five");
    const uint32_t *item = deq_pickle_tuple(p, id);
    if (!is_kind(p, item[0], DEQ_PICKLE_STRING, &word) || word->text.len != 7 ||
        memcmp(deq_pickle_text(p, word), "storage", 7))
        return REFUSE(w, "its persistent id does not begin with \"storage\"");
    if (!is_kind(p, item[1], DEQ_PICKLE_GLOBAL, &class) ||
        (class->global->tag != TAG_UNTYPED && (class->global->tag < TAG_STORAGE || class->global->tag >= TAG_DTYPE)))
        return REFUSE(w, "its persistent id names no class of storages");
    if (!is_kind(p, item[2], DEQ_PICKLE_STRING, &key))
        return REFUSE(w, "its storage's name is not a string");
    if (!size_of(p, item[4], &count))
        return REFUSE(w, "its storage's size is not a number of elements");

    const int key_len = (int)DEQ_MIN(key->text.len, 64);
    const char *key_text = deq_pickle_text(p, key);
    const int tag = class->global->tag;
    if (!w->find(w->ctx, key_text, key->text.len, ret_storage, &bytes))
        return REFUSE(w, "its storage %.*s is not in the file", key_len, key_text);
    if (__builtin_mul_overflow(count, (uint64_t)(tag == TAG_UNTYPED ? 1 : elements[tag - TAG_STORAGE].bytes),
                               &claimed) ||
        claimed != bytes)
        return REFUSE(w, "its storage %.*s has %llu bytes, not those of %llu elements of %s", key_len, key_text,
                      (unsigned long long)bytes, (unsigned long long)count, class->global->name);
    *ret_tag = tag;
    *ret_bytes = bytes;
    return DEQ_OK;
}

/* Shape and strides, and that the furthest element lies inside a storage of n elements. */
static enum deq_rc view(struct walk *w, uint32_t offset, uint32_t shape, uint32_t stride, uint64_t n,
                        struct deq_torchfile_tensor *t)
{
    const struct deq_pickle *p = w->p;
    const struct deq_pickle_value *size, *step;
    if (!size_of(p, offset, &t->offset))
        return REFUSE(w, "its storage offset is not a number of elements");
    if (!is_kind(p, shape, DEQ_PICKLE_TUPLE, &size) || !is_kind(p, stride, DEQ_PICKLE_TUPLE, &step) ||
        size->items.n != step->items.n)
        return REFUSE(w, "its size and stride are not two tuples of one length");
    if (size->items.n > DEQ_TORCH_DIMS_MAX)
        return REFUSE(w, "%u dimensions, at most %d are read", size->items.n, DEQ_TORCH_DIMS_MAX);
    const uint32_t *sizes = deq_pickle_tuple(p, size), *steps = deq_pickle_tuple(p, step);
    uint64_t last = t->offset;
    bool fits = true, empty = false;
    t->n_dims = size->items.n;
    t->count = 1;
    for (unsigned d = 0; d < t->n_dims; d++) {
        uint64_t far;
        if (!size_of(p, sizes[d], &t->shape[d]) || !size_of(p, steps[d], &t->stride[d]))
            return REFUSE(w, "dimension %u has no size or no stride", d);
        if (!t->shape[d]) {
            empty = true;
            continue;
        }
        fits = fits && !__builtin_mul_overflow(t->count, t->shape[d], &t->count) &&
               !__builtin_mul_overflow(t->shape[d] - 1, t->stride[d], &far) &&
               !__builtin_add_overflow(last, far, &last);
    }
    if (empty) {
        t->count = 0;
        return t->offset <= n ? DEQ_OK
                              : REFUSE(w, "it begins outside its storage of %llu elements", (unsigned long long)n);
    }
    if (!fits || last >= n)
        return REFUSE(w, "its last element lies outside its storage of %llu elements", (unsigned long long)n);
    if (t->count > n) /* an expanded tensor: a small file would become large memory */
        return REFUSE(w, "%llu elements in a storage of %llu: save it contiguous", (unsigned long long)t->count,
                      (unsigned long long)n);
    return DEQ_OK;
}

/* --- entries --- */

static enum deq_rc add(struct walk *w, void **array, size_t *n, size_t *cap, size_t size)
{
    if (w->out->n_tensors + w->out->n_ignored == DEQ_TORCH_ENTRIES_MAX)
        return deq_fail(w->err, DEQ_EFORMAT, "%s: more than %d entries", w->name, DEQ_TORCH_ENTRIES_MAX);
    if (*n == *cap) {
        const size_t want = *cap ? 2 * *cap : 16;
        void *grown = deq_realloc(*array, *n * size, want * size);
        if (!grown)
            return no_memory(w);
        *array = grown;
        *cap = want;
    }
    return DEQ_OK;
}

static enum deq_rc ignore(struct walk *w, const char *what)
{
    struct deq_torch_state *s = w->out;
    void *array = s->ignored;
    enum deq_rc rc = add(w, &array, &s->n_ignored, &s->cap_ignored, sizeof *s->ignored);
    s->ignored = array;
    char *name = rc ? NULL : deq_strdup(w->path);
    if (!name)
        return rc ? rc : no_memory(w);
    s->ignored[s->n_ignored++] = (struct deq_torchfile_ignored){name, what};
    return DEQ_OK;
}

static enum deq_rc keep(struct walk *w, struct deq_torchfile_tensor t)
{
    struct deq_torch_state *s = w->out;
    void *array = s->tensors;
    enum deq_rc rc = add(w, &array, &s->n_tensors, &s->cap_tensors, sizeof *s->tensors);
    s->tensors = array;
    char *name = rc ? NULL : deq_strdup(w->path);
    if (!name)
        return rc ? rc : no_memory(w);
    t.name = name;
    s->tensors[s->n_tensors++] = t;
    return DEQ_OK;
}

/* _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]) and _rebuild_tensor_v3(storage,
 * offset, size, stride, requires_grad, hooks, dtype[, metadata]), whose storage is untyped */
static enum deq_rc tensor(struct walk *w, int tag, const uint32_t *arg, uint32_t n)
{
    struct deq_torchfile_tensor t = {0};
    const struct deq_pickle_value *v;
    const uint32_t fixed = tag == TAG_TENSOR_V2 ? 6 : 7;
    int type = 0;
    uint64_t bytes = 0;
    if (n != fixed && n != fixed + 1)
        return REFUSE(w, "a tensor rebuilt from %u arguments, expected %u", n, fixed);
    if (n > fixed && !is_kind(w->p, arg[fixed], DEQ_PICKLE_NONE, &v) && (v->kind != DEQ_PICKLE_DICT || v->items.n))
        return REFUSE(w, "a conjugate or negated view: save it contiguous");
    enum deq_rc rc = storage(w, arg[0], &type, &t.storage, &bytes);
    if (rc)
        return rc;
    if (tag == TAG_TENSOR_V2) {
        if (type == TAG_UNTYPED)
            return REFUSE(w, "its storage has no element type");
        type -= TAG_STORAGE;
    } else {
        if (!is_kind(w->p, arg[6], DEQ_PICKLE_GLOBAL, &v) || v->global->tag < TAG_DTYPE)
            return REFUSE(w, "its element type is not a dtype");
        type = v->global->tag - TAG_DTYPE;
    }
    rc = view(w, arg[1], arg[2], arg[3], bytes / elements[type].bytes, &t);
    if (rc)
        return rc;
    if (elements[type].dtype == NOT_FLOAT)
        return ignore(w, elements[type].what);
    t.dtype = (enum deq_dtype)elements[type].dtype;
    return keep(w, t);
}

static enum deq_rc call(struct walk *w, const struct deq_pickle_value *v)
{
    const struct deq_pickle_value *args = deq_pickle_at(w->p, v->call.args);
    const struct deq_pickle_global *function = deq_pickle_at(w->p, v->call.function)->global;
    int tag = function->tag;
    if (tag == TAG_OTHER)
        return ignore(w, function->name);
    if (tag == TAG_PARAMETER) { /* (data, requires_grad, hooks[, state]) */
        const struct deq_pickle_value *data;
        if (args->items.n < 3 || args->items.n > 4 ||
            !is_kind(w->p, deq_pickle_tuple(w->p, args)[0], DEQ_PICKLE_CALL, &data))
            return REFUSE(w, "a parameter without a tensor");
        tag = deq_pickle_at(w->p, data->call.function)->global->tag;
        args = deq_pickle_at(w->p, data->call.args);
        if (tag != TAG_TENSOR_V2 && tag != TAG_TENSOR_V3)
            return REFUSE(w, "a parameter without a tensor");
    }
    return tensor(w, tag, deq_pickle_tuple(w->p, args), args->items.n);
}

/* True when there is something to name inside: another container, or a tensor. */
static bool has_parts(const struct deq_pickle *p, const struct deq_pickle_value *container)
{
    struct deq_pickle_place place = {0};
    uint32_t value;
    for (uint32_t i = 0; deq_pickle_next(p, container, &place, &value); i++) {
        const struct deq_pickle_value *v = deq_pickle_at(p, value);
        if (container->kind == DEQ_PICKLE_DICT && i % 2 == 0)
            continue; /* a key */
        if (v->kind == DEQ_PICKLE_TUPLE || v->kind == DEQ_PICKLE_LIST || v->kind == DEQ_PICKLE_DICT ||
            (v->kind == DEQ_PICKLE_CALL && deq_pickle_at(p, v->call.function)->global->tag != TAG_OTHER))
            return true;
    }
    return false;
}

/* Appends ".key" to the path of len bytes. */
static enum deq_rc path_add(struct walk *w, size_t len, const struct deq_pickle_value *key, uint32_t i)
{
    char number[24];
    const char *text = number;
    size_t n;
    if (key && key->kind == DEQ_PICKLE_STRING) {
        text = deq_pickle_text(w->p, key);
        n = key->text.len;
        if (!n || memchr(text, 0, n) || !deq_utf8_valid(text, n))
            return REFUSE(w, "a key in it is empty or not text");
    } else if (key && key->kind != DEQ_PICKLE_INT) {
        return REFUSE(w, "a key in it is neither a string nor an integer");
    } else {
        n = (size_t)snprintf(number, sizeof number, "%lld", key ? (long long)key->integer : (long long)i);
    }
    if (len + (len > 0) + n > DEQ_TORCH_NAME_MAX)
        return REFUSE(w, "a name in it is longer than %d bytes", DEQ_TORCH_NAME_MAX);
    if (len)
        w->path[len++] = '.';
    memcpy(w->path + len, text, n);
    w->path[len + n] = 0;
    return DEQ_OK;
}

static enum deq_rc entry(struct walk *w, uint32_t value, unsigned depth);

static enum deq_rc container(struct walk *w, uint32_t value, unsigned depth)
{
    const struct deq_pickle_value *c = deq_pickle_at(w->p, value), *key = NULL;
    struct deq_pickle_place place = {0};
    uint32_t item;
    enum deq_rc rc = DEQ_OK;
    if (w->seen[value] == INSIDE)
        return REFUSE(w, "it contains itself");
    if (w->seen[value] == NAMED) /* every container is walked once: names cannot outgrow the pickle */
        return ignore(w, "container, under an earlier name too");
    if (depth && (w->seen[value] == PLAIN || !has_parts(w->p, c))) {
        w->seen[value] = PLAIN;
        return ignore(w, c->kind == DEQ_PICKLE_DICT ? "dictionary" : c->kind == DEQ_PICKLE_LIST ? "list" : "tuple");
    }
    if (depth == DEQ_TORCH_DEPTH_MAX)
        return REFUSE(w, "more than %d containers inside each other", DEQ_TORCH_DEPTH_MAX);
    const size_t len = strlen(w->path);
    w->seen[value] = INSIDE;
    for (uint32_t i = 0; !rc && deq_pickle_next(w->p, c, &place, &item); i++) {
        if (c->kind == DEQ_PICKLE_DICT && i % 2 == 0) {
            key = deq_pickle_at(w->p, item);
            continue;
        }
        rc = path_add(w, len, key, i);
        if (!rc)
            rc = entry(w, item, depth + 1);
        w->path[len] = 0;
    }
    w->seen[value] = NAMED;
    return rc;
}

static enum deq_rc entry(struct walk *w, uint32_t value, unsigned depth)
{
    const struct deq_pickle_value *v = deq_pickle_at(w->p, value);
    switch (v->kind) {
    case DEQ_PICKLE_NONE: return ignore(w, "None");
    case DEQ_PICKLE_BOOL: return ignore(w, "boolean");
    case DEQ_PICKLE_INT:
    case DEQ_PICKLE_BIGINT: return ignore(w, "integer");
    case DEQ_PICKLE_FLOAT: return ignore(w, "number");
    case DEQ_PICKLE_STRING: return ignore(w, "string");
    case DEQ_PICKLE_BYTES: return ignore(w, "bytes");
    case DEQ_PICKLE_GLOBAL: return ignore(w, "type");
    case DEQ_PICKLE_PERSISTENT: return ignore(w, "storage");
    case DEQ_PICKLE_TUPLE:
    case DEQ_PICKLE_LIST:
    case DEQ_PICKLE_DICT: return container(w, value, depth);
    case DEQ_PICKLE_CALL: return call(w, v);
    }
    return REFUSE(w, "a value of unknown kind");
}

/* --- the whole --- */

static int by_name(const void *a, const void *b)
{
    const struct deq_torchfile_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static enum deq_rc sort_names(const char *name, struct deq_torch_state *s, struct deq_err *err)
{
    s->by_name = DEQ_NEW_ARRAY(const struct deq_torchfile_tensor *, s->n_tensors);
    if (!s->by_name)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory", name);
    for (size_t i = 0; i < s->n_tensors; i++)
        s->by_name[i] = &s->tensors[i];
    qsort(s->by_name, s->n_tensors, sizeof *s->by_name, by_name);
    for (size_t i = 1; i < s->n_tensors; i++)
        if (!strcmp(s->by_name[i - 1]->name, s->by_name[i]->name))
            return deq_fail(err, DEQ_EFORMAT, "%s: two tensors are called %s", name, s->by_name[i]->name);
    /* in Python the later of two equal keys wins; which of them was meant is not for us to say */
    for (size_t i = 0; i < s->n_ignored; i++) {
        const struct deq_torchfile_tensor key = {.name = s->ignored[i].name}, *p = &key;
        if (bsearch(&p, s->by_name, s->n_tensors, sizeof *s->by_name, by_name))
            return deq_fail(err, DEQ_EFORMAT, "%s: a tensor and another entry are called %s", name, key.name);
    }
    return DEQ_OK;
}

enum deq_rc deq_torch_state_parse(const void *bytes, size_t n, const char *name, deq_torch_find_fn *find, void *ctx,
                                  struct deq_torch_state *state, struct deq_err *err)
{
    struct deq_pickle *p = NULL;
    struct walk w = {.name = name, .find = find, .ctx = ctx, .out = state, .err = err};
    *state = (struct deq_torch_state){0};
    enum deq_rc rc = deq_pickle_parse(bytes, n, name, allowed, DEQ_COUNT(allowed), &p, err);
    if (rc)
        return rc;
    w.p = p;
    w.seen = DEQ_NEW_ARRAY(unsigned char, deq_pickle_count(p));
    if (!w.seen)
        rc = no_memory(&w);
    else if (deq_pickle_at(p, deq_pickle_root(p))->kind != DEQ_PICKLE_DICT)
        rc = deq_fail(err, DEQ_EFORMAT, "%s: holds no dictionary of tensors: save model.state_dict()", name);
    else
        rc = entry(&w, deq_pickle_root(p), 0);
    if (!rc)
        rc = sort_names(name, state, err);
    if (rc)
        deq_torch_state_free(state);
    deq_free(w.seen);
    deq_pickle_free(p);
    return rc;
}

void deq_torch_state_free(struct deq_torch_state *s)
{
    for (size_t i = 0; i < s->n_tensors; i++)
        deq_free((char *)s->tensors[i].name);
    for (size_t i = 0; i < s->n_ignored; i++)
        deq_free((char *)s->ignored[i].name);
    deq_free(s->tensors);
    deq_free(s->ignored);
    deq_free(s->by_name);
    *s = (struct deq_torch_state){0};
}
