#define _GNU_SOURCE
#include "core/data/torchfile.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/data/pickle.h"
#include "core/math/half.h"

/* bytes of version and byteorder; PyTorch's kMaxSupportedFileFormatVersion */
enum { RECORD_MAX = 16, VERSION_MAX = 10 };

struct zip_entry {
    const char *name; /* libzip's */
    uint64_t index, bytes;
    bool plain; /* neither compressed nor encrypted */
};

struct deq_torchfile {
    char *path;
    struct deq_file file; /* fd -1: a caller's memory */
    zip_t *zip;
    struct zip_entry *entries; /* by name */
    size_t n_entries;
    size_t folder_len; /* bytes of NAME in the pickle's "NAME/data.pkl" */
    const struct zip_entry *pickle;
    struct deq_torch_state state;
    const struct zip_entry *cached; /* storage whose bytes stand in cache, or NULL */
    unsigned char *cache;
};

#define CONVERT "convert it with a current PyTorch: torch.save(torch.load(old, map_location=\"cpu\"), new)"

/* What the first bytes say when they are not a zip's. */
static enum deq_rc check_beginning(const char *path, const unsigned char *p, size_t n, struct deq_err *err)
{
    /* LONG1 */
    static const unsigned char magic[] = {0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
    if (n >= 4 && !memcmp(p, "PK\3\4", 4))
        return DEQ_OK;
    if ((n >= 2 + sizeof magic && p[0] == 0x80 && !memcmp(p + 2, magic, sizeof magic)) ||
        (n >= 262 && !memcmp(p + 257, "ustar", 5)))
        return deq_fail(err, DEQ_EFORMAT, "%s: saved in PyTorch's format before 1.6: " CONVERT, path);
    if (n && p[0] == 0x80)
        return deq_fail(err, DEQ_EFORMAT,
                        "%s: a bare pickle, not a file of torch.save: write model.state_dict() with torch.save", path);
    return deq_fail(err, DEQ_EFORMAT, "%s: not a PyTorch checkpoint: it does not begin like a zip container", path);
}

/* libzip reads through a stream of its own on the same open file. */
static zip_source_t *file_source(const struct deq_file *file, zip_error_t *ze)
{
    const int fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
    FILE *stream = fd < 0 ? NULL : fdopen(fd, "rb");
    zip_source_t *source = stream ? zip_source_filep_create(stream, 0, -1, ze) : NULL;
    if (!stream)
        zip_error_set(ze, ZIP_ER_OPEN, errno);
    if (!source && stream)
        fclose(stream);
    else if (!source && fd >= 0)
        close(fd);
    return source;
}

static enum deq_rc open_zip(struct deq_torchfile *f, const void *bytes, size_t n, struct deq_err *err)
{
    zip_error_t ze;
    zip_error_init(&ze);
    zip_source_t *source = bytes ? zip_source_buffer_create(bytes, n, 0, &ze) : file_source(&f->file, &ze);
    if (source)
        f->zip = zip_open_from_source(source, ZIP_RDONLY, &ze);
    enum deq_rc rc = DEQ_OK;
    if (!f->zip) {
        rc = deq_fail(err, zip_error_code_zip(&ze) == ZIP_ER_MEMORY ? DEQ_ENOMEM : DEQ_EFORMAT,
                      "%s: damaged zip container: %s", f->path, zip_error_strerror(&ze));
        zip_source_free(source);
    }
    zip_error_fini(&ze);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct zip_entry *)a)->name, ((const struct zip_entry *)b)->name);
}

