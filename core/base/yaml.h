/* YAML files as a flat list of (dotted key, scalar) pairs: the one place that sees libyaml.
 * Mappings nest; a sequence of scalars gives one pair for its beginning and one per item. YAML's null (nothing, ~,
 * null, Null, NULL without quotes) and an empty mapping are told as such: a section whose keys are all commented out is
 * one. A file of nothing but comments, or of a null, has no pairs. Anchors, aliases, tags, merge keys, several
 * documents, duplicate keys and sequences of anything but scalars are refused, with file, line and column. Files are at
 * most 256 KiB, 8 levels deep. */
#ifndef DEQ_BASE_YAML_H
#define DEQ_BASE_YAML_H

#include "core/base/base.h"
#include "core/base/err.h"

enum { DEQ_YAML_MAX_BYTES = 256 << 10, DEQ_YAML_DEPTH_MAX = 8, DEQ_YAML_KEY_MAX = 128 };

enum deq_yaml_kind {
    DEQ_YAML_SCALAR,
    DEQ_YAML_NULL,
    DEQ_YAML_SEQUENCE,      /* begins; its items follow */
    DEQ_YAML_EMPTY_MAPPING, /* {} */
};

struct deq_yaml_item {
    const char *key;   /* "server.listen" */
    enum deq_yaml_kind kind;
    const char *value; /* of a scalar: NUL-terminated, no NUL byte inside */
    unsigned line, column; /* of the value, from 1 */
    unsigned key_line, key_column;
    int index;         /* position in a sequence, -1 when not in one */
};
/* Called for all of them in order; a code other than DEQ_OK ends the walk, and is its result unless the rest of the
 * file is not YAML: that is told first. */
typedef enum deq_rc (*deq_yaml_fn)(void *ctx, const struct deq_yaml_item *item, struct deq_err *err);

/* Whether text, without quotes, is YAML's null. */
bool deq_yaml_is_null(const char *text);

enum deq_rc deq_yaml_walk(const char *text, size_t len, const char *name, deq_yaml_fn fn, void *ctx,
                          struct deq_err *err);
enum deq_rc deq_yaml_walk_file(const char *path, deq_yaml_fn fn, void *ctx, struct deq_err *err);

#endif
