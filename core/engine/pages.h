/* Who holds which page of a cell's memory: a free list, holders, rings. Numbers only; what a page holds is
 * the cell's (core/cell/cell.h).
 *
 * Pages are shared: several sequences (forks of one prompt) and the prefix cache may hold the same page, which is then
 * read-only; who writes makes the page writable first and gets one of its own. A sequence reserves its whole ring when
 * it opens, and reservations never exceed the pages there are; so that always succeeds once the prefix cache has let go
 * of enough, and nobody waits for a page in the middle of a text. One thread. */
#ifndef DEQ_ENGINE_PAGES_H
#define DEQ_ENGINE_PAGES_H

#include "core/base/layout.h"
#include "core/cell/cell.h"

struct deq_pages {
    uint32_t *free;    /* [n_pages] stack of free pages */
    uint32_t *holders; /* [n_pages] sequences that hold the page */
    uint32_t *cached;  /* [n_pages] entries of the prefix cache that hold it */
    uint32_t n_pages, n_free;
    uint32_t n_held;     /* pages that some sequence holds */
    uint32_t n_reserved; /* pages that the open sequences may hold; at most n_pages */
    uint32_t page_tok;
};

/* Counts or cuts the lists (core/base/layout.h); then deq_pages_init, once they are cut. */
void deq_pages_lay_out(struct deq_pages *p, uint32_t n_pages, struct deq_layout *l);
void deq_pages_init(struct deq_pages *p, uint32_t n_pages, uint32_t page_tok);
/* Pages that a sequence of `positions` with row window w needs, over a cell of that look-back and page size. */
uint32_t deq_pages_needed(const struct deq_cell *c, size_t positions, uint32_t row_window);
/* Reserves n pages; none is held yet. DEQ_EFULL when fewer than n are unreserved. */
enum deq_rc deq_ring_open(struct deq_pages *p, uint32_t n, struct deq_ring *ret, struct deq_err *err);
void deq_ring_close(struct deq_pages *p, struct deq_ring *s);
/* Makes the page of `position` the sequence's own, to be written: a fresh one at the first position of a page, else its
 * own or one that must become a copy of *ret_from (DEQ_PAGE_NONE: nothing to copy). False when no page is free (nothing
 * has changed then): the prefix cache must let go of one. */
bool deq_ring_make_writable(struct deq_pages *p, struct deq_ring *s, size_t position, uint32_t *ret_from);
/* Logical page `page` of s becomes `number`, which others hold. */
void deq_ring_share(struct deq_pages *p, struct deq_ring *s, size_t page, uint32_t number);
/* The prefix cache holds a page, or lets go of it. */
void deq_pages_cache(struct deq_pages *p, uint32_t number);
void deq_pages_uncache(struct deq_pages *p, uint32_t number);

#endif
