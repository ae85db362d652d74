#define _GNU_SOURCE
#include "core/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"

static enum deq_rc sys_fail(struct deq_err *err, const char *path, const char *what)
{
    return deq_fail(err, errno == ENOENT ? DEQ_ENOTFOUND : DEQ_EIO, "%s: cannot %s: %s", path, what, strerror(errno));
}

enum deq_rc deq_io_read_fd(int fd, const char *name, size_t max_bytes, char **ret_data, size_t *ret_len, struct deq_err *err)
{
    size_t cap = 1 << 16, len = 0;
    char *data = deq_alloc(cap + 1);
    while (data) {
        ssize_t n = read(fd, data + len, cap - len);
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

enum deq_rc deq_io_read(const char *path, size_t max_bytes, char **ret_data, size_t *ret_len, struct deq_err *err)
{
    /* O_NONBLOCK: opening a FIFO without a writer must not hang; it is refused below */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return sys_fail(err, path, "open");
    enum deq_rc rc = DEQ_OK;
    struct stat st;
    char *data = NULL;
    size_t len = 0;
    if (fstat(fd, &st) < 0) {
        rc = sys_fail(err, path, "stat");
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = deq_fail(err, DEQ_EIO, "%s: not a regular file", path);
        goto out;
    }
    if ((uint64_t)st.st_size > max_bytes) {
        rc = deq_fail(err, DEQ_EFORMAT, "%s: %lld bytes, the limit is %zu", path, (long long)st.st_size, max_bytes);
        goto out;
    }
    data = deq_alloc((size_t)st.st_size + 1);
    if (!data) {
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory for %lld bytes", path, (long long)st.st_size);
        goto out;
    }
    while (len < (size_t)st.st_size) {
        ssize_t n = read(fd, data + len, (size_t)st.st_size - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            rc = n < 0 ? sys_fail(err, path, "read") : deq_fail(err, DEQ_EIO, "%s: became shorter while it was read", path);
            goto out;
        }
        len += (size_t)n;
    }
    data[len] = 0;
    *ret_data = data;
    *ret_len = len;
    data = NULL;
out:
    deq_free(data);
    close(fd);
    return rc;
}

static bool write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t k = write(fd, p, DEQ_MIN(n, (size_t)1 << 30));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

enum deq_rc deq_io_map(const char *path, size_t min_bytes, void **ret_map, size_t *ret_len, struct deq_err *err)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe's other end is not waited for */
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        enum deq_rc rc = deq_fail(err, errno == ENOENT ? DEQ_ENOTFOUND : DEQ_EIO, "%s: cannot open: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    if (!S_ISREG(st.st_mode) || (size_t)st.st_size < min_bytes) {
        close(fd);
        return deq_fail(err, DEQ_EFORMAT, "%s: not a regular file of at least %zu byte%s", path, min_bytes, min_bytes == 1 ? "" : "s");
    }
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return deq_fail(err, DEQ_EIO, "%s: cannot map: %s", path, strerror(errno));
    *ret_map = map;
    *ret_len = (size_t)st.st_size;
    return DEQ_OK;
}

void deq_io_unmap(void *map, size_t len)
{
    if (map)
        munmap(map, len);
}

enum deq_rc deq_io_replace(const char *path, const struct deq_part *parts, size_t n_parts, struct deq_err *err)
{
    char tmp[4096], dir[4096];
    int n = snprintf(tmp, sizeof tmp, "%s.tmp", path);
    if (n < 0 || (size_t)n >= sizeof tmp)
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", path);
    const char *slash = strrchr(path, '/');
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path + (slash == path)) : 1, slash ? path : ".");

    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return sys_fail(err, tmp, "create");
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; i < n_parts && !rc; i++)
        if (!write_all(fd, parts[i].data, parts[i].len))
            rc = sys_fail(err, tmp, "write");
    if (!rc && fsync(fd) < 0)
        rc = sys_fail(err, tmp, "sync");
    if (close(fd) < 0 && !rc)
        rc = sys_fail(err, tmp, "close");
    if (!rc && rename(tmp, path) < 0)
        rc = sys_fail(err, path, "replace");
    if (rc) {
        unlink(tmp);
        return rc;
    }
    int dfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dfd >= 0) {
        (void)fsync(dfd); /* the rename is done; without this sync a crash may bring the old file back, which is whole too */
        close(dfd);
    }
    return DEQ_OK;
}

enum deq_rc deq_io_append_line(const char *path, const char *line, struct deq_err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return sys_fail(err, path, "open");
    bool ok = write_all(fd, line, strlen(line)) && write_all(fd, "\n", 1);
    enum deq_rc rc = ok ? DEQ_OK : sys_fail(err, path, "append");
    close(fd);
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
    if (mkdir(path, 0755) < 0 && !(errno == EEXIST && deq_io_is_dir(path)))
        return sys_fail(err, path, "make the directory");
    return DEQ_OK;
}

bool deq_io_join(char *out, size_t cap, const char *dir, const char *name)
{
    int n = snprintf(out, cap, "%s/%s", dir, name);
    return n >= 0 && (size_t)n < cap;
}
