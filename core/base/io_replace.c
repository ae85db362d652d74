/* Writing files and whole directories: see deq_io_replace and deq_io_dir_begin in io.h.
 *
 * What is new is called .NAME.<16 hex digits>.tmp until it is whole. Its writer holds a lock on it, so what a crash
 * left behind has no lock, and whoever writes NAME next removes it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/fault.h"
#include "core/base/io.h"

enum {
    PATH_BYTES = 4096,
    TMP_BYTES = PATH_BYTES + 256,
    LINKS_MAX = 40,
    NAMES_MAX = 100,
    NEST_MAX = 8,
    DIGITS = 16,
    BASE_MAX = 220 /* with what is added, a name of at most 255 bytes */
};
enum { READER_WAIT_MS = 1000, READER_POLL_MS = 20 };

struct place {
    char path[PATH_BYTES], dir[PATH_BYTES];
    const char *base; /* the name within dir, in path */
};

static enum deq_rc sys_fail(struct deq_err *err, const char *path, const char *what)
{
    return deq_fail(err, errno == ENOENT ? DEQ_ENOTFOUND : DEQ_EIO, "%s: cannot %s: %s", path, what, strerror(errno));
}

static bool write_all(int fd, const char *p, size_t n)
{
    while (n) {
        const ssize_t k = deq_sys_write(fd, p, DEQ_MIN(n, (size_t)1 << 30));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

static struct deq_part part_of_array(void *ctx, size_t i)
{
    return ((const struct deq_part *)ctx)[i];
}

static struct deq_parts array_of(const struct deq_part *parts, size_t n)
{
    return (struct deq_parts){n, part_of_array, (void *)(uintptr_t)parts};
}

static enum deq_rc write_parts(int fd, const char *path, const struct deq_parts *parts, struct deq_err *err)
{
    for (size_t i = 0; i < parts->n; i++) {
        const struct deq_part p = parts->part(parts->ctx, i);
        if (p.len && !p.data)
            return deq_fail(err, DEQ_ECANCELED, "%s: writing was given up", path);
        if (!write_all(fd, p.data, p.len))
            return sys_fail(err, path, "write");
    }
    return DEQ_OK;
}

static bool set_place(struct place *p, const char *path)
{
    /* cppcheck-suppress ctuuninitvar; it is written here */
    const int n = snprintf(p->path, sizeof p->path, "%s", path);
    if (n < 0 || (size_t)n >= sizeof p->path)
        return false;
    const char *slash = strrchr(p->path, '/');
    p->base = slash ? slash + 1 : p->path;
    snprintf(p->dir, sizeof p->dir, "%.*s", slash ? (int)(slash - p->path + (slash == p->path)) : 1,
             slash ? p->path : ".");
    return true;
}

/* The descriptor of this process that a path like /dev/fd/1 stands for, or -1. Opened by name it would begin at
 * the front of its file again. */
static int own_descriptor(const struct place *p)
{
    char own[64], real[PATH_MAX], *end;
    snprintf(own, sizeof own, "/proc/%d/fd", (int)getpid());
    if (*p->base < '0' || *p->base > '9' || !realpath(p->dir, real) || strcmp(real, own))
        return -1;
    const unsigned long fd = strtoul(p->base, &end, 10);
    return *end || fd > INT_MAX ? -1 : (int)fd;
}

/* Follows symbolic links, also to what is not there yet. *ret_fd: where they end in a descriptor
 * of this process, else -1. */
static enum deq_rc follow(const char *path, struct place *p, int *ret_fd, struct deq_err *err)
{
    char link[PATH_BYTES], next[2 * PATH_BYTES];
    if (!set_place(p, path))
        return deq_fail(err, DEQ_EINVAL, "%.100s...: path too long", path);
    for (unsigned i = 0; i <= LINKS_MAX; i++) {
        if ((*ret_fd = own_descriptor(p)) >= 0)
            return DEQ_OK;
        const ssize_t n = readlink(p->path, link, sizeof link - 1);
        if (n < 0)
            return DEQ_OK; /* no link; what else is wrong with it, opening it will say */
        link[n] = 0;
        snprintf(next, sizeof next, "%s%s%s", link[0] == '/' ? "" : p->dir, link[0] == '/' ? "" : "/", link);
        if (!set_place(p, next))
            return deq_fail(err, DEQ_EINVAL, "%s: leads to a path that is too long", path);
    }
    errno = ELOOP;
    return sys_fail(err, path, "follow the links");
}

/* Is this a name that `create` may have made for base, or, NULL, for anything? */
static bool is_temporary(const char *name, const char *base)
{
    static const char end[] = ".tmp";
    const size_t len = strlen(name), added = 2 + DIGITS + sizeof end - 1;
    const size_t n = base ? strnlen(base, BASE_MAX) : len > added ? len - added : 0;
    return n && name[0] == '.' && (!base || !strncmp(name + 1, base, n)) && name[n + 1] == '.' &&
           strspn(name + n + 2, "0123456789abcdef") == DIGITS && !strcmp(name + n + 2 + DIGITS, end);
}

/* Removes a directory and what is in it, links themselves and not what they lead to; whether it is gone. A writer makes
 * only files there; directories stand in it where somebody put them. depth: within each other, at most. */
static bool remove_dir(int parent, const char *name, unsigned depth)
{
    const int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    for (struct dirent *e; d && (e = readdir(d));) {
        const bool itself = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
        if (!itself && unlinkat(fd, e->d_name, 0) && depth)
            (void)remove_dir(fd, e->d_name, depth - 1);
    }
    if (d)
        closedir(d);
    else if (fd >= 0)
        close(fd);
    return !unlinkat(parent, name, AT_REMOVEDIR);
}

/* Removes what writers of the same name, or, NULL, of any, that are no more have left. */
static unsigned sweep(const char *dir, const char *base)
{
    const unsigned nest = base ? 0 : NEST_MAX; /* where anybody may write, what no writer makes is not touched */
    unsigned n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat st;
        if (!is_temporary(e->d_name, base))
            continue;
        const int fd = openat(dirfd(d), e->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
            continue;
        const bool ours = !fstat(fd, &st) && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) &&
                          !flock(fd, LOCK_EX | LOCK_NB);
        if (ours)
            n += S_ISDIR(st.st_mode) ? remove_dir(dirfd(d), e->d_name, nest) : !unlinkat(dirfd(d), e->d_name, 0);
        close(fd);
    }
    if (d)
        closedir(d);
    return n;
}

unsigned deq_io_sweep(const char *dir)
{
    return sweep(dir, NULL);
}

/* A new, locked file or directory beside p. */
static enum deq_rc create(const struct place *p, mode_t mode, char tmp[TMP_BYTES], int *ret_fd, struct deq_err *err)
{
    (void)sweep(p->dir, p->base);
    for (unsigned i = 0; i < NAMES_MAX; i++) {
        uint64_t r;
        struct stat st;
        int fd;
        if (getrandom(&r, sizeof r, 0) != (ssize_t)sizeof r)
            return sys_fail(err, p->path, "find an unused name beside it");
        snprintf(tmp, TMP_BYTES, "%s/.%.*s.%0*llx.tmp", p->dir, BASE_MAX, p->base, DIGITS, (unsigned long long)r);
        if (S_ISDIR(mode))
            fd = DEQ_SYS(ENOSPC, mkdir(tmp, mode & 0777)) < 0
                     ? -1
                     : DEQ_SYS(EMFILE, open(tmp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        else
            fd = DEQ_SYS(ENOSPC, open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode & 0777));
        if (fd < 0 && errno == EEXIST)
            continue;
        if (fd < 0)
            return sys_fail(err, p->path, "create a new one beside it");
        /* where there are no locks, nobody sweeps either */
        if ((flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) || DEQ_SYS(EIO, fstat(fd, &st)) < 0 ||
            !st.st_nlink) {
            close(fd); /* it was swept before it was locked */
            continue;
        }
        *ret_fd = fd;
        return DEQ_OK;
    }
    errno = EEXIST;
    return sys_fail(err, p->path, "find an unused name beside it");
}

/* A rename is done; without this sync a crash may bring back what was there, which is whole too. */
static void sync_dir(const char *dir)
{
    const int fd = DEQ_SYS(EMFILE, open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd < 0)
        return;
    (void)DEQ_SYS(EIO, fsync(fd));
    close(fd);
}

/* old: what is replaced, or NULL; then mode is the file's. */
static enum deq_rc replace(const struct place *p, const struct stat *old, mode_t mode, const struct deq_parts *parts,
                           struct deq_err *err)
{
    char tmp[TMP_BYTES];
    int fd = -1;
    enum deq_rc rc = create(p, S_IFREG | (old ? 0600 : mode), tmp, &fd, err);
    if (rc)
        return rc;
    rc = write_parts(fd, p->path, parts, err);
    if (!rc && old) {
        (void)!fchown(fd, old->st_uid, old->st_gid); /* only root gives files away; else it is ours from now on */
        if (DEQ_SYS(EPERM, fchmod(fd, old->st_mode & 0777)) < 0)
            rc = sys_fail(err, p->path, "set the mode of a file beside it");
    }
    if (!rc && DEQ_SYS(EIO, fsync(fd)) < 0)
        rc = sys_fail(err, p->path, "sync");
    if (!rc && DEQ_SYS(EIO, rename(tmp, p->path)) < 0)
        rc = sys_fail(err, p->path, "replace");
    if (rc)
        unlink(tmp);
    if (deq_sys_close(fd) < 0 && !rc)
        rc = sys_fail(err, p->path, "close");
    if (!rc)
        sync_dir(p->dir);
    return rc;
}

/* A device or a pipe, to be written to. A FIFO's reader may come a moment later than we; for one that never
 * comes nobody waits for ever. */
static int open_through(const char *path)
{
    const struct timespec pause = {.tv_nsec = READER_POLL_MS * 1000000l};
    for (unsigned ms = 0;; ms += READER_POLL_MS) {
        const int fd = DEQ_SYS(EMFILE, open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
        if (fd >= 0 && fcntl(fd, F_SETFL, 0) < 0) { /* from here on it may wait */
            close(fd);
            return -1;
        }
        if (fd >= 0 || errno != ENXIO || ms >= READER_WAIT_MS)
            return fd;
        nanosleep(&pause, NULL);
    }
}

static enum deq_rc write_through(const char *path, const struct deq_parts *parts, struct deq_err *err)
{
    struct stat st;
    const int fd = open_through(path);
    if (fd < 0 && errno == ENXIO)
        return deq_fail(err, DEQ_EIO, "%s: nobody reads from this pipe", path);
    if (fd < 0)
        return sys_fail(err, path, "open");
    enum deq_rc rc = !fstat(fd, &st) && (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode))
                         ? write_parts(fd, path, parts, err)
                         : deq_fail(err, DEQ_EIO, "%s: became another file while it was opened", path);
    if (deq_sys_close(fd) < 0 && !rc)
        rc = sys_fail(err, path, "close");
    return rc;
}

/* mode: of a new file */
static enum deq_rc replace_at(const char *path, mode_t mode, const struct deq_parts *parts, struct deq_err *err)
{
    struct place p;
    struct stat st;
    int own;
    enum deq_rc rc = follow(path, &p, &own, err);
    if (rc)
        return rc;
    if (own >= 0)
        return write_parts(own, path, parts, err);
    if (!*p.base)
        return deq_fail(err, DEQ_EINVAL, "%s: the name of a directory, expected a file", path);
    const bool old = !DEQ_SYS(EIO, lstat(p.path, &st));
    if (!old && errno != ENOENT)
        return sys_fail(err, path, "write");
    if (!old || S_ISREG(st.st_mode))
        return replace(&p, old ? &st : NULL, mode, parts, err);
    if (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode))
        return write_through(p.path, parts, err);
    return deq_fail(err, DEQ_EIO, "%s: is a %s, expected a file", path,
                    S_ISDIR(st.st_mode) ? "directory" : S_ISBLK(st.st_mode) ? "block device" : "socket");
}

enum deq_rc deq_io_replace(const char *path, const struct deq_part *parts, size_t n_parts, struct deq_err *err)
{
    const struct deq_parts all = array_of(parts, n_parts);
    return replace_at(path, 0666, &all, err);
}

enum deq_rc deq_io_replace_private(const char *path, const struct deq_parts *parts, struct deq_err *err)
{
    return replace_at(path, 0600, parts, err);
}

enum deq_rc deq_io_append_line(const char *path, const char *line, struct deq_err *err)
{
    /* O_NONBLOCK: a pipe that nobody reads must not hang */
    const int fd = DEQ_SYS(ENOSPC, open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666));
    struct stat st = {0};
    if (fd < 0)
        return errno == ENXIO ? deq_fail(err, DEQ_EIO, "%s: nobody reads from this pipe", path)
                              : sys_fail(err, path, "open");
    if (fcntl(fd, F_SETFL, O_APPEND) < 0 || DEQ_SYS(EIO, fstat(fd, &st)) < 0 ||
        !(S_ISREG(st.st_mode) || S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode))) {
        close(fd);
        return deq_fail(err, DEQ_EIO, "%s: lines can be added to a file or a pipe, and this is neither", path);
    }
    const struct deq_part parts[] = {{line, strlen(line)}, {"\n", 1}};
    const struct deq_parts all = array_of(parts, DEQ_COUNT(parts));
    enum deq_rc rc = write_parts(fd, path, &all, err);
    if (rc && S_ISREG(st.st_mode) && ftruncate(fd, st.st_size) < 0)
        rc = sys_fail(err, path, "take back a part of a line");
    if (deq_sys_close(fd) < 0 && !rc)
        rc = sys_fail(err, path, "close");
    return rc;
}

