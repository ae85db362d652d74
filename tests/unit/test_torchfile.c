/* Checkpoints of PyTorch: files that torch.save wrote (tests/golden/torchfile), crafted pickles and zip containers, and every refusal. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/data/pickle.h"
#include "core/data/torchfile.h"
#include "tests/unit/test.h"

#define GOLDEN "tests/golden/torchfile/"

/* --- what torch.save wrote --- */

static struct deq_torchfile *open_golden(const char *name)
{
    char path[128];
    struct deq_torchfile *f = NULL;
    struct deq_err err = {0};
    snprintf(path, sizeof path, GOLDEN "%s.pth", name);
    enum deq_rc rc = deq_torchfile_open(path, &f, &err);
    CHECK_MSG(!rc, "%s", err.text);
    return f;
}

/* The tensor exists, has this type and shape, and its elements are first + i*step + j*step2 (i, j: row and column of the last two
 * dimensions), exactly. */
static void check_values(struct deq_torchfile *f, const char *name, enum deq_dtype dtype, unsigned n_dims, const uint64_t *shape, float first,
                         float step, float step2)
{
    const struct deq_torchfile_tensor *t = deq_torchfile_find(f, name);
    struct deq_err err = {0};
    uint64_t count = 1;
    CHECK_MSG(t, "%s", name);
    if (!t)
        return;
    CHECK_MSG(t->dtype == dtype && t->n_dims == n_dims && !memcmp(t->shape, shape, n_dims * sizeof *shape), "%s", name);
    for (unsigned d = 0; d < n_dims; d++)
        count *= shape[d];
    CHECK_MSG(t->count == count, "%s", name);
    float *out = malloc((t->count + 1) * sizeof *out);
    out[t->count] = 77;
    CHECK_MSG(!deq_torchfile_read(f, t, out, &err), "%s", err.text);
    const uint64_t columns = n_dims ? shape[n_dims - 1] : 1;
    for (uint64_t i = 0; i < t->count; i++) {
        const float want = first + (float)(i / columns) * step + (float)(i % columns) * step2;
        CHECK_MSG(out[i] == want, "%s[%llu] = %g, expected %g", name, (unsigned long long)i, (double)out[i], (double)want);
    }
    CHECK(out[t->count] == 77);
    free(out);
}

#define VALUES(f, name, dtype, n_dims, first, step, step2, ...) \
    check_values(f, name, dtype, n_dims, (const uint64_t[]){__VA_ARGS__, 0}, first, step, step2)

static void check_ignored(const struct deq_torchfile *f, const char *name, const char *what)
{
    bool found = false;
    for (size_t i = 0; i < deq_torchfile_ignored_count(f); i++) {
        const struct deq_torchfile_ignored *e = deq_torchfile_ignored_at(f, i);
        if (!strcmp(e->name, name)) {
            found = true;
            CHECK_MSG(!strcmp(e->what, what), "%s is %s, expected %s", name, e->what, what);
        }
    }
    CHECK_MSG(found, "%s is not among the ignored entries", name);
}

TEST(torchfile_protocols)
{
    for (char protocol = '2'; protocol <= '5'; protocol++) {
        const char name[] = {'p', 'r', 'o', 't', 'o', 'c', 'o', 'l', protocol, 0};
        struct deq_torchfile *f = open_golden(name);
        if (!f)
            continue;
        CHECK(deq_torchfile_count(f) == 6);
        CHECK(!strcmp(deq_torchfile_at(f, 0)->name, "proj.weight")); /* the pickle's order, not the alphabet's */
        CHECK(!strcmp(deq_torchfile_at(f, 5)->name, "norm.running_var"));
        VALUES(f, "proj.weight", DEQ_F32, 2, 0, 3, 1, 2, 3);
        VALUES(f, "proj.bias", DEQ_F32, 1, 10, 0, 1, 2);
        VALUES(f, "norm.running_var", DEQ_F32, 1, 50, 0, 1, 2);
        CHECK(!deq_torchfile_find(f, "proj") && !deq_torchfile_find(f, "norm.num_batches_tracked"));
        CHECK(deq_torchfile_ignored_count(f) == 1);
        check_ignored(f, "norm.num_batches_tracked", "int64 tensor");
        deq_torchfile_close(f);
    }
}

TEST(torchfile_views_and_types)
{
    struct deq_torchfile *f = open_golden("views");
    if (!f)
        return;
    CHECK(deq_torchfile_count(f) == 12 && !deq_torchfile_ignored_count(f));
    VALUES(f, "base", DEQ_F32, 2, 0, 6, 1, 4, 6);
    VALUES(f, "transposed", DEQ_F32, 2, 0, 1, 6, 6, 4);
    VALUES(f, "row", DEQ_F32, 1, 6, 0, 1, 6);
    VALUES(f, "block", DEQ_F32, 2, 8, 6, 1, 2, 3);
    VALUES(f, "every_other", DEQ_F32, 2, 0, 6, 2, 4, 3);
    VALUES(f, "scalar", DEQ_F32, 0, 3.5f, 0, 0, 0);
    VALUES(f, "empty", DEQ_F32, 2, 0, 0, 0, 0, 3);
    VALUES(f, "f16", DEQ_F16, 2, 0, 0.75f, 0.125f, 4, 6);
    VALUES(f, "bf16", DEQ_BF16, 2, 0, 0.75f, 0.125f, 4, 6);
    VALUES(f, "f64", DEQ_F64, 2, 0, 0.75f, 0.125f, 4, 6);
    VALUES(f, "f64_column", DEQ_F64, 1, 0.125f, 0, 0.75f, 4);

    /* [2, 3, 4] permuted to [4, 2, 3]: element [i, j, k] is 12 j + 4 k + i */
    const struct deq_torchfile_tensor *t = deq_torchfile_find(f, "permuted");
    float out[24] = {0};
    CHECK(t && t->n_dims == 3 && t->count == 24 && !deq_torchfile_read(f, t, out, NULL));
    for (int i = 0; i < 24; i++)
        CHECK(out[i] == (float)(12 * (i / 3 % 2) + 4 * (i % 3) + i / 6));

    const uint64_t shared = deq_torchfile_find(f, "base")->storage;
    CHECK(deq_torchfile_find(f, "transposed")->storage == shared && deq_torchfile_find(f, "block")->storage == shared);
    CHECK(deq_torchfile_find(f, "f16")->storage != shared);
    deq_torchfile_close(f);
}

