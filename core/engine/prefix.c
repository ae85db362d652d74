#include "core/engine/prefix.h"

#include <string.h>

#include "core/base/bug.h"

enum { NONE = UINT32_MAX };

void deq_prefix_lay_out(struct deq_prefix *c, uint32_t n_pages, uint32_t block, const struct deq_cell *cell,
                        struct deq_layout *l)
{
    const uint32_t seen = DEQ_MIN(block, cell->lookback);
    c->pages_max = DEQ_MIN(block / cell->page_tok, (seen - 1) / cell->page_tok + 2);
    /* entries mostly hold the pages that a row still reads; forks share some, so twice as
     * many entries are room enough */
    c->cap = DEQ_MAX(2 * n_pages / DEQ_MAX(seen / cell->page_tok, 1u), 1u);
    c->n_buckets = 1;
    while (c->n_buckets < c->cap)
        c->n_buckets *= 2;
    DEQ_PART(l, c->entries, c->cap);
    DEQ_PART(l, c->pages, (size_t)c->cap * c->pages_max);
    DEQ_PART(l, c->states, c->cap * cell->state_dim);
    DEQ_PART(l, c->bucket, c->n_buckets);
}

void deq_prefix_init(struct deq_prefix *c, struct deq_pages *pages, const struct deq_cell *cell)
{
    c->pool = pages;
    c->page_bytes = cell->page_bytes;
    c->state_dim = cell->state_dim;
    memset(c->bucket, 0xff, c->n_buckets * sizeof *c->bucket);
    c->newest = c->oldest = c->unused = NONE;
    for (uint32_t i = c->cap; i-- > 0;) {
        c->entries[i] = (struct deq_prefix_entry){.page = c->pages + (size_t)i * c->pages_max,
                                                  .state = c->states + i * c->state_dim,
                                                  .next = c->unused};
        c->unused = i;
    }
}

static uint32_t *bucket_of(const struct deq_prefix *c, const struct deq_hash *key)
{
    return &c->bucket[key->h[0] & (c->n_buckets - 1)];
}

const struct deq_prefix_entry *deq_prefix_find(const struct deq_prefix *c, const struct deq_hash *key)
{
    for (uint32_t i = *bucket_of(c, key); i != NONE; i = c->entries[i].chain)
        if (deq_hash_equal(&c->entries[i].key, key))
            return &c->entries[i];
    return NULL;
}

static void unlink_use(struct deq_prefix *c, struct deq_prefix_entry *e)
{
    if (e->prev != NONE)
        c->entries[e->prev].next = e->next;
    else
        c->newest = e->next;
    if (e->next != NONE)
        c->entries[e->next].prev = e->prev;
    else
        c->oldest = e->prev;
}

static void link_newest(struct deq_prefix *c, uint32_t i)
{
    c->entries[i].prev = NONE;
    c->entries[i].next = c->newest;
    if (c->newest != NONE)
        c->entries[c->newest].prev = i;
    else
        c->oldest = i;
    c->newest = i;
}

void deq_prefix_touch(struct deq_prefix *c, const struct deq_prefix_entry *entry)
{
    const uint32_t i = (uint32_t)(entry - c->entries);
    unlink_use(c, &c->entries[i]);
    link_newest(c, i);
}

static void drop(struct deq_prefix *c, uint32_t i)
{
    struct deq_prefix_entry *e = &c->entries[i];
    uint32_t *p = bucket_of(c, &e->key);
    while (*p != i) {
        if (DEQ_BUG_ON(*p == NONE))
            return;
        p = &c->entries[*p].chain;
    }
    *p = e->chain;
    unlink_use(c, e);
    for (uint32_t k = 0; k < e->n_pages; k++)
        deq_pages_uncache(c->pool, e->page[k]);
    c->n_pages -= e->n_pages;
    c->n--;
    c->evictions++;
    e->next = c->unused;
    c->unused = i;
}

bool deq_prefix_evict(struct deq_prefix *c)
{
    for (uint32_t i = c->oldest; i != NONE; i = c->entries[i].prev)
        for (uint32_t k = 0; k < c->entries[i].n_pages; k++) {
            const uint32_t page = c->entries[i].page[k];
            if (c->pool->holders[page] || c->pool->cached[page] > 1)
                continue;
            drop(c, i);
            return true;
        }
    /* pages that only entries hold, but two of them each: let go of the oldest until one is free */
    for (uint32_t i = c->oldest; i != NONE; i = c->entries[i].prev)
        for (uint32_t k = 0; k < c->entries[i].n_pages; k++)
            if (!c->pool->holders[c->entries[i].page[k]]) {
                drop(c, i);
                return true;
            }
    return false;
}

void deq_prefix_invalidate(struct deq_prefix *c, uint32_t page)
{
    for (uint32_t i = c->oldest, before; i != NONE; i = before) {
        before = c->entries[i].prev;
        for (uint32_t k = 0; k < c->entries[i].n_pages; k++)
            if (c->entries[i].page[k] == page) {
                drop(c, i);
                break;
            }
    }
}

void deq_prefix_put(struct deq_prefix *c, const struct deq_prefix_entry *as)
{
    const uint32_t i = c->unused;
    if (DEQ_BUG_ON(i == NONE || as->n_pages > c->pages_max))
        return;
    struct deq_prefix_entry *e = &c->entries[i];
    uint32_t *b = bucket_of(c, &as->key);
    c->unused = e->next;
    e->key = as->key;
    e->first_page = as->first_page;
    e->n_pages = as->n_pages;
    e->reached = as->reached;
    for (uint32_t k = 0; k < e->n_pages; k++) {
        e->page[k] = as->page[k];
        deq_pages_cache(c->pool, e->page[k]);
    }
    memcpy(e->state, as->state, c->state_dim * sizeof(float));
    e->chain = *b;
    *b = i;
    link_newest(c, i);
    c->n++;
    c->n_pages += e->n_pages;
}

void deq_prefix_insert(struct deq_prefix *c, const struct deq_hash *key, const struct deq_ring *s, size_t first_page,
                       uint32_t n_pages, const float *state, struct deq_reached reached)
{
    const struct deq_prefix_entry *there = deq_prefix_find(c, key);
    if (there) {
        deq_prefix_touch(c, there);
        return;
    }
    if (c->unused == NONE)
        drop(c, c->oldest);
    uint32_t *page = c->entries[c->unused].page;
    for (uint32_t k = 0; k < n_pages; k++) {
        page[k] = deq_page_of(s, first_page + k);
        if (DEQ_BUG_ON(page[k] == DEQ_PAGE_NONE)) /* a final position stands in a page */
            return;
    }
    c->inserted++;
    deq_prefix_put(c, &(struct deq_prefix_entry){.key = *key, .page = page, .state = (float *)(uintptr_t)state,
                                                 .reached = reached, .first_page = first_page, .n_pages = n_pages});
}

struct deq_prefix_stats deq_prefix_stats(const struct deq_prefix *c)
{
    return (struct deq_prefix_stats){.entries = c->n,
                                     .evictions = c->evictions,
                                     .bytes = c->n_pages * c->page_bytes + c->n * c->state_dim * sizeof(float)};
}
