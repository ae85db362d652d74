/* The transformer cell on rows: the engine's form of the equations in models/README.md, over packed weights and a paged cache, exact path only.
 * (transformer_seq.h is the form on whole sequences that training uses; tests/unit/test_transformer.c compares the two.) */
#ifndef DEQ_CELL_TRANSFORMER_H
#define DEQ_CELL_TRANSFORMER_H

#include "core/cell/cell.h"
#include "core/cell/vocabulary.h"

struct deq_packed_block {
    struct deq_packed inject, qkv, out, up, down;
    float *rel_w;     /* [H*Dh, D] W_r, of which a cell makes its table of relative positions */
    float *r_w, *r_r; /* [H, Dh] biases of the query: content, position */
};

/* Weights as the engine wants them, held once: matrices packed, vectors as they are. Immutable; any thread. */
struct deq_transformer {
    struct deq_arch arch;
    struct deq_weights *vectors; /* biases and norms, no matrices */
    struct deq_vocabulary vocabulary;
    struct deq_packed_block block[DEQ_BLOCKS_MAX];
    struct deq_packed pred_tok, pred_state, pred_out; /* data NULL when there is no predictor */
    uint64_t bytes;       /* all of the above */
    uint64_t parameters;
    uint64_t fingerprint; /* of the numbers */
    bool bf16;            /* matrices are packed as bf16 numbers */
};

/* From weights in memory, which stay the caller's. bf16: matrices hold bf16 numbers and are packed so. */
enum deq_rc deq_transformer_new(const struct deq_weights *w, bool bf16, struct deq_transformer **ret, struct deq_err *err);
/* From a file, tensor by tensor: never more of it in memory than the packed weights and the largest tensor. */
enum deq_rc deq_transformer_load(const char *path, const struct deq_arch *arch, struct deq_transformer **ret, struct deq_err *err);
void deq_transformer_free(struct deq_transformer *t);

/* A cell's table of relative positions, rel [H, Dh, deq_rel_stride(reach)]: W_r p_d for the distances d < reach, each in column
 * deq_rel_zero(reach) - d; the others stay zero (they are masked). */
static inline size_t deq_rel_zero(size_t reach)
{
    return reach - 1 + 15;
}

static inline size_t deq_rel_stride(size_t reach)
{
    return DEQ_ROUND_UP(deq_rel_zero(reach) + 16, (size_t)16);
}

void deq_transformer_relative(const struct deq_transformer *t, unsigned block, size_t reach, float *scratch /* [D] */, float *rel);

/* A cell over t for one engine: scratch for max_rows rows, n_pages cache pages, and the relative positions that occur within
 * so many pages: a window that config.json claims costs nothing by itself. Borrows t and pool. */
enum deq_rc deq_transformer_open(const struct deq_transformer *t, size_t max_rows, uint32_t n_pages, struct deq_pool *pool, struct deq_cell **ret,
                                 struct deq_err *err);

/* What deq_transformer_load would check, but for the values, the bytes that it would hold, and those it needs
 * besides on the way: only headers are read. */
enum deq_rc deq_transformer_check(const char *path, const struct deq_arch *arch, uint64_t *ret_bytes, uint64_t *ret_load_bytes, struct deq_err *err);
/* Dimensions of a cell and what it takes, from the architecture alone. */
struct deq_cell deq_transformer_shape(const struct deq_arch *a, size_t max_rows, uint32_t n_pages, unsigned threads);

#endif
