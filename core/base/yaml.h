/* YAML files as a flat list of (dotted key, scalar) pairs: the one place that sees libyaml.
 * Mappings nest; a sequence of scalars gives one pair for its beginning and one per item. Anchors, aliases, tags, merge keys, several documents, duplicate keys
 * and sequences of anything but scalars are refused, with file, line and column. Files are at most 256 KiB, 8 levels deep. */
#ifndef DEQ_BASE_YAML_H
#define DEQ_BASE_YAML_H

#include "core/base/base.h"
#include "core/base/err.h"

enum { DEQ_YAML_MAX_BYTES = 256 << 10, DEQ_YAML_DEPTH_MAX = 8, DEQ_YAML_KEY_MAX = 128 };

struct deq_yaml_item {
    const char *key;   /* "server.listen" */
    const char *value; /* NUL-terminated, no NUL byte inside; NULL: a sequence begins, its items follow */
    unsigned line, column; /* of the value, from 1 */
    unsigned key_line, key_column;
    int index;         /* position in a sequence, -1 when not in one */
};
/* Called for every scalar, and for the beginning of every sequence, in order; a code other than DEQ_OK ends the walk. */
typedef enum deq_rc (*deq_yaml_fn)(void *ctx, const struct deq_yaml_item *item, struct deq_err *err);

enum deq_rc deq_yaml_walk(const char *text, size_t len, const char *name, deq_yaml_fn fn, void *ctx, struct deq_err *err);
enum deq_rc deq_yaml_walk_file(const char *path, deq_yaml_fn fn, void *ctx, struct deq_err *err);

#endif
