#include "tests/unit/crafted.h"

#include <stdlib.h>
#include <string.h>

#include "tests/unit/test.h"

void put(struct bytes *b, const void *p, size_t n)
{
    if (n > sizeof b->p - b->n)
        abort();
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

void put_int(struct bytes *b, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)(v >> 8 * i);
        put(b, &c, 1);
    }
}

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

void zip_put(struct zip_out *z, const char *name, const void *data, size_t n, struct how how)
{
    const uint32_t crc = crc32_of(data, n) ^ how.crc_error, local = (uint32_t)z->file.n;
    const uint32_t size = (uint32_t)n + how.size_error;
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

void zip_end(struct zip_out *z)
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

enum deq_rc read_all(struct deq_torchfile *f, struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; !rc && i < deq_torchfile_count(f); i++) {
        const struct deq_torchfile_tensor *t = deq_torchfile_at(f, i);
        float *out = malloc((t->count + 1) * sizeof *out);
        rc = deq_torchfile_read(f, t, 0, t->count, out, err);
        free(out);
    }
    return rc;
}

enum deq_rc try_file(const void *bytes, size_t n, struct deq_err *err)
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

const float six[6] = {0, 1, 2, 3, 4, 5};

enum deq_rc try_pickle(const struct bytes *pickle, struct deq_torchfile **ret, struct deq_err *err)
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

void put_text(struct bytes *b, const char *s)
{
    PUT(b, "X");
    put_int(b, strlen(s), 4);
    put(b, s, strlen(s));
}

void put_tuple(struct bytes *b, unsigned n, const int64_t *v)
{
    PUT(b, "(");
    for (unsigned i = 0; i < n; i++) {
        PUT(b, "\x8a\10");
        put_int(b, (uint64_t)v[i], 8);
    }
    PUT(b, "t");
}

void put_tensor(struct bytes *b, const struct tensor_in *t)
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

void check_ignored(const struct deq_torchfile *f, const char *name, const char *what)
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