TEST(torchfile_other_types_are_ignored_by_name)
{
    struct deq_torchfile *f = open_golden("other_types");
    if (!f)
        return;
    static const char *const e[][2] = {{"i64", "int64 tensor"}, {"i32", "int32 tensor"}, {"i16", "int16 tensor"}, {"i8", "int8 tensor"},
                                       {"u8", "uint8 tensor"}, {"bool", "bool tensor"}, {"c64", "complex64 tensor"}, {"u16", "uint16 tensor"},
                                       {"f8", "float8 tensor"}};
    CHECK(deq_torchfile_count(f) == 1 && deq_torchfile_ignored_count(f) == DEQ_COUNT(e));
    VALUES(f, "weight", DEQ_F32, 2, 0, 6, 1, 4, 6);
    for (size_t i = 0; i < DEQ_COUNT(e); i++)
        check_ignored(f, e[i][0], e[i][1]);
    deq_torchfile_close(f);
}

TEST(torchfile_parameters_tied)
{
    struct deq_torchfile *f = open_golden("parameters");
    if (!f)
        return;
    CHECK(deq_torchfile_count(f) == 3);
    VALUES(f, "embed", DEQ_F32, 2, 0, 6, 1, 4, 6);
    VALUES(f, "head", DEQ_F32, 2, 0, 6, 1, 4, 6);
    VALUES(f, "same_storage", DEQ_F32, 2, 12, 6, 1, 2, 6);
    CHECK(deq_torchfile_find(f, "embed")->storage == deq_torchfile_find(f, "head")->storage);
    CHECK(deq_torchfile_find(f, "embed")->storage == deq_torchfile_find(f, "same_storage")->storage);
    deq_torchfile_close(f);
}

TEST(torchfile_training_checkpoint)
{
    struct deq_torchfile *f = open_golden("training");
    if (!f)
        return;
    VALUES(f, "model_state_dict.proj.weight", DEQ_F32, 2, 0, 3, 1, 2, 3);
    VALUES(f, "optimizer.state.0.step", DEQ_F32, 0, 1, 0, 0, 0);
    VALUES(f, "optimizer.state.3.step", DEQ_F32, 0, 1, 0, 0, 0);
    CHECK(deq_torchfile_count(f) == 6 + 4 * 3);
    static const char *const e[][2] = {{"ema", "container, under an earlier name too"}, {"epoch", "integer"}, {"best", "number"},
                                       {"name", "string"}, {"none", "None"}, {"done", "boolean"}, {"vocab", "dictionary"}, {"huge", "integer"},
                                       {"negative", "integer"}, {"size", "Size"}, {"device", "device"}, {"dtype", "type"},
                                       {"rng", "uint8 tensor"}, {"optimizer.param_groups.0.lr", "number"},
                                       {"optimizer.param_groups.0.betas", "tuple"}, {"optimizer.param_groups.0.params", "list"}};
    for (size_t i = 0; i < DEQ_COUNT(e); i++)
        check_ignored(f, e[i][0], e[i][1]);
    deq_torchfile_close(f);
}

/* Opens, reads every tensor, and returns the first error in err; DEQ_OK when there was none. */
static enum deq_rc read_all(struct deq_torchfile *f, struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; !rc && i < deq_torchfile_count(f); i++) {
        const struct deq_torchfile_tensor *t = deq_torchfile_at(f, i);
        float *out = malloc((t->count + 1) * sizeof *out);
        rc = deq_torchfile_read(f, t, out, err);
        free(out);
    }
    return rc;
}

TEST(torchfile_refused_golden)
{
    static const char *const t[][2] = {
        {"module", "module.pth: data.pkl: byte 2: global torch.nn.modules.container.Sequential is not part of a tensor state dict; if the file "
                   "is a whole pickled model, save model.state_dict() instead"},
        {"legacy", "legacy.pth: saved in PyTorch's format before 1.6: convert it with a current PyTorch: torch.save(torch.load("},
        {"conjugate", "entry c: a conjugate or negated view"},
        {"expanded", "entry weight: 5 elements in a storage of 1"},
        {"not_finite", "tensor broken: element 1, nan, is not finite"},
        {"f64_overflow", "tensor weight: element 1, 1e+300, is too large for float32"},
        {"make.py", "cannot open"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        char path[128];
        struct deq_torchfile *f = NULL;
        struct deq_err err = {0};
        snprintf(path, sizeof path, GOLDEN "%s.pth", t[i][0]);
        enum deq_rc rc = deq_torchfile_open(path, &f, &err);
        if (!rc)
            rc = read_all(f, &err);
        CHECK(rc == (strstr(t[i][1], "cannot open") ? DEQ_ENOTFOUND : DEQ_EFORMAT));
        CHECK_MSG(strstr(err.text, t[i][1]), "%s", err.text);
        deq_torchfile_close(f);
    }
    struct deq_torchfile *f = NULL;
    struct deq_err err = {0};
    CHECK(deq_torchfile_open(GOLDEN "make.py", &f, &err) == DEQ_EFORMAT && strstr(err.text, "does not begin like a zip"));
    CHECK(deq_torchfile_open(GOLDEN, &f, &err) == DEQ_EIO && strstr(err.text, "not a regular file"));
}

/* --- crafted files --- */

struct bytes {
    unsigned char p[1 << 16];
    size_t n;
};

static void put(struct bytes *b, const void *p, size_t n)
{
    if (n > sizeof b->p - b->n)
        abort();
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void put_int(struct bytes *b, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)(v >> 8 * i);
        put(b, &c, 1);
    }
}