/* The table of entries, by name, none twice; together they are no larger than the file of n bytes. */
static enum deq_rc list_entries(struct deq_torchfile *f, size_t n, struct deq_err *err)
{
    const zip_int64_t count = zip_get_num_entries(f->zip, ZIP_FL_UNCHANGED);
    const zip_uint64_t need = ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD |
                              ZIP_STAT_ENCRYPTION_METHOD;
    uint64_t total = 0;
    if (count > DEQ_TORCHFILE_ZIP_ENTRIES_MAX)
        return deq_fail(err, DEQ_EFORMAT, "%s: more than %d entries in the zip container", f->path,
                        DEQ_TORCHFILE_ZIP_ENTRIES_MAX);
    f->entries = DEQ_NEW_ARRAY(struct zip_entry, count > 0 ? (size_t)count : 0);
    if (!f->entries)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory", f->path);
    for (zip_int64_t i = 0; i < count; i++) {
        zip_stat_t st;
        if (zip_stat_index(f->zip, (zip_uint64_t)i, ZIP_FL_UNCHANGED | ZIP_FL_ENC_RAW, &st) < 0 ||
            (st.valid & need) != need)
            return deq_fail(err, DEQ_EFORMAT, "%s: damaged zip container: entry number %lld", f->path, (long long)i);
        const bool plain = st.comp_method == ZIP_CM_STORE && st.encryption_method == ZIP_EM_NONE;
        if ((plain && st.size != st.comp_size) || __builtin_add_overflow(total, st.comp_size, &total) || total > n)
            return deq_fail(err, DEQ_EFORMAT, "%s: zip entry %s: its size does not fit the file", f->path, st.name);
        f->entries[f->n_entries++] = (struct zip_entry){st.name, (uint64_t)i, st.size, plain};
    }
    qsort(f->entries, f->n_entries, sizeof *f->entries, by_name);
    for (size_t i = 1; i < f->n_entries; i++)
        if (!by_name(&f->entries[i - 1], &f->entries[i]))
            return deq_fail(err, DEQ_EFORMAT, "%s: two zip entries are called %s", f->path, f->entries[i].name);
    return DEQ_OK;
}

static enum deq_rc find_pickle(struct deq_torchfile *f, struct deq_err *err)
{
    static const char name[] = "/data.pkl";
    for (size_t i = 0; i < f->n_entries; i++) {
        const size_t len = strlen(f->entries[i].name), tail = sizeof name - 1;
        if (len <= tail || strcmp(f->entries[i].name + len - tail, name))
            continue;
        if (f->pickle)
            return deq_fail(err, DEQ_EFORMAT, "%s: both %s and %s, expected one data.pkl", f->path, f->pickle->name,
                            f->entries[i].name);
        f->pickle = &f->entries[i];
        f->folder_len = len - tail;
    }
    return f->pickle ? DEQ_OK
                     : deq_fail(err, DEQ_EFORMAT, "%s: a zip container without a data.pkl: not a PyTorch checkpoint",
                                f->path);
}

/* The entry NAME/<tail>, or NULL. */
static const struct zip_entry *find_entry(const struct deq_torchfile *f, const char *folder, const char *tail,
                                          size_t tail_len)
{
    char name[1024];
    const int len = snprintf(name, sizeof name, "%.*s/%s%.*s", (int)DEQ_MIN(f->folder_len, sizeof name),
                             f->pickle->name, folder, (int)DEQ_MIN(tail_len, sizeof name), tail);
    if (len < 0 || (size_t)len >= sizeof name || memchr(tail, 0, tail_len))
        return NULL;
    const struct zip_entry key = {.name = name};
    return bsearch(&key, f->entries, f->n_entries, sizeof key, by_name);
}

/* All bytes of an entry into a new block; its checksum is compared. */
static enum deq_rc read_plain(struct deq_torchfile *f, const struct zip_entry *e, uint64_t max, unsigned char **ret,
                              struct deq_err *err)
{
    if (!e->plain)
        return deq_fail(err, DEQ_EFORMAT,
                        "%s: zip entry %s is compressed or encrypted, which torch.save does not do: write the file "
                        "again with torch.save",
                        f->path, e->name);
    if (e->bytes > max)
        return deq_fail(err, DEQ_EFORMAT, "%s: zip entry %s has %llu bytes, at most %llu are read", f->path, e->name,
                        (unsigned long long)e->bytes, (unsigned long long)max);
    enum deq_rc rc = DEQ_OK;
    unsigned char *bytes = deq_alloc(e->bytes), past;
    zip_file_t *z = NULL;
    uint64_t n = 0;
    zip_int64_t got = 0;
    if (!bytes) {
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory for the %llu bytes of %s", f->path, (unsigned long long)e->bytes,
                      e->name);
        goto out;
    }
    z = zip_fopen_index(f->zip, e->index, ZIP_FL_UNCHANGED);
    if (!z) {
        rc = deq_fail(err, DEQ_EFORMAT, "%s: zip entry %s is damaged: %s", f->path, e->name,
                      zip_error_strerror(zip_get_error(f->zip)));
        goto out;
    }
    while (n < e->bytes && (got = zip_fread(z, bytes + n, e->bytes - n)) > 0)
        n += (uint64_t)got;
    if (n == e->bytes)
        got = zip_fread(z, &past, 1); /* the end is where libzip compares the checksum */
    if (n != e->bytes || got) {
        rc = deq_fail(err, DEQ_EFORMAT, "%s: zip entry %s is damaged: %s", f->path, e->name,
                      got < 0 ? zip_error_strerror(zip_file_get_error(z)) : "not as long as the directory says");
        goto out;
    }
    *ret = bytes;
    bytes = NULL;
