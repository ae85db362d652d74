/* The tokens that may follow in a form: one walk over the spelling of the vocabulary, or what an earlier one found. */
#include <string.h>

#include "core/base/mem.h"
#include "core/form/form_impl.h"

enum {
    WAYS = 4,
    KEPT_BYTES = 512 << 10,
    SLOTS_MIN = 16,
    SLOTS_MAX = 1024,
    /* What a walk may take, in readings that are settled and, of several, what is stacked in them: so many a node and
     * this. Only an ambiguous grammar comes so far, and then tokens of several bytes are left out, the same ones at
     * every time. */
    WORK_NODE = 8,
    WORK_MIN = 1 << 16,
};

enum deq_rc deq_masks_init(struct deq_masks *m, size_t vocab_size, struct deq_err *err)
{
    m->words = deq_form_words(vocab_size);
    const size_t slots = KEPT_BYTES / (m->words * sizeof *m->mask + sizeof *m->slot);
    m->n_slots = DEQ_MIN(DEQ_MAX(slots, (size_t)SLOTS_MIN), (size_t)SLOTS_MAX) / WAYS * WAYS;
    m->mask = DEQ_NEW_ARRAY(uint32_t, m->n_slots * m->words);
    m->slot = DEQ_NEW_ARRAY(struct deq_mask_slot, m->n_slots);
    if (m->mask && m->slot)
        return DEQ_OK;
    deq_masks_free(m);
    return deq_fail(err, DEQ_ENOMEM, "no memory for a form");
}

void deq_masks_free(struct deq_masks *m)
{
    deq_free(m->mask);
    deq_free(m->slot);
    m->mask = NULL;
    m->slot = NULL;
}

size_t deq_masks_bytes(const struct deq_masks *m)
{
    return m->n_slots * (m->words * sizeof *m->mask + sizeof *m->slot);
}

/* --- The walk --- */

/* What is under way at a node: readings, or of a single one only another place in it. */
struct level {
    const struct deq_readings *readings;
    uint16_t place; /* of the only one */
};

/* The readings behind a byte, which are made in *room if they are new ones; false: none. */
static inline bool descend(const struct deq_automaton *a, const struct level *from, unsigned char byte,
                           struct deq_readings *room, struct level *to, uint64_t *work)
{
    if (from->readings->n == 1) {
        const struct deq_reading *only = &from->readings->at[0];
        const uint16_t place = deq_reading_next(a, only, from->place, byte);
        if (!place)
            return false;
        *to = (struct level){from->readings, place};
        if (deq_reading_alone(a, place, only->depth))
            return true;
        deq_readings_settle(a, only, place, room);
        *work += room->n;
    } else {
        const bool any = deq_readings_step(a, from->readings, byte, room);
        *work += room->n;
        for (uint32_t i = 0; i < from->readings->n; i++)
            *work += 1 + from->readings->at[i].depth;
        if (!any)
            return false;
    }
    *to = (struct level){room, room->at[0].place};
    return true;
}

/* Ids from, to - 1 of the spelling's. */
static void allow(const struct deq_spelling *s, uint32_t from, uint32_t to, uint32_t *allowed)
{
    for (uint32_t k = from; k < to; k++)
        allowed[s->ids[k] / 32] |= 1u << s->ids[k] % 32;
}

static void allow_node(const struct deq_spelling *s, const struct deq_spelling_node *node, uint32_t *allowed)
{
    allow(s, node->first, node->first + node->n, allowed);
}

static void allow_below(const struct deq_spelling *s, const struct deq_spelling_node *node, uint32_t *allowed)
{
    allow(s, node->first + node->n, node->behind < s->n ? s->node[node->behind].first : s->n_ids, allowed);
}

/* From a place any `run` bytes of these kinds are read by one reading, as in a JSON string and behind [a-z]{0,12}: most
 * of what is below a node is then allowed, or not, as a whole. */
struct stretch {
    uint16_t place, depth; /* place 0: none is known */
    uint8_t run;
    uint64_t kinds;
};

enum { STRETCHES = 8 };

/* Kinds of bytes are those that go the way of an n: words are mostly letters. */
static struct stretch find_stretch(const struct deq_form *f, uint16_t place, uint16_t depth)
{
    const struct deq_automaton *a = &f->automaton;
    const uint16_t *next = a->next + (size_t)place * a->n_classes;
    uint16_t at = place, to = next[a->class_of['n']];
    struct stretch ret = {.place = place, .depth = depth, .kinds = (1ull << DEQ_BYTE_KINDS) - 1};
    unsigned class[256], n = 0;
    for (unsigned b = 0; b < 256; b++)
        if (next[a->class_of[b]] != to)
            ret.kinds &= ~(1ull << f->spelling->kind[b]);
    for (unsigned b = 0; b < 256; b++)
        /* cppcheck-suppress uninitvar; where n is 0 it is not read */
        if (ret.kinds >> f->spelling->kind[b] & 1 && (!n || class[n - 1] != a->class_of[b]))
            class[n++] = a->class_of[b];
    while (to && ret.run < DEQ_SPELLING_LONGEST && a->place[to].need + depth <= DEQ_FORM_DEPTH &&
           deq_reading_alone(a, to, depth)) {
        ret.run = at == to ? DEQ_SPELLING_LONGEST : (uint8_t)(ret.run + 1);
        at = to;
        next = a->next + (size_t)at * a->n_classes;
        to = n ? next[class[0]] : 0;
        for (unsigned c = 1; c < n; c++)
            to = next[class[c]] == to ? to : 0;
    }
    return ret;
}

