#define _GNU_SOURCE
#include "core/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/fault.h"
#include "core/base/mem.h"

static enum deq_rc sys_fail(struct deq_err *err, const char *path, const char *what)
{
    return deq_fail(err, errno == ENOENT ? DEQ_ENOTFOUND : DEQ_EIO, "%s: cannot %s: %s", *path ? path : "\"\"", what,
                    strerror(errno));
}

enum deq_rc deq_io_read_fd(int fd, const char *name, size_t max_bytes, char **ret_data, size_t *ret_len,
                           struct deq_err *err)
{
    size_t cap = 1 << 16, len = 0;
    char *data = deq_alloc(cap + 1);
    while (data) {
        ssize_t n = deq_sys_read(fd, data + len, cap - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            sys_fail(err, name, "read");
            deq_free(data);
            return DEQ_EIO;
        }
        len += (size_t)n;
        if (n == 0)
            break;
        if (len > max_bytes) {
            deq_free(data);
            return deq_fail(err, DEQ_EFORMAT, "%s: larger than the limit of %zu bytes", name, max_bytes);
        }
        if (len == cap) {
            char *more = deq_realloc(data, cap, cap * 2 + 1);
            if (!more)
                deq_free(data);
            data = more;
            cap *= 2;
        }
    }
    if (!data)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", name);
    data[len] = 0;
    *ret_data = data;
    *ret_len = len;
    return DEQ_OK;
}

enum deq_rc deq_file_open(const char *path, struct deq_file *ret, struct deq_err *err)
{
    /* O_NONBLOCK: opening a FIFO without a writer must not hang; it is refused below */
    const int fd = DEQ_SYS(EMFILE, open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (fd < 0)
        return sys_fail(err, path, "open");
    struct stat st;
    enum deq_rc rc = DEQ_OK;
    if (DEQ_SYS(EIO, fstat(fd, &st)) < 0)
        rc = sys_fail(err, path, "stat");
    else if (!S_ISREG(st.st_mode))
        rc = deq_fail(err, DEQ_EIO, "%s: not a regular file", path);
    if (rc) {
        close(fd);
        return rc;
    }
    *ret = (struct deq_file){.fd = fd, .path = path, .bytes = (uint64_t)st.st_size, .changed = st.st_mtim};
    return DEQ_OK;
}

void deq_file_close(struct deq_file *f)
{
    close(f->fd);
}

enum deq_rc deq_file_unchanged(const struct deq_file *f, const char *what, struct deq_err *err)
{
    struct stat st;
    if (DEQ_SYS(EIO, fstat(f->fd, &st)) < 0)
        return sys_fail(err, f->path, "stat");
    if ((uint64_t)st.st_size == f->bytes && st.st_mtim.tv_sec == f->changed.tv_sec &&
        st.st_mtim.tv_nsec == f->changed.tv_nsec)
        return DEQ_OK;
    return deq_fail(err, DEQ_EIO, "%s: %s%sthe file changed while it was read (%llu bytes, now %lld)", f->path, what,
                    *what ? ": " : "", (unsigned long long)f->bytes, (long long)st.st_size);
}

enum deq_rc deq_file_read(const struct deq_file *f, uint64_t at, void *out, size_t n, const char *what,
                          struct deq_err *err)
{
    char *p = out;
    while (n) {
        const ssize_t k = deq_sys_pread(f->fd, p, DEQ_MIN(n, (size_t)1 << 30), (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return sys_fail(err, f->path, "read");
        if (k == 0)
            break; /* shorter than it was */
        p += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    enum deq_rc rc = deq_file_unchanged(f, what, err);
    if (!rc && n)
        rc = deq_fail(err, DEQ_EIO, "%s: %s%sthe file ends before byte %llu", f->path, what, *what ? ": " : "",
                      (unsigned long long)(at + n));
    return rc;
}

enum deq_rc deq_io_read(const char *path, size_t max_bytes, char **ret_data, size_t *ret_len, struct deq_err *err)
{
    struct deq_file f = {.fd = -1};
    enum deq_rc rc = deq_file_open(path, &f, err);
    if (rc)
        return rc;
    char *data = NULL;
    if (f.bytes > max_bytes)
        rc = deq_fail(err, DEQ_EFORMAT, "%s: %llu bytes, the limit is %zu", path, (unsigned long long)f.bytes,
                      max_bytes);
    else if (!(data = deq_alloc((size_t)f.bytes + 1)))
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory for %llu bytes", path, (unsigned long long)f.bytes);
    else
        rc = deq_file_read(&f, 0, data, (size_t)f.bytes, "", err);
    if (rc) {
        deq_free(data);
    } else {
        data[f.bytes] = 0;
        *ret_data = data;
        *ret_len = (size_t)f.bytes;
    }
    deq_file_close(&f);
    return rc;
}

bool deq_io_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool deq_io_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

enum deq_rc deq_io_mkdir(const char *path, struct deq_err *err)
{
    if (DEQ_SYS(ENOSPC, mkdir(path, 0755)) < 0 && !(errno == EEXIST && deq_io_is_dir(path)))
        return sys_fail(err, path, "make the directory");
    return DEQ_OK;
}

bool deq_io_join(char *out, size_t cap, const char *dir, const char *name)
{
    int n = snprintf(out, cap, "%s/%s", dir, name);
    return n >= 0 && (size_t)n < cap;
}
