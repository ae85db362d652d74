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
    const struct zip_entry *streamed; /* storage that is read from front to back, or NULL */
    zip_file_t *stream;
    uint64_t stream_at; /* bytes of it that were read */
};

#define COMPRESSED \
    "%s: zip entry %s is compressed or encrypted, which torch.save does not do: write the file again with torch.save"
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

/* --- An entry, from front to back --- */

static void stream_close(struct deq_torchfile *f)
{
    if (f->stream)
        zip_fclose(f->stream);
    f->stream = NULL;
    f->streamed = NULL;
    f->stream_at = 0;
}

/* The next n bytes of the stream; at its end libzip compares the checksum. An error where the file changed meanwhile.
 * tensor: the one that it is read for, for messages, or NULL. */
static enum deq_rc stream_next(struct deq_torchfile *f, const char *tensor, unsigned char *out, size_t n,
                               struct deq_err *err)
{
    const struct zip_entry *e = f->streamed;
    char what[512];
    unsigned char past;
    zip_int64_t got = 1;
    for (size_t at = 0; at < n && got > 0; at += (size_t)DEQ_MAX(got, 0), f->stream_at += (uint64_t)DEQ_MAX(got, 0))
        got = zip_fread(f->stream, out + at, n - at);
    if (got > 0 && f->stream_at == e->bytes)
        got = zip_fread(f->stream, &past, 1) == 0 ? 1 : -1;
    snprintf(what, sizeof what, "%s%s%szip entry %s", tensor ? "tensor " : "", tensor ? tensor : "",
             tensor ? ": " : "", e->name);
    if (f->file.fd >= 0 && deq_file_unchanged(&f->file, what, err))
        return DEQ_EIO; /* the better reason, if there is another one too */
    return got > 0 ? DEQ_OK
                   : deq_fail(err, DEQ_EFORMAT, "%s: zip entry %s is damaged: %s", f->path, e->name,
                              got < 0 ? zip_error_strerror(zip_file_get_error(f->stream))
                                      : "not as long as the directory says");
}

/* The stream stands at byte `at` of the storage afterwards. */
static enum deq_rc stream_seek(struct deq_torchfile *f, const struct zip_entry *e, const char *tensor, uint64_t at,
                               struct deq_err *err)
{
    unsigned char skipped[4096];
    enum deq_rc rc = DEQ_OK;
    if (f->streamed != e || f->stream_at > at) {
        stream_close(f);
        if (!e->plain)
            return deq_fail(err, DEQ_EFORMAT, COMPRESSED, f->path, e->name);
        f->stream = zip_fopen_index(f->zip, e->index, ZIP_FL_UNCHANGED);
        if (!f->stream)
            return deq_fail(err, DEQ_EFORMAT, "%s: zip entry %s is damaged: %s", f->path, e->name,
                            zip_error_strerror(zip_get_error(f->zip)));
        f->streamed = e;
    }
    if (f->stream_at < at && !zip_fseek(f->stream, (zip_int64_t)at, SEEK_SET)) /* then nothing is left to compare */
        f->stream_at = at;
    while (!rc && f->stream_at < at)
        rc = stream_next(f, tensor, skipped, (size_t)DEQ_MIN(at - f->stream_at, sizeof skipped), err);
    return rc;
}

/* All bytes of an entry into a new block. */
static enum deq_rc read_entry(struct deq_torchfile *f, const struct zip_entry *e, const char *tensor, uint64_t max,
                              unsigned char **ret, struct deq_err *err)
{
    if (e->plain && e->bytes > max)
        return deq_fail(err, DEQ_EFORMAT, "%s: zip entry %s has %llu bytes, at most %llu are read", f->path, e->name,
                        (unsigned long long)e->bytes, (unsigned long long)max);
    enum deq_rc rc = stream_seek(f, e, tensor, 0, err);
    unsigned char *bytes = rc ? NULL : deq_alloc(e->bytes);
    if (!rc && !bytes)
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory for the %llu bytes of %s", f->path, (unsigned long long)e->bytes,
                      e->name);
    if (!rc)
        rc = stream_next(f, tensor, bytes, e->bytes, err);
    stream_close(f);
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
    stream_close(f);
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

/* --- Numbers --- */

enum { PIECE = 4096 /* elements: small enough for the stack, large enough that reading is all it costs */ };

static enum deq_rc not_finite(const struct deq_torchfile *f, const struct deq_torchfile_tensor *t, uint64_t i,
                              double wide, struct deq_err *err)
{
    return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: element %llu, %g, %s", f->path, t->name, (unsigned long long)i,
                    wide, isfinite(wide) ? "is too large for float32" : "is not finite");
}

/* All of its storage, in order: what nearly every tensor is. */
static bool is_whole(const struct deq_torchfile *f, const struct deq_torchfile_tensor *t)
{
    uint64_t step = 1;
    for (unsigned d = t->n_dims; d-- > 0; step *= t->shape[d])
        if (t->shape[d] != 1 && t->stride[d] != step)
            return false;
    return !t->offset && f->entries[t->storage].bytes == t->count * deq_dtype_bytes(t->dtype);
}

static enum deq_rc read_stream(struct deq_torchfile *f, const struct deq_torchfile_tensor *t, uint64_t first, size_t n,
                               float *out, struct deq_err *err)
{
    unsigned char piece[PIECE * sizeof(double)];
    const size_t size = deq_dtype_bytes(t->dtype);
    enum deq_rc rc = stream_seek(f, &f->entries[t->storage], t->name, first * size, err);
    for (size_t i = 0, k; i < n && !rc; i += k) {
        k = DEQ_MIN(n - i, (size_t)PIECE);
        rc = stream_next(f, t->name, piece, k * size, err);
        for (size_t j = 0; j < k && !rc; j++) {
            double wide;
            out[i + j] = element(t->dtype, piece + j * size, &wide);
            if (!isfinite(out[i + j]))
                rc = not_finite(f, t, first + i + j, wide, err);
        }
    }
    return rc;
}

/* A view: its storage is kept until another one is read. */
static enum deq_rc read_view(struct deq_torchfile *f, const struct deq_torchfile_tensor *t, uint64_t first, size_t n,
                             float *out, struct deq_err *err)
{
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
    for (size_t i = 0; i < n; i++) {
        uint64_t at = t->offset, rest = first + i;
        double wide;
        for (unsigned d = t->n_dims; d-- > 0; rest /= t->shape[d])
            at += rest % t->shape[d] * t->stride[d];
        out[i] = element(t->dtype, f->cache + at * deq_dtype_bytes(t->dtype), &wide);
        if (!isfinite(out[i]))
            return not_finite(f, t, first + i, wide, err);
    }
    return DEQ_OK;
}

enum deq_rc deq_torchfile_read(struct deq_torchfile *f, const struct deq_torchfile_tensor *t, uint64_t first, size_t n,
                               float *out, struct deq_err *err)
{
    if (!n)
        return DEQ_OK;
    return is_whole(f, t) ? read_stream(f, t, first, n, out, err) : read_view(f, t, first, n, out, err);
}
