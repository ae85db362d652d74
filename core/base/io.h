/* Files: whole reads with a maximum, mappings, and writes that replace the old file whole or not at all
 * (temporary file in the same directory, fsync, rename, fsync of the directory). Any thread. */
#ifndef DEQ_BASE_IO_H
#define DEQ_BASE_IO_H

#include "core/base/base.h"
#include "core/base/err.h"

/* Reads a regular file of at most max_bytes. *ret_data is NUL-terminated past its length; free with deq_free. */
enum deq_rc deq_io_read(const char *path, size_t max_bytes, char **ret_data, size_t *ret_len, struct deq_err *err);

/* Reads from an open stream until its end (a pipe, standard input). */
enum deq_rc deq_io_read_fd(int fd, const char *name, size_t max_bytes, char **ret_data, size_t *ret_len, struct deq_err *err);

/* Maps a regular file of at least min_bytes (1 or more) to be read. Give it back with deq_io_unmap. */
enum deq_rc deq_io_map(const char *path, size_t min_bytes, void **ret_map, size_t *ret_len, struct deq_err *err);
void deq_io_unmap(void *map, size_t len); /* takes NULL */

struct deq_part {
    const void *data;
    size_t len;
};
/* Writes the parts one after the other and moves the result to path. On any failure path is untouched. */
enum deq_rc deq_io_replace(const char *path, const struct deq_part *parts, size_t n_parts, struct deq_err *err);

enum deq_rc deq_io_append_line(const char *path, const char *line, struct deq_err *err);
bool deq_io_exists(const char *path);
bool deq_io_is_dir(const char *path);
enum deq_rc deq_io_mkdir(const char *path, struct deq_err *err); /* no error when it exists */
/* "dir/name" into out; false when it does not fit. */
bool deq_io_join(char *out, size_t cap, const char *dir, const char *name);

#endif
