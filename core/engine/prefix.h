/* The prefix cache: equilibria of whole blocks of text, found again by what they were computed from.
 *
 * An entry holds the cache pages of one block of prefill_block positions (as many of its last ones as later ones still
 * read), the state f(z) of its last position, which is what the next position starts from, and what the solver reached
 * up to there, which a request that begins behind it tells as its own. Its key is a hash of everything that its bits
 * depend on: the solver's settings, the salt, and all tokens from the beginning of the text to the block's end. Since
 * a prompt's window drains at the ends of blocks (engine.h), a sequence that begins behind a cached block computes the
 * same bits as one that solved it.
 *
 * Pages come from the engine's own pool: what no sequence has reserved keeps old blocks, the least recently used are
 * let go when pages or entries run out. All memory is reserved when the cache is made. One thread. */
#ifndef DEQ_ENGINE_PREFIX_H
#define DEQ_ENGINE_PREFIX_H

#include "core/base/hash.h"
#include "core/engine/pages.h"

/* How near to their equilibria all positions of a text were committed; of no position: zeros. */
struct deq_reached {
    float residual_max;
    bool missed; /* one of them did not converge */
};

struct deq_prefix_entry {
    struct deq_hash key;
    uint32_t *page;      /* [n_pages] numbers of the pool; logical pages first_page.. */
    float *state;        /* [D] */
    struct deq_reached reached;
    size_t first_page;
    uint32_t n_pages;
    uint32_t prev, next; /* in order of use; entry numbers */
    uint32_t chain;      /* next with the same bucket */
};

struct deq_prefix {
    struct deq_pages *pool;
    size_t page_bytes, state_dim;
    struct deq_prefix_entry *entries; /* [cap] */
    uint32_t *pages;                  /* [cap, pages_max] */
    float *states;                    /* [cap, D] */
    uint32_t *bucket;                 /* [n_buckets] first entry, or none */
    uint32_t cap, n_buckets, pages_max;
    uint32_t unused;                  /* list of entries without content, by next */
    uint32_t newest, oldest;
    uint32_t n;
    uint64_t n_pages, evictions;
    uint64_t inserted, copied;        /* entries that came by insertion; so many when it was last copied */
};

struct deq_prefix_stats {
    uint32_t entries;
    uint64_t evictions;
    uint64_t bytes; /* of the pages and states of entries */
};

/* Counts or cuts (core/base/layout.h) a cache beside n_pages pages of that cell, whose last `lookback` positions of a
 * block matter; then deq_prefix_init. Borrows the pages. */
void deq_prefix_lay_out(struct deq_prefix *c, uint32_t n_pages, uint32_t block, const struct deq_cell *cell,
                        struct deq_layout *l);
void deq_prefix_init(struct deq_prefix *c, struct deq_pages *pages, const struct deq_cell *cell);
/* The entry of a key, or NULL. It stays until the next insert or evict. */
const struct deq_prefix_entry *deq_prefix_find(const struct deq_prefix *c, const struct deq_hash *key);
/* The entry was used. */
void deq_prefix_touch(struct deq_prefix *c, const struct deq_prefix_entry *e);
/* Logical pages first_page..first_page+n_pages-1 of s, final, the state behind them, and what was reached from the
 * text's beginning to there. Nothing happens when the key is there already. */
void deq_prefix_insert(struct deq_prefix *c, const struct deq_hash *key, const struct deq_ring *s, size_t first_page,
                       uint32_t n_pages, const float *state, struct deq_reached reached);
/* An entry as it was in another cache, with pages of the pool that are no longer free; it is the newest now. page and
 * state are copied. There is room, and no entry of its key. */
void deq_prefix_put(struct deq_prefix *c, const struct deq_prefix_entry *as);
/* Lets go of the least recently used entry that frees a page, or brings one nearer to being
 * free; false when none does. */
bool deq_prefix_evict(struct deq_prefix *c);
/* Lets go of every entry that holds a page. */
void deq_prefix_invalidate(struct deq_prefix *c, uint32_t page);
struct deq_prefix_stats deq_prefix_stats(const struct deq_prefix *c);

#endif