#define PUT(b, literal) put(b, literal, sizeof(literal) - 1)

static uint32_t crc32_of(const unsigned char *p, size_t n)
{
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
    }
    return ~c;
}

/* A zip container, entry by entry. */
struct zip_out {
    struct bytes file, directory;
    unsigned n;
};

struct how { /* what is wrong with an entry */
    unsigned method, flags;
    uint32_t crc_error, size_error;
};

static void zip_put(struct zip_out *z, const char *name, const void *data, size_t n, struct how how)
{
    const uint32_t crc = crc32_of(data, n) ^ how.crc_error, local = (uint32_t)z->file.n, size = (uint32_t)n + how.size_error;
    for (int central = 0; central < 2; central++) {
        struct bytes *b = central ? &z->directory : &z->file;
        if (central)
            PUT(b, "PK\1\2\0\0");
        else
            PUT(b, "PK\3\4");
        put_int(b, 20, 2);
        put_int(b, how.flags, 2);
        put_int(b, how.method, 2);
        put_int(b, 0x00210000, 4); /* 1980-01-01 */
        put_int(b, crc, 4);
        put_int(b, size, 4);
        put_int(b, size, 4);
        put_int(b, strlen(name), 2);
        put_int(b, 0, 2);
        if (central) {
            put_int(b, 0, 6);
            put_int(b, 0, 4);
            put_int(b, local, 4);
        }
        put(b, name, strlen(name));
    }
    put(&z->file, data, n);
    z->n++;
}

static void zip_end(struct zip_out *z)
{
    const size_t at = z->file.n;
    put(&z->file, z->directory.p, z->directory.n);
    PUT(&z->file, "PK\5\6\0\0\0\0");
    put_int(&z->file, z->n, 2);
    put_int(&z->file, z->n, 2);
    put_int(&z->file, z->directory.n, 4);
    put_int(&z->file, at, 4);
    put_int(&z->file, 0, 2);
}

/* Opens and reads a block of exactly n bytes. */
static enum deq_rc try_file(const void *bytes, size_t n, struct deq_err *err)
{
    struct deq_torchfile *f = NULL;
    void *copy = malloc(n ? n : 1);
    memcpy(copy, bytes, n);
    enum deq_rc rc = deq_torchfile_open_memory(copy, n, "m.pth", &f, err);
    if (!rc)
        rc = read_all(f, err);
    deq_torchfile_close(f);
    free(copy);
    return rc;
}

static const float six[6] = {0, 1, 2, 3, 4, 5};

/* A file with this pickle and one storage "0" of six floats. */
static enum deq_rc try_pickle(const struct bytes *pickle, struct deq_torchfile **ret, struct deq_err *err)
{
    static struct zip_out z;
    z.file.n = z.directory.n = z.n = 0;
    zip_put(&z, "m/data.pkl", pickle->p, pickle->n, (struct how){0});
    zip_put(&z, "m/data/0", six, sizeof six, (struct how){0});
    zip_end(&z);
    if (ret)
        return deq_torchfile_open_memory(z.file.p, z.file.n, "m.pth", ret, err);
    return try_file(z.file.p, z.file.n, err);
}

static void put_text(struct bytes *b, const char *s)
{
    PUT(b, "X");
    put_int(b, strlen(s), 4);
    put(b, s, strlen(s));
}

static void put_tuple(struct bytes *b, unsigned n, const int64_t *v)
{
    PUT(b, "(");
    for (unsigned i = 0; i < n; i++) {
        PUT(b, "\x8a\10");
        put_int(b, (uint64_t)v[i], 8);
    }
    PUT(b, "t");
}

struct tensor_in {
    const char *class, *key;
    int64_t elements, offset;
    unsigned n_dims;
    int64_t shape[9], stride[9];
};

