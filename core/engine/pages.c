#include "core/engine/pages.h"

#include <string.h>

#include "core/base/bug.h"
#include "core/base/mem.h"

void deq_pages_lay_out(struct deq_pages *p, uint32_t n_pages, struct deq_layout *l)
{
    DEQ_PART(l, p->free, n_pages);
    DEQ_PART(l, p->holders, n_pages);
    DEQ_PART(l, p->cached, n_pages);
}

void deq_pages_init(struct deq_pages *p, uint32_t n_pages, uint32_t page_tok)
{
    p->n_pages = p->n_free = n_pages;
    p->n_held = p->n_reserved = 0;
    p->page_tok = page_tok;
    for (uint32_t i = 0; i < n_pages; i++)
        p->free[i] = n_pages - 1 - i;
}

uint32_t deq_pages_needed(const struct deq_cell *c, size_t positions, uint32_t row_window)
{
    const size_t P = c->page_tok, all = (positions + P - 1) / P;
    /* touched at once: from the first position that the front row reads to the last row of the window */
    const size_t span = (size_t)c->lookback + row_window, ring = (span - 2) / P + 2;
    return (uint32_t)DEQ_MIN(all, ring);
}

enum deq_rc deq_ring_open(struct deq_pages *p, uint32_t n, struct deq_ring *ret, struct deq_err *err)
{
    if (DEQ_BUG_ON(p->n_reserved > p->n_pages) || n > p->n_pages - p->n_reserved)
        return deq_fail(err, DEQ_EFULL, "%u cache pages are needed, %u of %u are not reserved", n,
                        p->n_pages - p->n_reserved, p->n_pages);
    uint32_t *page = DEQ_NEW_ARRAY(uint32_t, n);
    if (!page)
        return deq_fail(err, DEQ_ENOMEM, "no memory for a sequence");
    memset(page, 0xff, n * sizeof *page); /* DEQ_PAGE_NONE */
    p->n_reserved += n;
    *ret = (struct deq_ring){page, n};
    return DEQ_OK;
}

static void free_if_unused(struct deq_pages *p, uint32_t number)
{
    if (!p->holders[number] && !p->cached[number] && !DEQ_BUG_ON(p->n_free >= p->n_pages))
        p->free[p->n_free++] = number;
}

static void hold(struct deq_pages *p, uint32_t number)
{
    p->n_held += !p->holders[number]++;
}

static void release(struct deq_pages *p, uint32_t number)
{
    if (DEQ_BUG_ON(number >= p->n_pages || !p->holders[number]))
        return;
    p->n_held -= !--p->holders[number];
    free_if_unused(p, number);
}

void deq_ring_close(struct deq_pages *p, struct deq_ring *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->page[i] != DEQ_PAGE_NONE)
            release(p, s->page[i]);
    p->n_reserved -= DEQ_BUG_ON(s->n > p->n_reserved) ? p->n_reserved : s->n;
    deq_free(s->page);
    *s = (struct deq_ring){0};
}

bool deq_ring_make_writable(struct deq_pages *p, struct deq_ring *s, size_t position, uint32_t *ret_from)
{
    uint32_t *slot = &s->page[position / p->page_tok % s->n];
    const uint32_t old = *slot;
    *ret_from = DEQ_PAGE_NONE;
    if (old != DEQ_PAGE_NONE && p->holders[old] == 1 && !p->cached[old])
        return true;
    if (!p->n_free)
        return false;
    const uint32_t own = p->free[--p->n_free];
    if (position % p->page_tok) /* earlier positions of the page are final: they come along */
        *ret_from = old;
    hold(p, own);
    if (old != DEQ_PAGE_NONE)
        release(p, old);
    *slot = own;
    return true;
}

void deq_ring_share(struct deq_pages *p, struct deq_ring *s, size_t page, uint32_t number)
{
    uint32_t *slot = &s->page[page % s->n];
    hold(p, number);
    if (*slot != DEQ_PAGE_NONE)
        release(p, *slot);
    *slot = number;
}

void deq_pages_cache(struct deq_pages *p, uint32_t number)
{
    p->cached[number]++;
}

void deq_pages_uncache(struct deq_pages *p, uint32_t number)
{
    if (DEQ_BUG_ON(number >= p->n_pages || !p->cached[number]))
        return;
    p->cached[number]--;
    free_if_unused(p, number);
}
