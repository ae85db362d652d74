/* The transformer cell on rows: the engine's form of DESIGN section 2, over packed weights and a paged cache, exact path only.
 * (transformer_seq.h is the form on whole sequences that training uses; tests/unit/test_transformer.c compares the two.) */
#ifndef DEQ_CELL_TRANSFORMER_H
#define DEQ_CELL_TRANSFORMER_H

#include "core/data/weights.h"
#include "core/math/gemm.h"
#include "core/solve/cell.h"

struct deq_packed_block {
    struct deq_packed inject, qkv, out, up, down;
    float *rel; /* [H, Dh, rel_stride]: W_r p_d for every distance of the window, distance falling with the column */
};

/* Weights as the engine wants them: matrices packed, vectors as they are. Immutable; any thread. */
struct deq_transformer {
    struct deq_arch arch;
    struct deq_weights *vectors; /* biases and norms are read from here, and the embedding */
    struct deq_packed head;      /* [V, D] */
    struct deq_packed_block block[DEQ_BLOCKS_MAX];
    struct deq_packed pred_tok, pred_state, pred_out; /* data NULL when there is no predictor */
    size_t rel_stride, rel_zero;
    uint64_t packed_bytes;
};

/* Takes the weights (frees them with the model; on failure they stay the caller's). bf16: matrices hold bf16 numbers and are packed so. */
enum deq_rc deq_transformer_new(struct deq_weights *w, bool bf16, struct deq_transformer **ret, struct deq_err *err);
void deq_transformer_free(struct deq_transformer *t);

/* A cell over t for one engine: scratch for max_rows rows. Borrows t and pool. */
enum deq_rc deq_transformer_open(const struct deq_transformer *t, size_t max_rows, struct deq_pool *pool, struct deq_cell **ret,
                                 struct deq_err *err);

/* Sizes from the architecture alone: of packed weights (deq_transformer.packed_bytes), and the dimensions and scratch of a cell. */
uint64_t deq_transformer_packed_bytes(const struct deq_arch *a, bool bf16);
struct deq_cell deq_transformer_shape(const struct deq_arch *a, size_t max_rows);

#endif
