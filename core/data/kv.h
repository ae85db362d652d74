/* The key/value cache: one layer of it per block of the cell, in pages of 16 positions, reserved whole at start.
 *
 * A page holds, for each block of f:  K [H, Dh, 16]  (transposed: a vector of scores is a vector of positions)  and  V [H, 16, Dv], Dv = Dh
 * rounded up to 16. A sequence owns a ring of pages: logical page p (positions 16p..16p+15) lies in ring[p % n]. The ring is as long as the
 * attention window plus the row window need, so text of any length slides through a fixed number of pages.
 *
 * Pages are shared: several sequences (forks of one prompt) and the prefix cache may hold the same page, which is then read-only; whoever writes
 * claims the page first and gets one of its own. A sequence reserves its whole ring when it opens, and reservations never exceed the pool; so a
 * claim always succeeds once the prefix cache has let go of enough, and nobody waits for a page in the middle of a text.
 * One thread opens, claims and closes; any thread may write the positions it owns. */
#ifndef DEQ_DATA_KV_H
#define DEQ_DATA_KV_H

#include "core/data/config.h"
#include "core/math/kern.h"

enum { DEQ_KV_NONE = UINT32_MAX };

struct deq_kv_pool {
    float *data;       /* [n_pages, page_floats] */
    uint32_t *free;    /* stack of free pages */
    uint32_t *holders; /* [n_pages] sequences that hold the page */
    uint32_t *cached;  /* [n_pages] entries of the prefix cache that hold it */
    uint32_t n_pages, n_free;
    uint32_t n_held;     /* pages that some sequence holds */
    uint32_t n_reserved; /* pages that the open sequences may hold; at most n_pages */
    size_t page_floats, block_floats, k_floats; /* a page; one block's part of it; the K part of that */
    size_t v_stride;   /* Dv */
    uint32_t n_head, d_head;
};

struct deq_kv_seq {
    uint32_t *ring; /* [n] page numbers or DEQ_KV_NONE, owned */
    uint32_t n;
};

enum deq_rc deq_kv_pool_new(const struct deq_arch *a, uint64_t bytes, struct deq_kv_pool **ret, struct deq_err *err);
void deq_kv_pool_free(struct deq_kv_pool *p);
uint64_t deq_kv_page_bytes(const struct deq_arch *a);
/* Pages that a sequence of `positions` with row window w needs. */
uint32_t deq_kv_pages_needed(const struct deq_arch *a, size_t positions, uint32_t row_window);
/* Reserves n pages; none is held yet. DEQ_EFULL when fewer than n are unreserved. */
enum deq_rc deq_kv_open(struct deq_kv_pool *p, uint32_t n, struct deq_kv_seq *ret, struct deq_err *err);
void deq_kv_close(struct deq_kv_pool *p, struct deq_kv_seq *s);
/* Makes the page of `position` the sequence's own, to be written: a fresh one at the first position of a page, a copy when others hold it too. False
 * when no page is free (nothing has changed then): the prefix cache must let go of one. */
bool deq_kv_claim(struct deq_kv_pool *p, struct deq_kv_seq *s, size_t position);
/* Logical page `page` of s becomes the pool's page `number`, which others hold. */
void deq_kv_share(struct deq_kv_pool *p, struct deq_kv_seq *s, size_t page, uint32_t number);
/* The prefix cache holds a page, or lets go of it. */
void deq_kv_cache(struct deq_kv_pool *p, uint32_t number);
void deq_kv_uncache(struct deq_kv_pool *p, uint32_t number);

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