out:
    if (z)
        zip_fclose(z);
    deq_free(bytes);
    return rc;
}

/* The same, and an error where the file changed meanwhile. tensor: the one that it is read
 * for, for messages, or NULL. */
static enum deq_rc read_entry(struct deq_torchfile *f, const struct zip_entry *e, const char *tensor, uint64_t max,
                              unsigned char **ret, struct deq_err *err)
{
    unsigned char *bytes = NULL;
    char what[512];
    snprintf(what, sizeof what, "%s%s%szip entry %s", tensor ? "tensor " : "", tensor ? tensor : "", tensor ? ": " : "",
             e->name);
    enum deq_rc rc = read_plain(f, e, max, &bytes, err);
    if (f->file.fd >= 0 && deq_file_unchanged(&f->file, what, err)) /* the better reason, if there is another one too */
        rc = DEQ_EIO;
    if (rc)
        deq_free(bytes);
    else
        *ret = bytes;
    return rc;
}

/* A text record, without the white space around it; "" when it is absent. */
static enum deq_rc read_record(struct deq_torchfile *f, const char *name, char out[RECORD_MAX + 1], struct deq_err *err)
{
    const struct zip_entry *e = find_entry(f, "", name, strlen(name));
    unsigned char *bytes = NULL;
    *out = 0;
    if (!e)
        return DEQ_OK;
    enum deq_rc rc = read_entry(f, e, NULL, RECORD_MAX, &bytes, err);
    if (rc)
        return rc;
    size_t n = e->bytes;
    while (n && (bytes[n - 1] == '\n' || bytes[n - 1] == ' '))
        n--;
    memcpy(out, bytes, n);
    out[n] = 0;
    deq_free(bytes);
    return DEQ_OK;
}

static enum deq_rc check_records(struct deq_torchfile *f, struct deq_err *err)
{
    char text[RECORD_MAX + 1], *end;
    enum deq_rc rc = read_record(f, "byteorder", text, err);
    if (rc)
        return rc;
    if (*text && strcmp(text, "little"))
        return deq_fail(err, DEQ_EFORMAT, "%s: byteorder is %s, expected little", f->path, text);
    rc = read_record(f, "version", text, err);
    if (rc || !*text)
        return rc;
    const unsigned long version = strtoul(text, &end, 10);
    if (*end || !version || version > VERSION_MAX)
        return deq_fail(err, DEQ_EFORMAT, "%s: version is %s, expected 1 to %d", f->path, text, VERSION_MAX);
    return DEQ_OK;
}

static bool find_storage(void *ctx, const char *key, size_t key_len, uint64_t *ret_storage, uint64_t *ret_bytes)
{
    const struct deq_torchfile *f = ctx;
    const struct zip_entry *e = find_entry(f, "data/", key, key_len);
    if (!e)
        return false;
    *ret_storage = (uint64_t)(e - f->entries);
    *ret_bytes = e->bytes;
    return true;
}

static enum deq_rc read_pickle(struct deq_torchfile *f, struct deq_err *err)
{
    char name[512];
    unsigned char *bytes = NULL;
    enum deq_rc rc = read_entry(f, f->pickle, NULL, DEQ_PICKLE_BYTES_MAX, &bytes, err);
    if (rc)
        return rc;
    snprintf(name, sizeof name, "%s: data.pkl", f->path);
    rc = deq_torch_state_parse(bytes, f->pickle->bytes, name, find_storage, f, &f->state, err);
    deq_free(bytes);
    return rc;
}

/* bytes NULL: the file called path is opened. */
static enum deq_rc open_source(const void *bytes, size_t n, const char *path, struct deq_torchfile **ret_file,
                               struct deq_err *err)
{
    unsigned char beginning[512];
    enum deq_rc rc = DEQ_OK;
    struct deq_torchfile *f = DEQ_NEW(struct deq_torchfile);
    if (f)
        f->file.fd = -1;
    if (!f || !(f->path = deq_strdup(path)))
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory", path);
    if (!rc && !bytes && !(rc = deq_file_open(f->path, &f->file, err))) {
        n = (size_t)f->file.bytes;
        rc = deq_file_read(&f->file, 0, beginning, DEQ_MIN(n, sizeof beginning), "", err);
    }
    if (!rc)
        rc = check_beginning(path, bytes ? bytes : beginning, bytes ? n : DEQ_MIN(n, sizeof beginning), err);
    if (!rc && !(rc = open_zip(f, bytes, n, err)) && !(rc = list_entries(f, n, err)) && !(rc = find_pickle(f, err)) &&
        !(rc = check_records(f, err)))
        rc = read_pickle(f, err);
    if (rc)
        deq_torchfile_close(f);
    else
        *ret_file = f;
    return rc;
}