static void put_tensor(struct bytes *b, const struct tensor_in *t)
{
    PUT(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_text(b, "storage");
    PUT(b, "ctorch\n");
    put(b, t->class, strlen(t->class));
    PUT(b, "\n");
    put_text(b, t->key);
    put_text(b, "cpu");
    PUT(b, "\x8a\10");
    put_int(b, (uint64_t)t->elements, 8);
    PUT(b, "tQ\x8a\10");
    put_int(b, (uint64_t)t->offset, 8);
    put_tuple(b, t->n_dims, t->shape);
    put_tuple(b, t->n_dims, t->stride);
    PUT(b, "\x89" "ccollections\nOrderedDict\n)RtR");
}

TEST(torchfile_views_outside_their_storage)
{
    static const struct {
        struct tensor_in t;
        const char *says; /* NULL: reads */
    } t[] = {
        {{"FloatStorage", "0", 6, 0, 2, {2, 3}, {3, 1}}, NULL},
        {{"FloatStorage", "0", 6, 5, 0, {0}, {0}}, NULL},
        {{"FloatStorage", "0", 6, 5, 1, {1}, {INT64_MAX}}, NULL}, /* the stride of a dimension of one is not used */
        {{"FloatStorage", "0", 6, 6, 1, {0}, {1}}, NULL},
        {{"FloatStorage", "0", 6, 0, 2, {0, INT64_MAX}, {1, INT64_MAX}}, NULL},
        {{"FloatStorage", "0", 6, 0, 8, {1, 1, 1, 1, 1, 1, 2, 3}, {6, 6, 6, 6, 6, 6, 3, 1}}, NULL},
        {{"HalfStorage", "0", 12, 0, 1, {2}, {3}}, NULL},
        {{"FloatStorage", "0", 6, 6, 0, {0}, {0}}, "its last element lies outside its storage of 6 elements"},
        {{"FloatStorage", "0", 6, 7, 1, {0}, {1}}, "begins outside its storage of 6"},
        {{"FloatStorage", "0", 6, 1, 2, {2, 3}, {3, 1}}, "its last element lies outside"},
        {{"FloatStorage", "0", 6, 0, 1, {7}, {1}}, "its last element lies outside"},
        {{"FloatStorage", "0", 6, 0, 1, {2}, {6}}, "its last element lies outside"},
        {{"FloatStorage", "0", 6, 0, 1, {3}, {INT64_MAX}}, "its last element lies outside"},
        {{"FloatStorage", "0", 6, INT64_MAX, 1, {2}, {INT64_MAX}}, "its last element lies outside"},
        {{"FloatStorage", "0", 6, 0, 3, {1ll << 32, 1ll << 32, 2}, {0, 0, 1}}, "its last element lies outside"},
        {{"FloatStorage", "0", 6, 0, 1, {7}, {0}}, "7 elements in a storage of 6"},
        {{"FloatStorage", "0", 6, -1, 1, {1}, {1}}, "its storage offset is not a number of elements"},
        {{"FloatStorage", "0", 6, 0, 1, {-1}, {1}}, "dimension 0 has no size or no stride"},
        {{"FloatStorage", "0", 6, 5, 1, {2}, {-1}}, "dimension 0 has no size or no stride"},
        {{"FloatStorage", "0", 6, 0, 9, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1}}, "9 dimensions, at most 8"},
        {{"FloatStorage", "0", 5, 0, 1, {5}, {1}}, "its storage 0 has 24 bytes, not those of 5 elements of FloatStorage"},
        {{"FloatStorage", "0", 1ll << 62, 0, 1, {5}, {1}}, "its storage 0 has 24 bytes"},
        {{"FloatStorage", "0", -6, 0, 1, {5}, {1}}, "its storage's size is not a number"},
        {{"DoubleStorage", "0", 6, 0, 1, {3}, {1}}, "its storage 0 has 24 bytes, not those of 6 elements of DoubleStorage"},
        {{"LongStorage", "0", 6, 0, 1, {3}, {1}}, "its storage 0 has 24 bytes"}, /* of ignored tensors too */
        {{"FloatStorage", "1", 6, 0, 1, {6}, {1}}, "its storage 1 is not in the file"},
        {{"FloatStorage", "../data.pkl", 6, 0, 1, {6}, {1}}, "its storage ../data.pkl is not in the file"},
        {{"float32", "0", 6, 0, 1, {6}, {1}}, "names no class of storages"},
        {{"Tensor", "0", 6, 0, 1, {6}, {1}}, "global torch.Tensor is not part"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        static struct bytes b;
        struct deq_err err = {0};
        b.n = 0;
        PUT(&b, "\x80\2}");
        put_text(&b, "w");
        put_tensor(&b, &t[i].t);
        PUT(&b, "s.");
        enum deq_rc rc = try_pickle(&b, NULL, &err);
        if (t[i].says)
            CHECK_MSG(rc == DEQ_EFORMAT && strstr(err.text, t[i].says), "case %zu: %s", i, err.text);
        else
            CHECK_MSG(!rc, "case %zu: %s", i, err.text);
        if (t[i].says && !strstr(t[i].says, "global"))
            CHECK_MSG(strstr(err.text, "m.pth: data.pkl: entry w: "), "%s", err.text);
    }
}

TEST(torchfile_refused_pickles)
{
#define P(literal) literal, sizeof(literal) - 1
    static const struct {
        const char *p;
        size_t n;
        const char *says; /* NULL: an empty dictionary, read */
    } t[] = {
        {P("\x80\2}."), NULL},
        {P("\x80\5\x95\2\0\0\0\0\0\0\0}."), NULL},
        {P("\x80\2ccollections\nOrderedDict\n)R."), NULL},
        {P("\x80\4\x8c\13collections\x94\x8c\13OrderedDict\x94\x93)R}b."), NULL},
        {P(""), "not a pickle of protocol 2 to 5"},
        {P("}."), "not a pickle of protocol 2 to 5"},
        {P("\x80\1}."), "not a pickle of protocol 2 to 5"},
        {P("\x80\6}."), "not a pickle of protocol 2 to 5"},
        {P("\x80\2"), "ends without STOP"},
        {P("\x80\2}"), "ends without STOP"},
        {P("\x80\2."), "byte 2: STOP with 0 values"},
        {P("\x80\2}}."), "byte 4: STOP with 2 values"},
        {P("\x80\2}(."), "byte 4: STOP with 1 values on the stack and 1 open MARKs"},
        {P("\x80\2}.}"), "byte 3: 1 bytes follow STOP"},
        {P("\x80\2N."), "holds no dictionary of tensors"},
        {P("\x80\2]."), "holds no dictionary of tensors"},
        {P("\x80\2cos\nsystem\nX\2\0\0\0ls\x85R."), "byte 2: global os.system is not part of a tensor state dict"},
        {P("\x80\2cposix\nsystem\n."), "global posix.system"},
        {P("\x80\2cbuiltins\neval\n."), "global builtins.eval"},
        {P("\x80\2c__builtin__\nset\n."), "global __builtin__.set"},
        {P("\x80\2cmodels.deq_transformer\nDEQTransformerLM\n)\x81."), "global models.deq_transformer.DEQTransformerLM is not part of a tensor "
                                                                       "state dict; if the file is a whole pickled model"},
        {P("\x80\4\x8c\2os\x8c\6system\x93."), "byte 14: global os.system"},
        {P("\x80\2ctorch._utils\n_rebuild_tensor_v2x\n."), "global torch._utils._rebuild_tensor_v2x"},
        {P("\x80\2ctorch\n_utils._rebuild_tensor_v2\n."), "global torch._utils._rebuild_tensor_v2"}, /* not by the dotted sum */
        {P("\x80\2ctorch"), "GLOBAL's name does not end"},
        {P("\x80\2ctorch\nSize"), "GLOBAL's name does not end"},
        {P("\x80\4K\1K\2\x93."), "STACK_GLOBAL of something that is not two strings"},
        {P("\x80\2)\x81."), "byte 3: opcode 0x81 NEWOBJ is not part"},
        {P("\x80\2(ios\nsystem\n."), "opcode 0x69 INST is not part"},
        {P("\x80\2(o."), "opcode 0x6f OBJ"},
        {P("\x80\2\x82\1."), "opcode 0x82 EXT1"},
        {P("\x80\2}0."), "opcode 0x30 POP"},
        {P("\x80\2\xff."), "opcode 0xff is not part"},
        {P("\x80\2}\x80\2."), "opcode 0x80 PROTO"},
        {P("\x80\2X\5\0\0\0abc."), "byte 2: BINUNICODE needs 5 bytes, 4 are left"},
        {P("\x80\2X\377\377\377\377abc."), "BINUNICODE needs 4294967295 bytes"},
        {P("\x80\2K"), "BININT1 needs 1 bytes, 0 are left"},
        {P("\x80\2\x95\377\377\377\377\377\377\377\377."), "FRAME of 18446744073709551615 bytes"},
        {P("\x80\2h\0."), "memo entry 0 is not set"},
        {P("\x80\2}q\1h\0."), "memo entry 0 is not set"},
        {P("\x80\2j\377\377\377\377."), "memo entry 4294967295 is not set"},
        {P("\x80\2}r\377\377\377\377."), "memo entry 4294967295 in a pickle of 9 bytes"},
        {P("\x80\2q\0."), "BINPUT finds 0 values"},
        {P("\x80\2t."), "TUPLE without a MARK"},
        {P("\x80\2N\x86."), "TUPLE2 finds 1 values on the stack, needs 2"},
        {P("\x80\2N(\x85."), "TUPLE1 finds 0 values"}, /* none above the mark */
        {P("\x80\2}NNu."), "SETITEMS without a MARK"},
        {P("\x80\2}(Nu."), "SETITEMS finds a key without a value"},
        {P("\x80\2](NNu."), "SETITEMS on something that is not a dictionary"},
        {P("\x80\2(NNu."), "SETITEMS finds no container"},
        {P("\x80\2}Na."), "APPEND on something that is not a list"},
        {P("\x80\2NN)s."), "SETITEM on something that is not a dictionary"},
        {P("\x80\2]}b."), "BUILD on something that is not a dictionary"},
        {P("\x80\2N)R."), "REDUCE calls a value, which is not a function"},
        {P("\x80\2ctorch\nFloatStorage\n)R."), "REDUCE calls torch.FloatStorage"},
        {P("\x80\2ctorch\nSize\n]R."), "REDUCE with arguments that are not a tuple"},
        {P("\x80\2ccollections\nOrderedDict\n]\x85R."), "collections.OrderedDict with arguments"},
        {P("\x80\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n)Rs."), "entry a: a tensor rebuilt from 0 arguments, expected 6"},
        {P("\x80\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(NNNNNNtRs."), "entry a: a tensor without a storage"},
        {P("\x80\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(NQNNNNNtRs."), "entry a: its persistent id is not a tuple of five"},
        {P("\x80\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n((NNNNNtQNNNNNtRs."), "does not begin with \"storage\""},
        {P("\x80\2}X\1\0\0\0actorch._utils\n_rebuild_parameter\n)Rs."), "entry a: a parameter without a tensor"},
        {P("\x80\2}X\1\0\0\0actorch._utils\n_rebuild_parameter\nq\0(h\0(NNNtRNNtRs."), "entry a: a parameter without a tensor"},
        {P("\x80\2}G\0\0\0\0\0\0\0\0Ns."), "a key in it is neither a string nor an integer"},
        {P("\x80\2}X\0\0\0\0Ns."), "a key in it is empty or not text"},
        {P("\x80\2}X\2\0\0\0\xc0\x80Ns."), "a key in it is empty or not text"},
        {P("\x80\2}X\3\0\0\0a\0bNs."), "a key in it is empty or not text"},
        {P("\x80\2}q\0X\1\0\0\0ah\0s."), "entry a: it contains itself"},
        {P("\x80\2}X\1\0\0\0a]q\0h\0as."), "entry a.0: it contains itself"},
    };
#undef P
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        static struct bytes b;
        struct deq_err err = {0};
        b.n = 0;
        put(&b, t[i].p, t[i].n);
        enum deq_rc rc = try_pickle(&b, NULL, &err);
        if (t[i].says)
            CHECK_MSG(rc == DEQ_EFORMAT && strstr(err.text, "m.pth: data.pkl: ") && strstr(err.text, t[i].says), "case %zu: %s", i, err.text);
        else
            CHECK_MSG(!rc, "case %zu: %s", i, err.text);
    }
}

