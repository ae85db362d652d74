#include "core/engine/prefix.h"

#include <string.h>

#include "core/base/mem.h"

enum { NONE = UINT32_MAX };

struct deq_prefix {
    struct deq_kv_pool *kv;
    size_t state_dim;
    struct deq_prefix_entry *entries; /* [cap] */
    uint32_t *pages;                  /* [cap, pages_max] */
    float *states;                    /* [cap, D] */
    uint32_t *bucket;                 /* [n_buckets] first entry, or NONE */
    uint32_t cap, n_buckets, pages_max;
    uint32_t unused;                  /* list of entries without content, by next */
    uint32_t newest, oldest;
    uint32_t n;
    uint64_t n_pages, evictions;
};

static void shape(struct deq_prefix *c, uint32_t n_pages, uint32_t block, uint32_t attn_window)
{
    c->pages_max = block / DEQ_KV_PAGE_TOK;
    /* entries mostly hold the pages that attention still reaches; forks share some, so twice as many entries are room enough */
    c->cap = DEQ_MAX(2 * n_pages / DEQ_MAX(DEQ_MIN(block, attn_window) / DEQ_KV_PAGE_TOK, 1u), 1u);
    c->n_buckets = 1;
    while (c->n_buckets < c->cap)
        c->n_buckets *= 2;
}

enum deq_rc deq_prefix_new(struct deq_kv_pool *kv, uint32_t block, uint32_t attn_window, size_t state_dim, struct deq_prefix **ret, struct deq_err *err)
{
    struct deq_prefix *c = DEQ_NEW(struct deq_prefix);
    if (!c)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the prefix cache");
    c->kv = kv;
    c->state_dim = state_dim;
    shape(c, kv->n_pages, block, attn_window);
    c->entries = DEQ_NEW_ARRAY(struct deq_prefix_entry, c->cap);
    c->pages = deq_alloc_array(c->cap, c->pages_max * sizeof *c->pages);
    c->states = deq_alloc_array(c->cap, state_dim * sizeof(float));
    c->bucket = DEQ_NEW_ARRAY(uint32_t, c->n_buckets);
    if (!c->entries || !c->pages || !c->states || !c->bucket) {
        deq_prefix_free(c);
        return deq_fail(err, DEQ_ENOMEM, "no memory for a prefix cache of %u blocks", c->cap);
    }
    memset(c->bucket, 0xff, c->n_buckets * sizeof *c->bucket);
    c->newest = c->oldest = c->unused = NONE;
    for (uint32_t i = c->cap; i-- > 0;) {
        c->entries[i] = (struct deq_prefix_entry){.page = c->pages + (size_t)i * c->pages_max, .state = c->states + i * state_dim, .next = c->unused};
        c->unused = i;
    }
    *ret = c;
    return DEQ_OK;
}

void deq_prefix_free(struct deq_prefix *c)
{
    if (!c)
        return;
    deq_free(c->entries);
    deq_free(c->pages);
    deq_free(c->states);
    deq_free(c->bucket);
    deq_free(c);
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
    while (*p != i)
        p = &c->entries[*p].chain;
    *p = e->chain;
    unlink_use(c, e);
    for (uint32_t k = 0; k < e->n_pages; k++)
        deq_kv_uncache(c->kv, e->page[k]);
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
            if (c->kv->holders[page] || c->kv->cached[page] > 1)
                continue;
            drop(c, i);
            return true;
        }
    /* pages that only entries hold, but two of them each: let go of the oldest until one is free */
    for (uint32_t i = c->oldest; i != NONE; i = c->entries[i].prev)
        for (uint32_t k = 0; k < c->entries[i].n_pages; k++)
            if (!c->kv->holders[c->entries[i].page[k]]) {
                drop(c, i);
                return true;
            }
    return false;
}

void deq_prefix_forget(struct deq_prefix *c, uint32_t page)
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

void deq_prefix_insert(struct deq_prefix *c, const struct deq_hash *key, const struct deq_kv_seq *s, size_t first_page, uint32_t n_pages,
                       const float *state)
{
    const struct deq_prefix_entry *there = deq_prefix_find(c, key);
    if (there) {
        deq_prefix_touch(c, there);
        return;
    }
    if (c->unused == NONE)
        drop(c, c->oldest);
    const uint32_t i = c->unused;
    struct deq_prefix_entry *e = &c->entries[i];
    c->unused = e->next;
    e->key = *key;
    e->first_page = first_page;
    e->n_pages = n_pages;
    for (uint32_t k = 0; k < n_pages; k++) {
        e->page[k] = s->ring[(first_page + k) % s->n];
        deq_kv_cache(c->kv, e->page[k]);
    }
    memcpy(e->state, state, c->state_dim * sizeof(float));
    uint32_t *b = bucket_of(c, key);
    e->chain = *b;
    *b = i;
    link_newest(c, i);
    c->n++;
    c->n_pages += n_pages;
}

struct deq_prefix_stats deq_prefix_stats(const struct deq_prefix *c)
{
    return (struct deq_prefix_stats){.entries = c->n,
                                     .evictions = c->evictions,
                                     .bytes = (c->n_pages * c->kv->page_floats + c->n * c->state_dim) * sizeof(float)};
}

uint64_t deq_prefix_memory_bytes(uint32_t n_pages, uint32_t block, uint32_t attn_window, size_t state_dim)
{
    struct deq_prefix c;
    shape(&c, n_pages, block, attn_window);
    return c.cap * (sizeof *c.entries + c.pages_max * sizeof *c.pages + state_dim * sizeof(float)) + c.n_buckets * sizeof *c.bucket;
}
