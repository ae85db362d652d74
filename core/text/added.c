#include "core/text/added.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

static int by_content(const void *pa, const void *pb)
{
    const struct deq_added *a = *(const struct deq_added *const *)pa, *b = *(const struct deq_added *const *)pb;
    int c = memcmp(a->content, b->content, DEQ_MIN(a->len, b->len));
    return c ? c : a->len < b->len ? -1 : a->len > b->len;
}

/* ---- the trie ---- */

/* While it is built: what stands under a node is a range of the contents in the order of their bytes from the end. */
struct backwards {
    const struct deq_added *token;
    uint32_t index; /* in set->item */
};

struct range {
    uint32_t lo, hi;
};

/* The byte before the last `depth` bytes. */
static uint8_t byte_at(const struct deq_added *a, size_t depth)
{
    return (uint8_t)a->content[a->len - 1 - depth];
}

static int by_ends(const void *pa, const void *pb)
{
    const struct deq_added *a = ((const struct backwards *)pa)->token, *b = ((const struct backwards *)pb)->token;
    for (size_t i = 0, n = DEQ_MIN(a->len, b->len); i < n; i++)
        if (byte_at(a, i) != byte_at(b, i))
            return byte_at(a, i) < byte_at(b, i) ? -1 : 1;
    return a->len < b->len ? -1 : a->len > b->len;
}

/* The child of node `at` for a byte, or 0. */
static uint32_t child(const struct deq_added_set *set, uint32_t at, uint8_t byte)
{
    if (!at)
        return set->root[byte];
    const struct deq_added_node *p = &set->node[at];
    uint32_t lo = p->child, hi = lo + p->n_children;
    while (lo < hi) {
        const uint32_t mid = lo + (hi - lo) / 2;
        if (set->node[mid].byte < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < p->child + p->n_children && set->node[lo].byte == byte ? lo : 0;
}

/* The state after one more byte before the text of state `at`. */
static uint32_t step(const struct deq_added_set *set, uint32_t at, uint8_t byte)
{
    uint32_t next;
    while (!(next = child(set, at, byte)) && at)
        at = set->node[at].fail;
    return next;
}

/* Level by level, so that a failure link, which is shorter, is there before it is asked for. */
static void build(struct deq_added_set *set, const struct backwards *sorted, struct range *of)
{
    uint32_t n_nodes = 1, level = 0;
    of[0] = (struct range){0, (uint32_t)set->n};
    for (size_t depth = 0; level < n_nodes; depth++) {
        for (const uint32_t end = n_nodes; level < end; level++) {
            struct deq_added_node *p = &set->node[level];
            struct range r = of[level];
            if (depth && sorted[r.lo].token->len == depth) /* sorted: the shortest stands first */
                p->longest = 1 + sorted[r.lo++].index;
            else
                p->longest = set->node[p->fail].longest;
            p->child = n_nodes;
            while (r.lo < r.hi) {
                const uint8_t byte = byte_at(sorted[r.lo].token, depth);
                uint32_t hi = r.lo;
                while (hi < r.hi && byte_at(sorted[hi].token, depth) == byte)
                    hi++;
                of[n_nodes] = (struct range){r.lo, hi};
                set->node[n_nodes] = (struct deq_added_node){.byte = byte,
                                                             .fail = depth ? step(set, p->fail, byte) : 0};
                if (!depth)
                    set->root[byte] = n_nodes;
                n_nodes++;
                p->n_children++;
                r.lo = hi;
            }
        }
    }
}

bool deq_added_room(struct deq_added_set *set, size_t n)
{
    return (set->item = DEQ_NEW_ARRAY(const struct deq_added *, n)) != NULL;
}

bool deq_added_index(struct deq_added_set *set, const struct deq_added **ret_twice)
{
    size_t nodes = 1;
    *ret_twice = NULL;
    if (!set->n)
        return true;
    qsort(set->item, set->n, sizeof *set->item, by_content);
    for (size_t i = 0; i < set->n; i++) {
        nodes += set->item[i]->len;
        if (i && !by_content(&set->item[i - 1], &set->item[i]))
            *ret_twice = set->item[i];
    }
    if (*ret_twice)
        return true;
    struct backwards *sorted = DEQ_NEW_ARRAY(struct backwards, set->n);
    struct range *of = DEQ_NEW_ARRAY(struct range, nodes);
    set->node = DEQ_NEW_ARRAY(struct deq_added_node, nodes);
    const bool ok = sorted && of && set->node;
    for (size_t i = 0; ok && i < set->n; i++)
        sorted[i] = (struct backwards){set->item[i], (uint32_t)i};
    if (ok) {
        qsort(sorted, set->n, sizeof *sorted, by_ends);
        build(set, sorted, of);
    }
    deq_free(sorted);
    deq_free(of);
    return ok;
}

void deq_added_free(struct deq_added_set *set)
{
    deq_free(set->item);
    deq_free(set->node);
    *set = (struct deq_added_set){0};
}

/* ---- questions ---- */

const struct deq_added *deq_added_find(const struct deq_added_set *set, const char *s, size_t n)
{
    size_t lo = 0, hi = set->n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const struct deq_added *a = set->item[mid];
        int c = memcmp(a->content, s, DEQ_MIN(a->len, n));
        if (!c && a->len == n)
            return a;
        if (c < 0 || (!c && a->len < n))
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static bool push(struct deq_added_hits *hits, struct deq_added_hit hit)
{
    if (hits->n == hits->cap) {
        const size_t cap = hits->cap ? 2 * hits->cap : 16;
        struct deq_added_hit *p = deq_realloc(hits->hit, hits->cap * sizeof *p, cap * sizeof *p);
        if (!p)
            return false;
        hits->hit = p;
        hits->cap = cap;
    }
    hits->hit[hits->n++] = hit;
    return true;
}

bool deq_added_scan(const struct deq_added_set *set, const char *s, size_t n, struct deq_added_hits *hits)
{
    uint32_t state = 0;
    hits->n = 0;
    for (size_t i = set->n ? n : 0; i--;) {
        state = step(set, state, (uint8_t)s[i]);
        const uint32_t longest = state ? set->node[state].longest : 0;
        if (longest && !push(hits, (struct deq_added_hit){i, set->item[longest - 1]}))
            return false;
    }
    return true;
}

void deq_added_hits_free(struct deq_added_hits *hits)
{
    deq_free(hits->hit);
    *hits = (struct deq_added_hits){0};
}