enum deq_rc deq_new_file_begin(const char *path, struct deq_new_file *ret, struct deq_err *err)
{
    const int fd = DEQ_SYS(ENOSPC, open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666));
    if (fd < 0)
        return sys_fail(err, path, "create");
    *ret = (struct deq_new_file){fd, path};
    return DEQ_OK;
}

enum deq_rc deq_new_file_write(const struct deq_new_file *f, uint64_t at, const void *data, size_t n,
                               struct deq_err *err)
{
    const char *p = data;
    while (n) {
        const ssize_t k = deq_sys_pwrite(f->fd, p, DEQ_MIN(n, (size_t)1 << 30), (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return sys_fail(err, f->path, "write");
        p += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return DEQ_OK;
}

enum deq_rc deq_new_file_end(struct deq_new_file *f, enum deq_rc rc, struct deq_err *err)
{
    if (!rc && DEQ_SYS(EIO, fsync(f->fd)) < 0)
        rc = sys_fail(err, f->path, "sync");
    if (deq_sys_close(f->fd) < 0 && !rc)
        rc = sys_fail(err, f->path, "close");
    return rc;
}

enum deq_rc deq_io_dir_begin(const char *path, struct deq_new_dir *ret, struct deq_err *err)
{
    struct place p;
    struct stat st;
    char trimmed[PATH_BYTES];
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    if (n >= sizeof trimmed)
        return deq_fail(err, DEQ_EINVAL, "%.100s...: path too long", path);
    memcpy(trimmed, path, n);
    trimmed[n] = 0;
    if (!set_place(&p, trimmed) || !*p.base)
        return deq_fail(err, DEQ_EINVAL, "\"%s\" is not the name of a new directory", path);
    if (!lstat(trimmed, &st))
        return deq_fail(err, DEQ_EINVAL, "%s: exists already, expected the name of a new directory", trimmed);
    enum deq_rc rc = create(&p, S_IFDIR | 0777, ret->part, &ret->lock, err);
    if (!rc)
        memcpy(ret->path, trimmed, n + 1);
    return rc;
}

enum deq_rc deq_io_dir_end(struct deq_new_dir *d, enum deq_rc rc, struct deq_err *err)
{
    struct place p;
    if (!rc && DEQ_SYS(EIO, rename(d->part, d->path)) < 0)
        rc = sys_fail(err, d->path, "move the new directory there");
    if (rc)
        (void)remove_dir(AT_FDCWD, d->part, 0);
    else if (set_place(&p, d->path))
        sync_dir(p.dir);
    close(d->lock);
    return rc;
}
