/* core/data/torchfile.c: files that torch.save wrote (tests/golden/torchfile), crafted
 * containers, and every refusal. */
#define _GNU_SOURCE
#include "core/data/torchfile.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "tests/unit/crafted.h"
#include "tests/unit/test.h"

#define GOLDEN "tests/golden/torchfile/"

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

/* The tensor exists, has this type and shape, and its elements are first + i*step + j*step2 (i, j: row and column of
 * the last two dimensions), exactly. */
static void check_values(struct deq_torchfile *f, const char *name, enum deq_dtype dtype, unsigned n_dims,
                         const uint64_t *shape, float first, float step, float step2)
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
    CHECK_MSG(!deq_torchfile_read(f, t, 0, t->count, out, &err), "%s", err.text);
    const uint64_t columns = n_dims ? shape[n_dims - 1] : 1;
    for (uint64_t i = 0; i < t->count; i++) {
        const float want = first + (float)(i / columns) * step + (float)(i % columns) * step2;
        CHECK_MSG(out[i] == want, "%s[%llu] = %g, expected %g", name, (unsigned long long)i, (double)out[i],
                  (double)want);
    }
    CHECK(out[t->count] == 77);
    free(out);
}

#define VALUES(f, name, dtype, n_dims, first, step, step2, ...) \
    check_values(f, name, dtype, n_dims, (const uint64_t[]){__VA_ARGS__, 0}, first, step, step2)

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
    CHECK(t && t->n_dims == 3 && t->count == 24 && !deq_torchfile_read(f, t, 0, t->count, out, NULL));
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
    static const char *const e[][2] = {{"i64", "int64 tensor"}, {"i32", "int32 tensor"}, {"i16", "int16 tensor"},
                                       {"i8", "int8 tensor"}, {"u8", "uint8 tensor"}, {"bool", "bool tensor"},
                                       {"c64", "complex64 tensor"}, {"u16", "uint16 tensor"}, {"f8", "float8 tensor"}};
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
    static const char *const e[][2] = {{"ema", "container, under an earlier name too"},
                                       {"epoch", "integer"},
                                       {"best", "number"},
                                       {"name", "string"},
                                       {"none", "None"},
                                       {"done", "boolean"},
                                       {"vocab", "dictionary"},
                                       {"huge", "integer"},
                                       {"negative", "integer"},
                                       {"size", "Size"},
                                       {"device", "device"},
                                       {"dtype", "type"},
                                       {"rng", "uint8 tensor"},
                                       {"optimizer.param_groups.0.lr", "number"},
                                       {"optimizer.param_groups.0.betas", "tuple"},
                                       {"optimizer.param_groups.0.params", "list"}};
    for (size_t i = 0; i < DEQ_COUNT(e); i++)
        check_ignored(f, e[i][0], e[i][1]);
    deq_torchfile_close(f);
}

TEST(torchfile_refused_golden)
{
    static const char *const t[][2] = {
        {"module", "module.pth: data.pkl: byte 2: global torch.nn.modules.container.Sequential is not part of a tensor "
                   "state dict; if the file "
                   "is a whole pickled model, save model.state_dict() instead"},
        {"legacy",
         "legacy.pth: saved in PyTorch's format before 1.6: convert it with a current PyTorch: torch.save(torch.load("},
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
    CHECK(deq_torchfile_open(GOLDEN "make.py", &f, &err) == DEQ_EFORMAT &&
          strstr(err.text, "does not begin like a zip"));
    CHECK(deq_torchfile_open(GOLDEN, &f, &err) == DEQ_EIO && strstr(err.text, "not a regular file"));
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
        {{{"any name/data.pkl", NULL, {0}},
          {"any name/data/0", "6", {0}},
          {"any name/version", "3\n", {0}},
          {"any name/byteorder", "little", {0}}},
         NULL},
        {{{"m/data/0", "6", {0}}}, "without a data.pkl"},
        {{{"data.pkl", NULL, {0}}, {"data/0", "6", {0}}}, "without a data.pkl"},
        {{{"m/data.pkl", NULL, {0}}, {"k/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}},
         "both k/data.pkl and m/data.pkl"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}},
         "two zip entries are called m/data.pkl"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}, {"m/data/0", "6", {0}}},
         "two zip entries are called m/data/0"},
        {{{"m/data.pkl", NULL, {0}}, {"k/data/0", "6", {0}}}, "entry w: its storage 0 is not in the file"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "xyz", {0}}}, "entry w: its storage 0 has 3 bytes"},
        {{{"m/data.pkl", NULL, {.method = 8}}, {"m/data/0", "6", {0}}},
         "zip entry m/data.pkl is compressed or encrypted"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {.method = 8}}},
         "zip entry m/data/0 is compressed or encrypted"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {.flags = 1}}}, "zip entry m/data/0 is compressed or encrypted"},
        {{{"m/data.pkl", NULL, {.crc_error = 1}}, {"m/data/0", "6", {0}}},
         "zip entry m/data.pkl is damaged: CRC error"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {.crc_error = 1}}}, "zip entry m/data/0 is damaged: CRC error"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {.size_error = 1 << 30}}},
         "zip entry m/data/0: its size does not fit the file"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}, {"m/byteorder", "big", {0}}},
         "byteorder is big, expected little"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}, {"m/version", "11", {0}}},
         "version is 11, expected 1 to 10"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}, {"m/version", "three", {0}}}, "version is three"},
        {{{"m/data.pkl", NULL, {0}}, {"m/data/0", "6", {0}}, {"m/version", "a much too long version", {0}}},
         "m/version has 23 bytes, at most 16"},
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
    REQUIRE(!deq_io_read(GOLDEN "protocol2.pth", 1 << 16, &file, &n, &err));
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
    REQUIRE(fd >= 0 && !deq_io_read(GOLDEN "training.pth", 1 << 24, &bytes, &n, &err));
    for (size_t left = 0; left < n; left += n / 7) {
        struct deq_torchfile *f = NULL;
        CHECK(pwrite(fd, bytes, n, 0) == (ssize_t)n);
        CHECK_MSG(!deq_torchfile_open(path, &f, &err), "%s", err.text);
        if (!f)
            break;
        const struct deq_torchfile_tensor *t = deq_torchfile_at(f, 0);
        float *out = DEQ_NEW_ARRAY(float, t->count);
        CHECK(!ftruncate(fd, (off_t)left));
        CHECK_MSG(deq_torchfile_read(f, t, 0, t->count, out, &err) == DEQ_EIO && strstr(err.text, path) &&
                      strstr(err.text, t->name) && strstr(err.text, "changed"),
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
            rc = deq_torchfile_read(f, deq_torchfile_at(f, 0), 0, deq_torchfile_at(f, 0)->count, out, &err);
        deq_mem_fault(0, false);
        CHECK_MSG(rc == DEQ_ENOMEM || !rc, "allocation %llu: %s", (unsigned long long)nth, err.text);
        done = !rc;
        if (f && rc) { /* memory is there again: the same file reads */
            CHECK(!deq_torchfile_read(f, deq_torchfile_at(f, 0), 0, deq_torchfile_at(f, 0)->count, out, &err));
            CHECK(out[5] == 5);
        }
        deq_torchfile_close(f);
    }
    CHECK(done);
}