TEST(torchfile_names)
{
    static const struct tensor_in w = {"FloatStorage", "0", 6, 0, 1, {6}, {1}};
    static struct bytes b;
    struct deq_torchfile *f = NULL;
    struct deq_err err = {0};

    /* {"a": {-7: w, "b": [None, w], "a.b.0": 1}} */
    b.n = 0;
    PUT(&b, "\x80\2}");
    put_text(&b, "a");
    PUT(&b, "}(J\xf9\xff\xff\xff");
    put_tensor(&b, &w);
    put_text(&b, "b");
    PUT(&b, "](N");
    put_tensor(&b, &w);
    PUT(&b, "eus.");
    CHECK_MSG(!try_pickle(&b, &f, &err), "%s", err.text);
    if (f) {
        CHECK(deq_torchfile_count(f) == 2 && deq_torchfile_find(f, "a.-7") && deq_torchfile_find(f, "a.b.1"));
        check_ignored(f, "a.b.0", "None");
        deq_torchfile_close(f);
    }

    /* one name twice: as two keys, and as a tensor and something else */
    for (int second = 0; second < 2; second++) {
        b.n = 0;
        PUT(&b, "\x80\2}(");
        put_text(&b, "a.b");
        put_tensor(&b, &w);
        put_text(&b, "a");
        PUT(&b, "}(");
        put_text(&b, "b");
        if (second)
            put_tensor(&b, &w);
        else
            PUT(&b, "K\1");
        PUT(&b, "K\0]uu.");
        CHECK(try_pickle(&b, NULL, &err) == DEQ_EFORMAT);
        CHECK_MSG(strstr(err.text, second ? "two tensors are called a.b" : "a tensor and another entry are called a.b"), "%s", err.text);
    }

    /* the longest name, and one more */
    for (size_t n = DEQ_TORCH_NAME_MAX; n <= DEQ_TORCH_NAME_MAX + 1; n++) {
        b.n = 0;
        char name[DEQ_TORCH_NAME_MAX + 2];
        memset(name, 'n', n);
        name[n] = 0;
        PUT(&b, "\x80\2}");
        put_text(&b, name);
        put_tensor(&b, &w);
        PUT(&b, "s.");
        enum deq_rc rc = try_pickle(&b, NULL, &err);
        CHECK_MSG(n > DEQ_TORCH_NAME_MAX ? rc == DEQ_EFORMAT && strstr(err.text, "longer than 256 bytes") : !rc, "%s", err.text);
    }
}

