/* The pages of a sequence, and its blocks in the prefix cache: what it takes from there and leaves there. */
#include <string.h>

#include "core/base/mem.h"
#include "core/engine/engine_impl.h"

void deq_seq_make_writable(struct deq_engine *e, struct sequence *s, size_t position)
{
    uint32_t from;
    while (!deq_ring_make_writable(&e->pages, &s->ring, position, &from))
        /* then every page is held by a sequence, and the one to be written over is in the cache */
        if (!deq_prefix_evict(&e->prefix))
            deq_prefix_invalidate(&e->prefix, deq_page_of(&s->ring, position / e->cell->page_tok));
    if (from != DEQ_PAGE_NONE)
        e->cell->ops->page_copy(e->cell, deq_page_of(&s->ring, position / e->cell->page_tok), from);
}

/* The key of the empty text: all that the bits of a state depend on beside the tokens, and who may share it. */
static void prefix_key_init(const struct deq_engine *e, const struct sequence *s, struct deq_hash *ret_exact,
                       struct deq_hash *ret_approximate)
{
    struct {
        uint16_t method, stop;
        uint32_t warm, max_iter, min_iter, window, pace, approximate;
        float tol; /* no padding: all bytes are hashed */
        struct deq_hash salt;
    } of = {.method = (uint16_t)s->req.solve.solver,
            .stop = (uint16_t)s->req.solve.stop,
            .warm = s->req.solve.warm_start,
            .max_iter = s->req.solve.max_iter,
            .min_iter = s->req.solve.min_iter,
            /* blocks are of prompts */
            .window = deq_prefill_window(s->req.solve.window, s->req.solve.prefill_window),
            .pace = deq_prefill_pace(s->req.solve.window, s->req.solve.prefill_window),
            .tol = s->req.solve.tol,
            .salt = deq_siphash(&e->secret, s->req.cache_salt, s->req.cache_salt_len)};
    *ret_exact = deq_siphash(&e->secret, &of, sizeof of);
    of.approximate = 1;
    *ret_approximate = deq_siphash(&e->secret, &of, sizeof of);
}

/* ... and of a text that is longer by one block: the key of that block. */
static void prefix_key_extend(const struct deq_engine *e, struct deq_hash *key, const uint32_t *tokens)
{
    const struct deq_hash block = deq_siphash(key, tokens, e->opts.prefill_block * sizeof *tokens);
    const struct deq_hash both[2] = {*key, block};
    *key = deq_siphash(&e->secret, both, sizeof both);
}

/* First logical page that position `end` can still see, within the block that ends there. */
static size_t first_page_seen(const struct deq_engine *e, size_t begin, size_t end)
{
    const size_t back = e->cell->lookback, lo = end > back ? end - back : 0;
    return DEQ_MAX(begin, lo) / e->cell->page_tok;
}

void deq_seq_keep_block(struct deq_engine *e, struct sequence *s, const float *state)
{
    const size_t B = e->opts.prefill_block, end = s->n_committed;
    prefix_key_extend(e, &s->key_exact, s->tokens + end - B);
    prefix_key_extend(e, &s->key_approximate, s->tokens + end - B);
    const bool canonical = end <= s->req.n_prompt && !s->approximate;
    const size_t first = first_page_seen(e, end - B, end), behind = end / e->cell->page_tok;
    deq_prefix_insert(&e->prefix, canonical ? &s->key_exact : &s->key_approximate, &s->ring, first,
                      (uint32_t)(behind - first), state, s->reached);
}

struct found {
    const struct deq_prefix_entry *entry;
    bool approximate;
};

/* The entry with the key of block b. One out of a file may say that it stands elsewhere; then there is none. */
static const struct deq_prefix_entry *find_block(const struct deq_engine *e, const struct deq_hash *key, size_t b)
{
    const size_t B = e->opts.prefill_block, end = (b + 1) * B, first = first_page_seen(e, end - B, end);
    const struct deq_prefix_entry *entry = deq_prefix_find(&e->prefix, key);
    return entry && entry->first_page == first && first + entry->n_pages == end / e->cell->page_tok ? entry : NULL;
}

static struct found find(const struct deq_engine *e, const struct sequence *s, const struct deq_hash keys[2], size_t b)
{
    struct found f = {find_block(e, &keys[0], b), false};
    if (!f.entry && s->req.cache == DEQ_CACHE_APPROXIMATE)
        f = (struct found){find_block(e, &keys[1], b), true};
    return f;
}

enum deq_rc deq_seq_take_blocks(struct deq_engine *e, struct sequence *s, struct deq_admission *ret)
{
    const size_t B = e->opts.prefill_block, blocks = (s->req.n_prompt - 1) / B, back = e->cell->lookback;
    prefix_key_init(e, s, &s->key_exact, &s->key_approximate);
    if (!blocks || s->req.want_prompt || s->req.states == DEQ_STATES_ALL || s->req.cache == DEQ_CACHE_OFF)
        return DEQ_OK;
    struct deq_hash(*keys)[2] = deq_alloc_array(blocks, sizeof *keys);
    if (!keys)
        return DEQ_ENOMEM;
    for (size_t b = 0; b < blocks; b++) {
        keys[b][0] = b ? keys[b - 1][0] : s->key_exact;
        keys[b][1] = b ? keys[b - 1][1] : s->key_approximate;
        prefix_key_extend(e, &keys[b][0], s->tokens + b * B);
        prefix_key_extend(e, &keys[b][1], s->tokens + b * B);
    }
    e->stats.prefix_queries_tok += s->req.n_prompt;
    size_t hit = blocks, from = 0;
    for (; hit > 0; hit--) {
        from = hit * B > back ? (hit * B - back) / B : 0;
        from = DEQ_MIN(from, hit - 1); /* the state behind the last block is needed even where its pages are not */
        size_t b = hit;
        while (b > from && find(e, s, keys[b - 1], b - 1).entry)
            b--;
        if (b == from)
            break;
    }
    for (size_t b = from; hit && b < hit; b++) {
        const struct found f = find(e, s, keys[b], b);
        const size_t lo = DEQ_MAX(f.entry->first_page, first_page_seen(e, b * B, hit * B));
        for (size_t page = lo; page < f.entry->first_page + f.entry->n_pages; page++)
            deq_ring_share(&e->pages, &s->ring, page, f.entry->page[page - f.entry->first_page]);
        s->approximate = s->approximate || f.approximate;
        e->stats.prefix_approximate_tok += f.approximate ? B : 0;
        if (b + 1 == hit) {
            memcpy(s->state, f.entry->state, e->cell->state_dim * sizeof(float));
            s->reached = s->prompt_reached = f.entry->reached;
        }
        deq_prefix_touch(&e->prefix, f.entry);
    }
    if (hit) {
        s->key_exact = keys[hit - 1][0];
        s->key_approximate = keys[hit - 1][1];
        s->n_committed = s->n_explicit = hit * B;
        s->from_cache = true;
        e->stats.prefix_hits_tok += hit * B;
        ret->cached_tokens = hit * B;
        ret->approximate = s->approximate;
    }
    deq_free(keys);
    return DEQ_OK;
}
