/* The prefix cache: equilibria of whole blocks of text, found again by what they were computed from.
 *
 * An entry holds the cache pages of one block of prefill_block positions (as many of its last ones as attention can still reach) and the state
 * f(z) of its last position, which is what the next position starts from. Its key is a hash of everything that its bits depend on: the solver's
 * settings, the salt, and all tokens from the beginning of the text to the block's end. Since a prompt's window drains at the ends of blocks
 * (engine.h), a sequence that begins behind a cached block computes the same bits as one that solved it.
 *
 * Pages come from the engine's own pool: what no sequence has reserved keeps old blocks, the least recently used are let go when pages or
 * entries run out. All memory is reserved when the cache is made. One thread. */
#ifndef DEQ_ENGINE_PREFIX_H
#define DEQ_ENGINE_PREFIX_H

#include "core/base/hash.h"
#include "core/data/kv.h"

struct deq_prefix_entry {
    struct deq_hash key;
    uint32_t *page;      /* [n_pages] numbers of the pool; logical pages first_page.. */
    float *state;        /* [D] */
    size_t first_page;
    uint32_t n_pages;
    uint32_t prev, next; /* in order of use; entry numbers */
    uint32_t chain;      /* next with the same bucket */
};

struct deq_prefix;

struct deq_prefix_stats {
    uint32_t entries;
    uint64_t evictions;
    uint64_t bytes; /* of the pages and states of entries */
};

/* Borrows the pool. block: positions of a block; attn_window: how many of its last ones matter; state_dim: D. */
enum deq_rc deq_prefix_new(struct deq_kv_pool *kv, uint32_t block, uint32_t attn_window, size_t state_dim, struct deq_prefix **ret, struct deq_err *err);
void deq_prefix_free(struct deq_prefix *c); /* before the pool */
/* The entry of a key, or NULL. It stays until the next insert or evict. */
const struct deq_prefix_entry *deq_prefix_find(const struct deq_prefix *c, const struct deq_hash *key);
/* The entry was used. */
void deq_prefix_touch(struct deq_prefix *c, const struct deq_prefix_entry *e);
/* Logical pages first_page..first_page+n_pages-1 of s, final, and the state behind them. Nothing happens when the key is there already. */
void deq_prefix_insert(struct deq_prefix *c, const struct deq_hash *key, const struct deq_kv_seq *s, size_t first_page, uint32_t n_pages,
                       const float *state);
/* Lets go of the least recently used entry that frees a page, or brings one nearer to being free; false when none does. */
bool deq_prefix_evict(struct deq_prefix *c);
/* Lets go of every entry that holds a page. */
void deq_prefix_forget(struct deq_prefix *c, uint32_t page);
struct deq_prefix_stats deq_prefix_stats(const struct deq_prefix *c);
/* What a cache of that shape takes beside its pool of n_pages. */
uint64_t deq_prefix_memory_bytes(uint32_t n_pages, uint32_t block, uint32_t attn_window, size_t state_dim);

#endif
