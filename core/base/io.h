/* Files: whole reads with a maximum, reads in pieces, and writes that replace the old file whole
 * or not at all. Any thread. */
#ifndef DEQ_BASE_IO_H
#define DEQ_BASE_IO_H

#include <time.h>

#include "core/base/base.h"
#include "core/base/err.h"

/* Reads a regular file of at most max_bytes. *ret_data is NUL-terminated past its length; free with deq_free. */
enum deq_rc deq_io_read(const char *path, size_t max_bytes, char **ret_data, size_t *ret_len, struct deq_err *err);

/* Reads from an open stream until its end (a pipe, standard input). */
enum deq_rc deq_io_read_fd(int fd, const char *name, size_t max_bytes, char **ret_data, size_t *ret_len,
                           struct deq_err *err);

/* A regular file that is read in pieces, because it is too large to be held twice. It is not mapped: the kernel ends
 * whoever looks at a mapped page that somebody has cut off. What changes while it is read is an error. */
struct deq_file {
    int fd;
    const char *path; /* the caller's, for messages */
    uint64_t bytes;
    struct timespec changed; /* of the contents, when it was opened */
};
enum deq_rc deq_file_open(const char *path, struct deq_file *ret, struct deq_err *err);
/* Bytes [at, at + n) into out. what: the part that is read, for messages ("tensor x"), or "". */
enum deq_rc deq_file_read(const struct deq_file *f, uint64_t at, void *out, size_t n, const char *what,
                          struct deq_err *err);
/* An error when size or time of the contents are not what they were; deq_file_read asks it too. */
enum deq_rc deq_file_unchanged(const struct deq_file *f, const char *what, struct deq_err *err);
void deq_file_close(struct deq_file *f);

struct deq_part {
    const void *data;
    size_t len;
};
/* Writes the parts one after the other. A regular file is replaced whole or not at all: they go to a new file beside it
 * (an unused name, made exclusively), which is synced and moved to its place. Symbolic links stay and their target is
 * replaced; mode and, where the system allows, owner stay too; other hard links keep the old contents. A pipe, a
 * terminal or another character device and this process's own descriptors (/dev/stdout) are written through.
 * Directories, block devices and sockets are refused. */
enum deq_rc deq_io_replace(const char *path, const struct deq_part *parts, size_t n_parts, struct deq_err *err);
/* The same of what is not held in one piece: part i, whose bytes hold until the next one is asked for, in order; some
 * bytes at NULL: the writing is given up by DEQ_ECANCELED. A file that is new can be read by its owner alone. */
struct deq_parts {
    size_t n;
    struct deq_part (*part)(void *ctx, size_t i);
    void *ctx;
};
enum deq_rc deq_io_replace_private(const char *path, const struct deq_parts *parts, struct deq_err *err);
/* Removes what writers that are no more have left unfinished in a directory of the program's own, whatever is in it;
 * returns how many are gone. */
unsigned deq_io_sweep(const char *dir);

/* One line at the end of a file that is made if need be; on failure no part of it stays. */
enum deq_rc deq_io_append_line(const char *path, const char *line, struct deq_err *err);
/* A new file of a directory that nobody sees yet: written at any place; what fails leaves it to the directory's end. */
struct deq_new_file {
    int fd;
    const char *path; /* the caller's, for messages */
};
enum deq_rc deq_new_file_begin(const char *path, struct deq_new_file *ret, struct deq_err *err);
enum deq_rc deq_new_file_write(const struct deq_new_file *f, uint64_t at, const void *data, size_t n,
                               struct deq_err *err);
/* rc DEQ_OK: syncs it. Closes; returns rc, or what went wrong here. */
enum deq_rc deq_new_file_end(struct deq_new_file *f, enum deq_rc rc, struct deq_err *err);

/* A new directory that appears at `path` when it is complete: its files are written to
 * `part`, a directory beside it. */
struct deq_new_dir {
    char path[4096], part[4352];
    int lock;
};
enum deq_rc deq_io_dir_begin(const char *path, struct deq_new_dir *ret, struct deq_err *err);
/* rc DEQ_OK: moves it to its place, where nothing may be. Else removes it with its files and returns rc. */
enum deq_rc deq_io_dir_end(struct deq_new_dir *d, enum deq_rc rc, struct deq_err *err);

bool deq_io_exists(const char *path);
bool deq_io_is_dir(const char *path);
enum deq_rc deq_io_mkdir(const char *path, struct deq_err *err); /* no error when it exists */
/* "dir/name" into out; false when it does not fit. */
bool deq_io_join(char *out, size_t cap, const char *dir, const char *name);

#endif
