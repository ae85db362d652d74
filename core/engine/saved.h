/* Equilibria as files: of one text (state.c), or of the blocks of a prefix cache (prefix_file.c).
 *
 * Both are safetensors files (core/data/safetensors.h) whose metadata say what they are of; others are refused:
 *
 *     format          deq.state or deq.prefix       version        1
 *     model_type      deq_transformer               numeric_class  int16
 *     fingerprint     of the weights and the class  configuration  hash of what else bits depend on
 *
 * Tensors, in this order:
 *
 *     deq.state    tokens [n] I32; state [D] F32; reached [2] F32 (largest residual, 1: one did not converge)
 *                  pages [n_pages, page_bytes] U8, as the cell gives them (deq_cell_ops.page_get): those that the
 *                  text's last position and all behind it read
 *     deq.prefix   pages, the same of all entries, then secret [16] U8, which the keys are hashes with; keys [n, 16]
 *                  U8; states [n, D] F32; reached [n, 2] F32; places [n, 2] I32 (first logical page, number of pages);
 *                  entry_pages [sum] I32 (rows of pages). Entries stand in order of use, the newest last; one whose
 *                  largest residual is -1 went while the file was written, and is none
 *     both         checksum [16] U8 of all bytes before it: SipHash-2-4 of 64 kB at a time, keyed by the one before
 *
 * The checksum finds damage, not malice: whoever writes a file can make one. So whatever is read is checked for what it
 * is used as, and numbers at worst make a sequence end as not finite. */
#ifndef DEQ_ENGINE_SAVED_H
#define DEQ_ENGINE_SAVED_H

#include "core/base/hash.h"
#include "core/cell/cell.h"
#include "core/data/safetensors.h"
#include "core/engine/prefix.h"
#include "core/engine/state.h"

/* What both are of. */
struct deq_saved_of {
    const char *format; /* "deq.state" */
    const char *model_type, *numeric_class, *fingerprint;
    char configuration[33]; /* hexadecimal digits */
};

struct deq_state {
    size_t n_tokens;
    uint32_t *tokens;  /* [n_tokens] */
    float *state;      /* [D] f(z) of the last of them */
    char *pages;       /* [n_pages, page_bytes] logical pages first_page.. */
    size_t first_page, state_dim, page_bytes;
    uint32_t n_pages, page_tok;
    struct deq_reached reached;
    bool filled;
};

/* Room, by the dimensions of a cell. */
enum deq_rc deq_state_make(const struct deq_cell *shape, size_t n_tokens, struct deq_state **ret, struct deq_err *err);
uint64_t deq_state_size(const struct deq_cell *shape, size_t n_tokens);
/* From and to files; bytes NULL: of the file called path. */
enum deq_rc deq_state_write(const struct deq_saved_of *of, const struct deq_state *s, const char *path,
                            struct deq_err *err);
enum deq_rc deq_state_write_buf(const struct deq_saved_of *of, const struct deq_state *s, struct deq_buf *out,
                                struct deq_err *err);
enum deq_rc deq_state_read(const struct deq_saved_of *of, const struct deq_cell *shape, const void *bytes,
                           uint64_t max_bytes, const char *path, struct deq_state **ret, struct deq_err *err);
enum deq_rc deq_prefix_write(const struct deq_saved_of *of, const struct deq_engine *e, const char *path,
                             struct deq_err *err);
enum deq_rc deq_prefix_copy_write(const struct deq_saved_of *of, struct deq_prefix_copy *c, const char *path,
                                  struct deq_err *err);
enum deq_rc deq_prefix_read(const struct deq_saved_of *of, struct deq_engine *e, const char *path, size_t *ret_blocks,
                            struct deq_err *err);

/* --- prefix_copy.c and prefix_file.c --- */

/* The entries of a cache beside each other, as they stand in a file. */
struct deq_prefix_table {
    struct deq_hash *keys; /* [n] */
    float *states;         /* [n, D] */
    float *reached;        /* [n, 2] */
    uint32_t *places;      /* [n, 2] */
    uint32_t *entry_pages; /* [sum] */
    uint32_t *page;        /* [n_pages] number in the engine */
    uint32_t *row;         /* [pages of the engine] number + 1 in the file, 0: none */
    size_t n, sum, n_pages;
};

/* Of an engine that solves nothing until it is written (deq_prefix_copy_new: of one that goes on). */
enum deq_rc deq_prefix_copy_at_rest(const struct deq_engine *e, struct deq_prefix_copy **ret, struct deq_err *err);
uint32_t deq_prefix_copy_block(const struct deq_prefix_copy *c); /* positions of a block */
/* False: no memory; to be freed all the same. */
bool deq_prefix_table_new(struct deq_prefix_table *t, size_t n, size_t sum, size_t state_dim, size_t n_pages);
void deq_prefix_table_free(struct deq_prefix_table *t);

/* --- saved.c: what the two have in common --- */

enum { DEQ_SAVED_HEAD_MAX = 8192 }; /* of the header, generously */

/* What is to be written: tensors of a file but for the last two, and where pages come from. */
struct deq_saved_content {
    const struct deq_saved_of *of;
    const struct deq_tensor_out *tensors; /* [n] */
    size_t n, n_pages, page_bytes;
    bool pages_first; /* the tensors' numbers are there once all pages were asked for */
    const void *(*page)(void *ctx, size_t i); /* holds until the next one is asked for; NULL: give up */
    void *ctx;
};
/* To a file, or, path NULL, a buffer. */
enum deq_rc deq_saved_write(const struct deq_saved_content *c, const char *path, struct deq_buf *out,
                            struct deq_err *err);
/* Opens, and checks metadata and checksum. bytes NULL: the file called path. Closed by deq_safetensors_close. */
enum deq_rc deq_saved_open(const struct deq_saved_of *of, const void *bytes, uint64_t max_bytes, const char *path,
                           struct deq_safetensors **ret, struct deq_err *err);
/* The tensor of that name, dtype and shape; of a dimension 0 whatever there is. */
enum deq_rc deq_saved_tensor(const struct deq_safetensors *f, const char *path, const char *name, enum deq_dtype dtype,
                             unsigned n_dims, const uint64_t *shape, const struct deq_tensor **ret,
                             struct deq_err *err);
/* All n of them are finite. */
bool deq_saved_finite(const float *x, size_t n);

#endif