/* Whether all that is below the node fits behind the one reading at its level. */
static bool fits_below(const struct deq_form *f, const struct deq_spelling_node *node, const struct level *at,
                       struct stretch *known)
{
    const uint16_t depth = at->readings->at[0].depth;
    struct stretch *s = &known[at->place % STRETCHES];
    if (at->readings->n != 1 || !node->most)
        return false;
    if (s->place != at->place || s->depth != depth)
        *s = find_stretch(f, at->place, depth);
    return node->most <= s->run && !(node->below & ~s->kinds);
}

/* Tokens of one byte, with which every reading can go on. */
static void allow_bytes(const struct deq_form *f, const struct deq_readings *r, uint32_t *allowed)
{
    for (uint32_t i = 0; i < f->spelling->n; i = f->spelling->node[i].behind) {
        const struct deq_spelling_node *node = &f->spelling->node[i];
        bool reads = false;
        for (uint32_t k = 0; k < r->n && !reads; k++)
            reads = deq_reading_next(&f->automaton, &r->at[k], r->at[k].place, node->byte);
        if (reads)
            allow_node(f->spelling, node, allowed);
    }
}

static void walk(const struct deq_form *f, const struct deq_readings *r, uint32_t *allowed)
{
    struct deq_readings room[DEQ_SPELLING_LONGEST + 1];
    struct level level[DEQ_SPELLING_LONGEST + 1];
    struct stretch known[STRETCHES] = {0};
    const struct deq_spelling *s = f->spelling;
    const uint64_t most = WORK_NODE * (uint64_t)s->n + WORK_MIN;
    uint64_t work = 0;
    level[0] = (struct level){r, r->n ? r->at[0].place : 0};
    allow_bytes(f, r, allowed);
    for (uint32_t i = 0; r->n && i < s->n && work < most;) {
        const struct deq_spelling_node *node = &s->node[i];
        const unsigned at = node->depth;
        if (!descend(&f->automaton, &level[at - 1], node->byte, &room[at], &level[at], &work)) {
            i = node->behind;
            continue;
        }
        allow_node(s, node, allowed);
        const bool all = fits_below(f, node, &level[at], known);
        if (all)
            allow_below(s, node, allowed);
        i = all ? node->behind : i + 1;
    }
}

/* --- What is kept --- */

/* The readings as numbers; 0: too many. */
static uint16_t key_of(const struct deq_readings *r, uint16_t key[DEQ_MASK_KEY])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        const struct deq_reading *one = &r->at[i];
        if (n + 2u + one->depth > DEQ_MASK_KEY)
            return 0;
        key[n++] = one->place;
        key[n++] = one->depth;
        for (uint16_t k = 0; k < one->depth; k++)
            key[n++] = one->below[k];
    }
    return (uint16_t)n;
}

/* The slot of the key, or the one to be written over: *ret_found. */
static size_t slot_of(const struct deq_masks *m, const uint16_t *key, uint16_t n, bool *ret_found)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (uint16_t i = 0; i < n; i++)
        h = (h ^ key[i]) * 0x100000001b3u;
    const size_t set = (size_t)((h ^ h >> 31) % (m->n_slots / WAYS)) * WAYS;
    size_t oldest = set;
    *ret_found = false;
    for (size_t i = set; i < set + WAYS; i++) {
        const struct deq_mask_slot *slot = &m->slot[i];
        *ret_found = slot->used && slot->n == n && !memcmp(slot->key, key, n * sizeof *key);
        if (*ret_found)
            return i;
        oldest = slot->used < m->slot[oldest].used ? i : oldest;
    }
    return oldest;
}

static void take_mask(struct deq_form *f, const struct deq_readings *r, uint32_t *allowed)
{
    struct deq_masks *m = &f->masks;
    uint16_t key[DEQ_MASK_KEY];
    const uint16_t n = key_of(r, key);
    bool found = false;
    if (!n) {
        walk(f, r, allowed);
        return;
    }
    struct deq_mask_slot *slot = &m->slot[slot_of(m, key, n, &found)];
    uint32_t *kept = m->mask + (size_t)(slot - m->slot) * m->words;
    if (!found) {
        memset(kept, 0, m->words * sizeof *kept);
        walk(f, r, kept);
        memcpy(slot->key, key, n * sizeof *key);
        slot->n = n;
    }
    if (!++m->clock) { /* all are equally old once in four billion */
        for (size_t i = 0; i < m->n_slots; i++)
            m->slot[i].used = m->slot[i].used != 0;
        m->clock = 2;
    }
    slot->used = m->clock;
    memcpy(allowed, kept, m->words * sizeof *kept);
}

void deq_form_mask(struct deq_form *f, const struct deq_readings *r, uint32_t *allowed)
{
    memset(allowed, 0, f->masks.words * sizeof *allowed);
    pthread_mutex_lock(&f->lock);
    take_mask(f, r, allowed);
    pthread_mutex_unlock(&f->lock);
    if (f->eos_id >= 0 && deq_form_whole(f, r))
        allowed[f->eos_id / 32] |= 1u << f->eos_id % 32;
}