static bool no_storage(void *ctx, const char *key, size_t key_len, uint64_t *ret_storage, uint64_t *ret_bytes)
{
    (void)ctx, (void)key, (void)key_len, (void)ret_storage, (void)ret_bytes;
    return false;
}

static enum deq_rc parse_state(const void *p, size_t n, size_t *ret_ignored, struct deq_err *err)
{
    struct deq_torch_state s;
    enum deq_rc rc = deq_torch_state_parse(p, n, "p", no_storage, NULL, &s, err);
    *ret_ignored = rc ? 0 : s.n_ignored;
    if (!rc)
        deq_torch_state_free(&s);
    return rc;
}

TEST(torchfile_limits)
{
    static struct bytes b;
    struct deq_err err = {0};
    size_t ignored;

    /* dictionaries inside each other: {"a": {"a": ... {"a": {}}}} */
    for (int depth = DEQ_TORCH_DEPTH_MAX; depth <= DEQ_TORCH_DEPTH_MAX + 1; depth++) {
        b.n = 0;
        PUT(&b, "\x80\2");
        for (int i = 0; i < depth; i++) {
            PUT(&b, "}");
            put_text(&b, "a");
        }
        PUT(&b, "}");
        for (int i = 0; i < depth; i++)
            PUT(&b, "s");
        PUT(&b, ".");
        enum deq_rc rc = parse_state(b.p, b.n, &ignored, &err);
        CHECK_MSG(depth > DEQ_TORCH_DEPTH_MAX ? rc == DEQ_EFORMAT && strstr(err.text, "more than 32 containers inside each other") : !rc, "%s", err.text);
    }

    /* a dictionary that holds the one before it twice, and so on: 2^30 paths, but every container is walked once. BUILD takes each from the
     * stack again; the memo keeps it. */
    b.n = 0;
    PUT(&b, "\x80\2}}q\0b");
    for (unsigned char i = 1; i <= 30; i++) {
        PUT(&b, "}(K\0h");
        put_int(&b, i - 1u, 1);
        PUT(&b, "K\1h");
        put_int(&b, i - 1u, 1);
        PUT(&b, "uq");
        put_int(&b, i, 1);
        PUT(&b, "b");
    }
    PUT(&b, "K\0h\36s.");
    CHECK_MSG(!parse_state(b.p, b.n, &ignored, &err) && ignored == 31, "%zu: %s", ignored, err.text);

    /* marks */
    b.n = 0;
    PUT(&b, "\x80\2");
    for (int i = 0; i <= DEQ_PICKLE_MARKS_MAX; i++)
        PUT(&b, "(");
    CHECK(parse_state(b.p, b.n, &ignored, &err) == DEQ_EFORMAT && strstr(err.text, "byte 258: more than 256 containers inside each other"));

    /* entries */
    const size_t n = 4 * (DEQ_TORCH_ENTRIES_MAX + 1) + 6;
    unsigned char *p = malloc(n);
    memcpy(p, "\x80\2}(", 4);
    for (size_t i = 0; i <= DEQ_TORCH_ENTRIES_MAX; i++)
        memcpy(p + 4 + 4 * i, "M\1\1N", 4);
    memcpy(p + n - 2, "u.", 2);
    CHECK_MSG(parse_state(p, n, &ignored, &err) == DEQ_EFORMAT && strstr(err.text, "more than 65536 entries"), "%s", err.text);
    memcpy(p + n - 6, "u.", 2);
    CHECK_MSG(!parse_state(p, n - 4, &ignored, &err) && ignored == DEQ_TORCH_ENTRIES_MAX, "%s", err.text);
    free(p);

    /* values on the stack, values, bytes */
    p = malloc(DEQ_PICKLE_VALUES_MAX + 8192);
    memset(p, 'N', DEQ_PICKLE_STACK_MAX + 3);
    memcpy(p, "\x80\2", 2);
    CHECK_MSG(parse_state(p, DEQ_PICKLE_STACK_MAX + 3, &ignored, &err) == DEQ_EFORMAT && strstr(err.text, "more than 1048576 values on the stack"),
              "%s", err.text);
    for (size_t i = 2; i < DEQ_PICKLE_VALUES_MAX + 8192; i++)
        p[i] = i % 1024 == 2 ? '(' : i % 1024 == 1 ? 't' : 'N';
    CHECK_MSG(parse_state(p, DEQ_PICKLE_VALUES_MAX + 8192, &ignored, &err) == DEQ_EFORMAT && strstr(err.text, "more than 4194304 values"), "%s",
              err.text);
    CHECK_MSG(parse_state(p, DEQ_PICKLE_BYTES_MAX + 1u, &ignored, &err) == DEQ_EFORMAT && strstr(err.text, "at most 67108864 are read"), "%s",
              err.text);
    free(p);
}