enum deq_rc deq_torchfile_open_memory(const void *bytes, size_t n, const char *name, struct deq_torchfile **ret_file,
                                      struct deq_err *err)
{
    return open_source(bytes, n, name, ret_file, err);
}

enum deq_rc deq_torchfile_open(const char *path, struct deq_torchfile **ret_file, struct deq_err *err)
{
    return open_source(NULL, 0, path, ret_file, err);
}

void deq_torchfile_close(struct deq_torchfile *f)
{
    if (!f)
        return;
    if (f->zip)
        zip_discard(f->zip);
    if (f->file.fd >= 0)
        deq_file_close(&f->file);
    deq_torch_state_free(&f->state);
    deq_free(f->cache);
    deq_free(f->entries);
    deq_free(f->path);
    deq_free(f);
}

size_t deq_torchfile_count(const struct deq_torchfile *f)
{
    return f->state.n_tensors;
}

const struct deq_torchfile_tensor *deq_torchfile_at(const struct deq_torchfile *f, size_t i)
{
    return &f->state.tensors[i];
}

static int name_against(const void *name, const void *tensor)
{
    return strcmp(name, (*(const struct deq_torchfile_tensor *const *)tensor)->name);
}

const struct deq_torchfile_tensor *deq_torchfile_find(const struct deq_torchfile *f, const char *name)
{
    const struct deq_torchfile_tensor **found =
        bsearch(name, f->state.by_name, f->state.n_tensors, sizeof *f->state.by_name, name_against);
    return found ? *found : NULL;
}

size_t deq_torchfile_ignored_count(const struct deq_torchfile *f)
{
    return f->state.n_ignored;
}

const struct deq_torchfile_ignored *deq_torchfile_ignored_at(const struct deq_torchfile *f, size_t i)
{
    return &f->state.ignored[i];
}

/* One element as float32; *ret_wide is what the file says. */
static float element(enum deq_dtype dtype, const unsigned char *p, double *ret_wide)
{
    uint16_t h;
    float s;
    switch (dtype) {
    case DEQ_F16:
        memcpy(&h, p, 2);
        s = deq_f16_to_f32(h);
        break;
    case DEQ_BF16:
        memcpy(&h, p, 2);
        s = deq_bf16_to_f32(h);
        break;
    case DEQ_F64:
        memcpy(ret_wide, p, 8);
        return (float)*ret_wide;
    default: memcpy(&s, p, 4); break;
    }
    *ret_wide = s;
    return s;
}

enum deq_rc deq_torchfile_read(struct deq_torchfile *f, const struct deq_torchfile_tensor *t, float *out,
                               struct deq_err *err)
{
    if (!t->count)
        return DEQ_OK;
    const struct zip_entry *e = &f->entries[t->storage];
    if (f->cached != e) {
        deq_free(f->cache);
        f->cache = NULL;
        f->cached = NULL;
        enum deq_rc rc = read_entry(f, e, t->name, SIZE_MAX, &f->cache, err);
        if (rc)
            return rc;
        f->cached = e;
    }
    /* rows along the last dimension; the others count up like an odometer */
    const size_t size = deq_dtype_bytes(t->dtype);
    const uint64_t row = t->n_dims ? t->shape[t->n_dims - 1] : 1, step = t->n_dims ? t->stride[t->n_dims - 1] : 0;
    uint64_t at[DEQ_TORCH_DIMS_MAX] = {0}, start = t->offset;
    for (uint64_t i = 0; i < t->count;) {
        for (uint64_t j = 0; j < row; j++, i++) {
            double wide;
            out[i] = element(t->dtype, f->cache + (start + j * step) * size, &wide);
            if (!isfinite(out[i]))
                return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: element %llu, %g, %s", f->path, t->name,
                                (unsigned long long)i, wide,
                                isfinite(wide) ? "is too large for float32" : "is not finite");
        }
        for (unsigned d = t->n_dims; d-- > 1;) {
            start += t->stride[d - 1];
            if (++at[d - 1] < t->shape[d - 1])
                break;
            start -= at[d - 1] * t->stride[d - 1];
            at[d - 1] = 0;
        }
    }
    return DEQ_OK;
}
