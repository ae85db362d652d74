/* The key/value cache: one layer of it per block of the cell, in pages of 16 positions, reserved whole at start.
 *
 * A page holds, for each block of f:  K [H, Dh, 16]  (transposed: a vector of scores is a vector of positions)  and  V [H, 16, Dv], Dv = Dh
 * rounded up to 16. A sequence owns a ring of pages: logical page p (positions 16p..16p+15) lies in ring[p % n]. The ring is as long as the
 * attention window plus the row window need, so text of any length slides through a fixed number of pages.
 * One thread allocates and frees; any thread may write the positions it owns. */
#ifndef DEQ_DATA_KV_H
#define DEQ_DATA_KV_H

#include "core/data/config.h"
#include "core/math/kern.h"

struct deq_kv_pool {
    float *data;       /* [n_pages, page_floats] */
    uint32_t *free;    /* stack of free pages */
    uint32_t n_pages, n_free;
    size_t page_floats, block_floats, k_floats; /* a page; one block's part of it; the K part of that */
    size_t v_stride;   /* Dv */
    uint32_t n_head, d_head;
};

struct deq_kv_seq {
    uint32_t *ring; /* [n] page numbers, owned */
    uint32_t n;
};

enum deq_rc deq_kv_pool_new(const struct deq_arch *a, uint64_t bytes, struct deq_kv_pool **ret, struct deq_err *err);
void deq_kv_pool_free(struct deq_kv_pool *p);
uint64_t deq_kv_page_bytes(const struct deq_arch *a);
/* Pages that a sequence of `positions` with row window w needs. */
uint32_t deq_kv_pages_needed(const struct deq_arch *a, size_t positions, uint32_t row_window);
/* DEQ_EFULL when the pool has fewer than n free. */
enum deq_rc deq_kv_seq_take(struct deq_kv_pool *p, uint32_t n, struct deq_kv_seq *ret, struct deq_err *err);
void deq_kv_seq_give(struct deq_kv_pool *p, struct deq_kv_seq *s);

/* K [Dh, 16] and V [16, Dv] of one block and head in the page that holds logical page `page`. */
static inline float *deq_kv_k(const struct deq_kv_pool *p, const struct deq_kv_seq *s, size_t page, unsigned block, unsigned head)
{
    return p->data + s->ring[page % s->n] * p->page_floats + block * p->block_floats + (size_t)head * p->d_head * DEQ_KV_PAGE_TOK;
}

static inline float *deq_kv_v(const struct deq_kv_pool *p, const struct deq_kv_seq *s, size_t page, unsigned block, unsigned head)
{
    return p->data + s->ring[page % s->n] * p->page_floats + block * p->block_floats + p->k_floats + (size_t)head * DEQ_KV_PAGE_TOK * p->v_stride;
}

#endif