TEST(torchfile_refused_containers)
{
    static struct bytes pickle;
    static const struct tensor_in w = {"FloatStorage", "0", 6, 0, 2, {2, 3}, {3, 1}};
    pickle.n = 0;
    PUT(&pickle, "\x80\2}");
    put_text(&pickle, "w");
    put_tensor(&pickle, &w);
    PUT(&pickle, "s.");
    struct entry {
        const char *name, *text; /* text NULL: the pickle; "6": six floats */
        struct how how;
    };
    static const struct {
        struct entry e[4];
        const char *says;
    } t[] = {
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}}, NULL},
        {{{"any name/data.pkl", NULL, {0}}, {"any name/data/0", "6", {0}}, {"any name/version", "3\n", {0}}, {"any name/byteorder", "little", {0}}}, NULL},
        {{{"m/data/0", "6", {0}}}, "without a data.pkl"},
        {{{"data.pkl", NULL, {0}}, {"data/0", "6", {0}}}, "without a data.pkl"},
        {{{"m/data.pkl", NULL, {0}}, {"k/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}}, "both k/data.pkl and m/data.pkl"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}}, "two zip entries are called m/data.pkl"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}, {"m/data/0", "6", {0}}}, "two zip entries are called m/data/0"},
        {{{"m/data.pkl", NULL, {0}}, {"k/data/0", "6", {0}}}, "entry w: its storage 0 is not in the file"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "xyz", {0}}}, "entry w: its storage 0 has 3 bytes"},
        {{{"m/data.pkl", NULL, {.method = 8}}, {"m/data/0", "6", {0}}}, "zip entry m/data.pkl is compressed or encrypted"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {.method = 8}}}, "zip entry m/data/0 is compressed or encrypted"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {.flags = 1}}}, "zip entry m/data/0 is compressed or encrypted"},
        {{{"m/data.pkl", NULL, {.crc_error = 1}}, {"m/data/0", "6", {0}}}, "zip entry m/data.pkl is damaged: CRC error"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {.crc_error = 1}}}, "zip entry m/data/0 is damaged: CRC error"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {.size_error = 1 << 30}}}, "zip entry m/data/0: its size does not fit the file"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}, {"m/byteorder", "big", {0}}}, "byteorder is big, expected little"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}, {"m/version", "11", {0}}}, "version is 11, expected 1 to 10"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}, {"m/version", "three", {0}}}, "version is three"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}, {"m/version", "a much too long version", {0}}}, "m/version has 23 bytes, at most 16"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        static struct zip_out z;
        struct deq_err err = {0};
        z.file.n = z.directory.n = z.n = 0;
        for (size_t k = 0; k < 4 && t[i].e[k].name; k++) {
            const struct entry *e = &t[i].e[k];
            if (!e->text)
                zip_put(&z, e->name, pickle.p, pickle.n, e->how);
            else if (!strcmp(e->text, "6"))
                zip_put(&z, e->name, six, sizeof six, e->how);
            else
                zip_put(&z, e->name, e->text, strlen(e->text), e->how);
        }
        zip_end(&z);
        enum deq_rc rc = try_file(z.file.p, z.file.n, &err);
        if (t[i].says)
            CHECK_MSG(rc == DEQ_EFORMAT && strstr(err.text, t[i].says), "case %zu: %s", i, err.text);
        else
            CHECK_MSG(!rc, "case %zu: %s", i, err.text);
    }

    struct deq_err err = {0};
    char tar[512] = "sys_info";
    memcpy(tar + 257, "ustar", 5);
    CHECK(try_file(tar, sizeof tar, &err) == DEQ_EFORMAT && strstr(err.text, "saved in PyTorch's format before 1.6"));
    CHECK(try_file("\x80\2}.", 4, &err) == DEQ_EFORMAT && strstr(err.text, "a bare pickle"));
    CHECK(try_file("", 0, &err) == DEQ_EFORMAT && strstr(err.text, "not a PyTorch checkpoint"));
    CHECK(try_file("PK\3\4", 4, &err) == DEQ_EFORMAT && strstr(err.text, "damaged zip container"));
}

/* A file cut anywhere is refused; a file with any one byte changed is refused or read, and nothing else happens. */
TEST(torchfile_truncated_and_flipped)
{
    char *file;
    size_t n, read = 0;
    struct deq_err err = {0};
    CHECK(!deq_io_read(GOLDEN "protocol2.pth", 1 << 16, &file, &n, &err));
    CHECK(!try_file(file, n, &err));
    for (size_t cut = 0; cut < n; cut++)
        CHECK_MSG(try_file(file, cut, &err) == DEQ_EFORMAT, "cut at %zu", cut);
    for (size_t i = 0; i < n; i++)
        for (unsigned bit = 0; bit < 8; bit += 3) {
            file[i] ^= (char)(1u << bit);
            const enum deq_rc rc = try_file(file, n, &err);
            CHECK_MSG(rc == DEQ_OK || rc == DEQ_EFORMAT, "byte %zu: %s", i, err.text);
            read += rc == DEQ_OK;
            file[i] ^= (char)(1u << bit);
        }
    CHECK(read < 3 * n); /* padding, comments and times do not matter */
    CHECK(!try_file(file, n, &err));
    deq_free(file);
}

