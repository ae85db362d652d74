/* Keys and values in a page of 16 positions, as attention reads them.
 *
 * A page holds, for each block of f:  K [H, Dh, 16]  (transposed: a vector of scores is a vector of positions)  and
 * V [H, 16, Dv], Dv = Dh rounded up to 16. */
#ifndef DEQ_CELL_KV_LAYOUT_H
#define DEQ_CELL_KV_LAYOUT_H

#include "core/base/base.h"
#include "core/math/kern.h"

struct deq_kv_layout {
    size_t d_head, v_stride;                   /* Dh, Dv */
    size_t k_floats, block_floats, page_floats; /* one block's K; one block's K and V; a page */
};

static inline struct deq_kv_layout deq_kv_layout(size_t n_head, size_t d_head, size_t n_block)
{
    struct deq_kv_layout l = {.d_head = d_head, .v_stride = DEQ_ROUND_UP(d_head, (size_t)16)};
    l.k_floats = n_head * d_head * DEQ_KV_PAGE_TOK;
    l.block_floats = l.k_floats + n_head * DEQ_KV_PAGE_TOK * l.v_stride;
    l.page_floats = l.block_floats * n_block;
    return l;
}

/* K [Dh, 16] and V [16, Dv] of one block and head, in a page. */
static inline float *deq_kv_k(const struct deq_kv_layout *l, float *page, unsigned block, size_t head)
{
    return page + block * l->block_floats + head * l->d_head * DEQ_KV_PAGE_TOK;
}

static inline float *deq_kv_v(const struct deq_kv_layout *l, float *page, unsigned block, size_t head)
{
    return page + block * l->block_floats + l->k_floats + head * DEQ_KV_PAGE_TOK * l->v_stride;
}

#endif
