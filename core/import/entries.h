/* The entries of a state dict, read by name: each with the shape that the architecture gives it, weight norm folded on
 * the way. What the model does not explain must not stand beside it. Knows no model; a source (source.h) says which
 * entries there are.
 *
 *     weight norm:  X.weight = v g / ||v||,  v = X.weight_v, g = X.weight_g: one a row, the norm over the rest
 *
 * All entries of a model share a prefix ("", "module.", "model_state_dict."), which is whatever stands before the
 * first of them: names below are without it, messages have it. One thread. */
#ifndef DEQ_IMPORT_ENTRIES_H
#define DEQ_IMPORT_ENTRIES_H

#include "core/base/buf.h"
#include "core/import/checkpoint_files.h"

enum { DEQ_ENTRY_NAME = 128, DEQ_ENTRY_DIMS = 5, DEQ_ENTRY_PIECE = 1 << 20 };

/* Of an entry; behind it there may be dimensions of 1. */
struct deq_entry_shape {
    unsigned n;
    size_t d[DEQ_ENTRY_DIMS];
};
#define DEQ_SHAPE1(a) ((struct deq_entry_shape){1, {a}})
#define DEQ_SHAPE2(a, b) ((struct deq_entry_shape){2, {a, b}})
#define DEQ_SHAPE3(a, b, c) ((struct deq_entry_shape){3, {a, b, c}})
#define DEQ_SHAPE4(a, b, c, d) ((struct deq_entry_shape){4, {a, b, c, d}})
#define DEQ_SHAPE5(a, b, c, d, e) ((struct deq_entry_shape){5, {a, b, c, d, e}})

struct deq_entries {
    /* set before opening */
    /* paths (of a checkpoint that is a directory, once open: of its weights), and what it should be of: for messages */
    const char *checkpoint, *config, *model;
    void (*progress)(void *ctx, size_t done, size_t total, const char *name); /* or NULL */
    void *ctx;
    struct deq_err *err;
    struct {
        bool clip, no_scale;            /* torchdeq's: min(g / ||v||, clip_value); target_norm in place of g */
        double clip_value, target_norm;
    } weight_norm;
    /* open */
    struct deq_checkpoint *file;
    bool *used;     /* [tensors of the file] */
    size_t n_used;
    char prefix[DEQ_ENTRY_NAME];
    float *piece;   /* [2 * DEQ_ENTRY_PIECE] */
    float *scratch; /* [2 * half], for tensors while they are rearranged; half: the file's largest tensor */
    size_t half;
    struct deq_buf notes; /* lines, each with its zero */
};

/* Before anything else; deq_entries_close whatever became of opening. */
void deq_entries_init(struct deq_entries *e);
/* anchor: an entry that every such model has. */
enum deq_rc deq_entries_open(struct deq_entries *e, const char *anchor);
/* Makes the scratch, which deq_entries_fold needs. */
enum deq_rc deq_entries_room(struct deq_entries *e);
void deq_entries_close(struct deq_entries *e);

/* Something the user should know, told when all went well: what fails says one thing only. */
void deq_entries_note(struct deq_entries *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

bool deq_entries_has(const struct deq_entries *e, const char *name);
/* Of an entry that is there. */
enum deq_dtype deq_entries_dtype(const struct deq_entries *e, const char *name);
/* Whether all of the model but `except` are of that type. */
bool deq_entries_all(const struct deq_entries *e, enum deq_dtype dtype, const char *except);
/* Whether an entry's name begins so. */
bool deq_entries_has_any(const struct deq_entries *e, const char *begin);

/* An entry of that shape, which counts as used, and its numbers [first, first + n). */
enum deq_rc deq_entries_find(struct deq_entries *e, const char *name, struct deq_entry_shape shape,
                             const struct deq_checkpoint_tensor **ret);
enum deq_rc deq_entries_piece(struct deq_entries *e, const struct deq_checkpoint_tensor *t, uint64_t first, size_t n,
                              float *out);
enum deq_rc deq_entries_read(struct deq_entries *e, const char *name, struct deq_entry_shape shape, float *out);
/* Folded from v and g. out may be the second half of the scratch. */
enum deq_rc deq_entries_fold(struct deq_entries *e, const char *v, const char *g, struct deq_entry_shape shape,
                             float *out);
/* `name`.weight, or folded from .weight_g and .weight_v */
enum deq_rc deq_entries_matrix(struct deq_entries *e, const char *name, size_t rows, size_t cols, float *out);
/* Whether two entries of this shape hold the same numbers. */
enum deq_rc deq_entries_same(struct deq_entries *e, const char *x, const char *y, struct deq_entry_shape shape,
                             bool *ret);

/* The entry, if it is there, is explained by its shape, and its numbers are of no use. */
enum deq_rc deq_entries_pass(struct deq_entries *e, const char *name, struct deq_entry_shape shape);
/* Entries `again`X are explained where there is `first`X: the same layer's, so that they must hold the same numbers. */
enum deq_rc deq_entries_pass_repeats(struct deq_entries *e, const char *again, const char *first);
/* Every entry of the model must have been read or passed. What stands elsewhere in the file (an optimiser's moments)
 * is another matter: it is noted. */
enum deq_rc deq_entries_none_left(struct deq_entries *e);

#endif