/* A file that somebody cuts or writes to after it was opened: an error that names it and the tensor, and no signal. */
TEST(torchfile_changes_while_it_is_read)
{
    char path[] = "/tmp/deq-torchfile-XXXXXX", *bytes;
    size_t n;
    struct deq_err err;
    const int fd = mkstemp(path);
    CHECK(fd >= 0 && !deq_io_read(GOLDEN "training.pth", 1 << 24, &bytes, &n, &err));
    for (size_t left = 0; left < n; left += n / 7) {
        struct deq_torchfile *f = NULL;
        CHECK(pwrite(fd, bytes, n, 0) == (ssize_t)n);
        CHECK_MSG(!deq_torchfile_open(path, &f, &err), "%s", err.text);
        if (!f)
            break;
        const struct deq_torchfile_tensor *t = deq_torchfile_at(f, 0);
        float *out = DEQ_NEW_ARRAY(float, t->count);
        CHECK(!ftruncate(fd, (off_t)left));
        CHECK_MSG(deq_torchfile_read(f, t, out, &err) == DEQ_EIO && strstr(err.text, path) && strstr(err.text, t->name) && strstr(err.text, "changed"),
                  "%zu bytes left: %s", left, err.text);
        deq_free(out);
        deq_torchfile_close(f);
    }
    deq_free(bytes);
    close(fd);
    unlink(path);
}

TEST(torchfile_without_memory)
{
    bool done = false;
    for (uint64_t nth = 1; !done && nth < 1000; nth++) {
        struct deq_torchfile *f = NULL;
        struct deq_err err = {0};
        deq_mem_fault(nth, true);
        enum deq_rc rc = deq_torchfile_open(GOLDEN "training.pth", &f, &err);
        float out[6];
        if (!rc)
            rc = deq_torchfile_read(f, deq_torchfile_at(f, 0), out, &err);
        deq_mem_fault(0, false);
        CHECK_MSG(rc == DEQ_ENOMEM || !rc, "allocation %llu: %s", (unsigned long long)nth, err.text);
        done = !rc;
        if (f && rc) { /* memory is there again: the same file reads */
            CHECK(!deq_torchfile_read(f, deq_torchfile_at(f, 0), out, &err));
            CHECK(out[5] == 5);
        }
        deq_torchfile_close(f);
    }
    CHECK(done);
}

/* --- the pickle machine alone --- */

TEST(pickle_values)
{
    static const char text[] = "\x80\5\x95\4\0\0\0\0\0\0\0" "(N\x88\x89K\xffM\xff\xffJ\xff\xff\xff\xff"
                               "\x8a\0\x8a\1\xff\x8a\2\0\x80\x8a\10\0\0\0\0\0\0\0\x80\x8a\11\0\0\0\0\0\0\0\0\1"
                               "G\xbf\xf8\0\0\0\0\0\0" "C\2ab\x8c\3xyz\x94h\0t.";
    static const struct {
        enum deq_pickle_kind kind;
        int64_t integer;
    } want[] = {{DEQ_PICKLE_NONE, 0}, {DEQ_PICKLE_BOOL, 1}, {DEQ_PICKLE_BOOL, 0}, {DEQ_PICKLE_INT, 255}, {DEQ_PICKLE_INT, 65535},
                {DEQ_PICKLE_INT, -1}, {DEQ_PICKLE_INT, 0}, {DEQ_PICKLE_INT, -1}, {DEQ_PICKLE_INT, -32768}, {DEQ_PICKLE_INT, INT64_MIN},
                {DEQ_PICKLE_BIGINT, 0}, {DEQ_PICKLE_FLOAT, 0}, {DEQ_PICKLE_BYTES, 0}, {DEQ_PICKLE_STRING, 0}, {DEQ_PICKLE_STRING, 0}};
    struct deq_pickle *p = NULL;
    struct deq_err err = {0};
    CHECK_MSG(!deq_pickle_parse(text, sizeof text - 1, "p", NULL, 0, &p, &err), "%s", err.text);
    if (!p)
        return;
    const struct deq_pickle_value *root = deq_pickle_at(p, deq_pickle_root(p));
    CHECK(root->kind == DEQ_PICKLE_TUPLE && root->items.n == DEQ_COUNT(want));
    const uint32_t *item = deq_pickle_tuple(p, root);
    struct deq_pickle_place place = {0};
    uint32_t value;
    size_t i = 0;
    for (; deq_pickle_next(p, root, &place, &value) && i < DEQ_COUNT(want); i++) {
        const struct deq_pickle_value *v = deq_pickle_at(p, value);
        CHECK(value == item[i]);
        CHECK_MSG(v->kind == want[i].kind, "item %zu", i);
        if (v->kind == DEQ_PICKLE_INT || v->kind == DEQ_PICKLE_BOOL)
            CHECK_MSG(v->integer == want[i].integer, "item %zu: %lld", i, (long long)v->integer);
        if (v->kind == DEQ_PICKLE_FLOAT)
            CHECK(v->number == -1.5);
        if (v->kind == DEQ_PICKLE_STRING)
            CHECK(v->text.len == 3 && !memcmp(deq_pickle_text(p, v), "xyz", 3));
    }
    CHECK(i == DEQ_COUNT(want) && item[13] == item[14]); /* the memo gives the same value again */
    deq_pickle_free(p);
}
