#include "core/text/bpe_train.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/text/bpe.h"
#include "core/text/bpe_write.h"
#include "core/text/pretok.h"

enum { END_LEN = sizeof DEQ_BPE_END_OF_TEXT - 1, GONE = 0 /* the end of text is in no word */, FIRST_MERGE_ID = 257 };
static const uint32_t NOWHERE = UINT32_MAX;

struct word {
    const char *text; /* [text_len] in the caller's text */
    size_t text_len;
    int64_t count; /* occurrences */
};

/* A word's bytes, then what they are merged into: a list in order, joined by positions in train.symbol. A merged symbol
 * stands where its left part stood. */
struct symbol {
    uint32_t id; /* GONE where a right part stood */
    uint32_t word;
    uint32_t prev, next; /* NOWHERE at the ends of a word */
};

struct pair {
    uint32_t left, right;
    uint32_t id; /* of the merged token; 0 = not merged yet */
    bool grew;   /* stands in train.grown */
    int64_t count;
    uint32_t *where; /* [n_where] positions of its left symbol, some of them past */
    size_t n_where, cap_where;
};

struct queued { /* a count may be out of date and is put right when the entry comes up */
    int64_t count;
    uint32_t pair;
};

/* Open-addressing table of 1 + index into some array; its owner compares keys. */
struct table {
    uint32_t *slot; /* [n_slots], a power of two */
    size_t n_slots, n_used;
};

struct train {
    struct word *word; /* [n_words] */
    size_t n_words, cap_words;
    struct table words;
    struct symbol *symbol; /* of all words, one after the other */
    struct pair *pair; /* [n_pairs] */
    size_t n_pairs, cap_pairs;
    struct table pairs;
    struct queued *heap; /* most frequent pair on top */
    size_t n_heap, cap_heap;
    uint32_t *grown; /* [n_grown] pairs that became more frequent by the current merge */
    size_t n_grown, cap_grown;
    struct deq_bpe_token *token; /* [vocab_size], [n_tokens] in use; token 0 is the end of text */
    size_t n_tokens;
    struct table tokens;
    struct deq_bpe_parts *merge; /* [n_merges] in order */
    size_t n_merges, cap_merges;
};

static uint64_t mix(uint64_t h)
{
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdull;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53ull;
    return h ^ h >> 33;
}

static uint64_t hash_bytes(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3ull;
    return mix(h);
}

static uint64_t hash_pair(uint32_t left, uint32_t right)
{
    return mix((uint64_t)left << 32 | right);
}

/* Room for element n of an array that doubles; NULL when there is no memory (the old block stays). */
static void *room(void *array, size_t n, size_t *cap, size_t size_bytes)
{
    size_t want = *cap ? *cap * 2 : 16, bytes;
    if (n < *cap)
        return array;
    void *p = deq_mul_size(want, size_bytes, &bytes) ? deq_realloc(array, n * size_bytes, bytes) : NULL;
    if (p)
        *cap = want;
    return p;
}

typedef uint64_t (*hash_fn)(const struct train *t, size_t index);

static uint64_t hash_of_word(const struct train *t, size_t i)
{
    return hash_bytes(t->word[i].text, t->word[i].text_len);
}

static uint64_t hash_of_pair(const struct train *t, size_t i)
{
    return hash_pair(t->pair[i].left, t->pair[i].right);
}

static uint64_t hash_of_token(const struct train *t, size_t i)
{
    return hash_bytes(t->token[i].bytes, t->token[i].len);
}

/* Keeps the table at most half full. */
static bool table_room(const struct train *t, struct table *tab, hash_fn hash)
{
    if (2 * tab->n_used < tab->n_slots)
        return true;
    size_t n_slots = tab->n_slots ? tab->n_slots * 2 : 1024;
    uint32_t *slot = DEQ_NEW_ARRAY(uint32_t, n_slots);
    if (!slot)
        return false;
    for (size_t i = 0; i < tab->n_slots; i++) {
        if (!tab->slot[i])
            continue;
        size_t k = hash(t, tab->slot[i] - 1) & (n_slots - 1);
        while (slot[k])
            k = (k + 1) & (n_slots - 1);
        slot[k] = tab->slot[i];
    }
    deq_free(tab->slot);
    tab->slot = slot;
    tab->n_slots = n_slots;
    return true;
}

/* ---- counting words ---- */

static bool count_word(struct train *t, const char *s, size_t n)
{
    void *p = room(t->word, t->n_words, &t->cap_words, sizeof *t->word);
    if (!p)
        return false;
    t->word = p;
    if (!table_room(t, &t->words, hash_of_word))
        return false;
    size_t mask = t->words.n_slots - 1, k = hash_bytes(s, n) & mask;
    for (; t->words.slot[k]; k = (k + 1) & mask) {
        struct word *w = &t->word[t->words.slot[k] - 1];
        if (w->text_len == n && !memcmp(w->text, s, n)) {
            w->count++;
            return true;
        }
    }
    t->word[t->n_words] = (struct word){.text = s, .text_len = n, .count = 1};
    t->words.slot[k] = (uint32_t)++t->n_words;
    t->words.n_used++;
    return true;
}

static bool count_document(struct train *t, const char *s, size_t n)
{
    for (size_t at = 0; at < n;) {
        size_t k = deq_pretok_next(DEQ_PRETOK_GPT2, s + at, n - at);
        if (!count_word(t, s + at, k))
            return false;
        at += k;
    }
    return true;
}

static bool count_text(struct train *t, const char *s, size_t n)
{
    size_t begin = 0; /* of the document */
    for (size_t line = 0; line < n;) {
        const char *nl = memchr(s + line, '\n', n - line);
        size_t end = nl ? (size_t)(nl - s) : n, next = nl ? end + 1 : n;
        if (end - line == END_LEN && !memcmp(s + line, DEQ_BPE_END_OF_TEXT, END_LEN)) {
            if (!count_document(t, s + begin, line > begin ? line - 1 - begin : 0))
                return false;
            begin = next;
        }
        line = next;
    }
    return count_document(t, s + begin, n - begin);
}

/* ---- pairs ---- */

static bool before(const struct train *t, struct queued a, struct queued b)
{
    const struct pair *x = &t->pair[a.pair], *y = &t->pair[b.pair];
    if (a.count != b.count)
        return a.count > b.count;
    return x->left != y->left ? x->left < y->left : x->right < y->right;
}

static bool heap_push(struct train *t, struct queued q)
{
    struct queued *h = room(t->heap, t->n_heap, &t->cap_heap, sizeof *h);
    if (!h)
        return false;
    t->heap = h;
    size_t i = t->n_heap++;
    for (; i && before(t, q, h[(i - 1) / 2]); i = (i - 1) / 2)
        h[i] = h[(i - 1) / 2];
    h[i] = q;
    return true;
}

static struct queued heap_pop(struct train *t)
{
    struct queued *h = t->heap, top = h[0], q = h[--t->n_heap];
    size_t i = 0;
    for (;;) {
        size_t k = 2 * i + 1;
        if (k >= t->n_heap)
            break;
        if (k + 1 < t->n_heap && before(t, h[k + 1], h[k]))
            k++;
        if (!before(t, h[k], q))
            break;
        h[i] = h[k];
        i = k;
    }
    h[i] = q;
    return top;
}

/* Adds delta to the count of a pair; where it grows, its left symbol's position joins those it is found at. */
static bool pair_add(struct train *t, uint32_t left, uint32_t right, int64_t delta, uint32_t at)
{
    void *m = room(t->pair, t->n_pairs, &t->cap_pairs, sizeof *t->pair);
    if (!m)
        return false;
    t->pair = m;
    if (!table_room(t, &t->pairs, hash_of_pair))
        return false;
    size_t mask = t->pairs.n_slots - 1, k = hash_pair(left, right) & mask;
    for (; t->pairs.slot[k]; k = (k + 1) & mask) {
        const struct pair *q = &t->pair[t->pairs.slot[k] - 1];
        if (q->left == left && q->right == right)
            break;
    }
    if (!t->pairs.slot[k]) {
        t->pair[t->n_pairs] = (struct pair){.left = left, .right = right};
        t->pairs.slot[k] = (uint32_t)++t->n_pairs;
        t->pairs.n_used++;
    }
    uint32_t index = t->pairs.slot[k] - 1;
    struct pair *p = &t->pair[index];
    p->count += delta;
    if (delta < 0)
        return true;
    if (!(m = room(p->where, p->n_where, &p->cap_where, sizeof *p->where)))
        return false;
    p->where = m;
    p->where[p->n_where++] = at;
    if (!p->grew) {
        if (!(m = room(t->grown, t->n_grown, &t->cap_grown, sizeof *t->grown)))
            return false;
        t->grown = m;
        t->grown[t->n_grown++] = index;
        p->grew = true;
    }
    return true;
}

/* What grew is put on the heap once, with its final count. */
static bool queue_grown(struct train *t)
{
    for (size_t i = 0; i < t->n_grown; i++) {
        struct pair *p = &t->pair[t->grown[i]];
        p->grew = false;
        if (p->count > 0 && !heap_push(t, (struct queued){p->count, t->grown[i]}))
            return false;
    }
    t->n_grown = 0;
    return true;
}

static bool count_pairs(struct train *t, const uint32_t byte_id[256])
{
    size_t n_symbols = 0;
    for (size_t i = 0; i < t->n_words; i++)
        n_symbols += t->word[i].text_len;
    if (!(t->symbol = DEQ_NEW_ARRAY(struct symbol, n_symbols)))
        return false;
    uint32_t at = 0;
    for (size_t i = 0; i < t->n_words; i++) {
        const struct word *w = &t->word[i];
        const uint32_t begin = at, end = begin + (uint32_t)w->text_len;
        for (; at < end; at++) {
            t->symbol[at] = (struct symbol){.id = byte_id[(uint8_t)w->text[at - begin]],
                                            .word = (uint32_t)i,
                                            .prev = at > begin ? at - 1 : NOWHERE,
                                            .next = at + 1 < end ? at + 1 : NOWHERE};
            if (at > begin && !pair_add(t, t->symbol[at - 1].id, t->symbol[at].id, w->count, at - 1))
                return false;
        }
    }
    return queue_grown(t);
}

static int by_position(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Replaces left, right at a position by id, if they still stand there, and accounts for the neighbours. */
static bool merge_at(struct train *t, uint32_t at, uint32_t left, uint32_t right, uint32_t id)
{
    struct symbol *s = t->symbol, *l = &s[at];
    if (l->id != left || l->next == NOWHERE || s[l->next].id != right)
        return true;
    struct symbol *r = &s[l->next];
    const int64_t count = t->word[l->word].count;
    if (l->prev != NOWHERE &&
        !(pair_add(t, s[l->prev].id, left, -count, l->prev) && pair_add(t, s[l->prev].id, id, count, l->prev)))
        return false;
    if (r->next != NOWHERE &&
        !(pair_add(t, right, s[r->next].id, -count, at) && pair_add(t, id, s[r->next].id, count, at)))
        return false;
    l->id = id;
    r->id = GONE;
    l->next = r->next;
    if (l->next != NOWHERE)
        s[l->next].prev = at;
    return true;
}

/* Replaces the pair by its token wherever it stands, in each word from left to right: "aaa" is (aa)a. */
static bool merge_pair(struct train *t, uint32_t index)
{
    struct pair p = t->pair[index];
    bool ok = true;
    /* a merged pair can come up again when another merge makes one of its parts once more: same token, no new merge */
    t->pair[index] = (struct pair){.left = p.left, .right = p.right, .id = p.id};
    if (p.left == p.right && p.n_where)
        qsort(p.where, p.n_where, sizeof *p.where, by_position);
    for (size_t i = 0; i < p.n_where && ok; i++)
        ok = merge_at(t, p.where[i], p.left, p.right, p.id);
    deq_free(p.where);
    t->pair[index].count = DEQ_MAX(t->pair[index].count, (int64_t)0);
    return ok && queue_grown(t);
}

/* The id of the token left + right: a new one, or the one that has the same bytes already. 0 = no memory. */
static uint32_t join_tokens(struct train *t, uint32_t left, uint32_t right)
{
    const struct deq_bpe_token *a = &t->token[left], *b = &t->token[right];
    size_t len = a->len + b->len;
    char *bytes = deq_alloc(len);
    if (!bytes || !table_room(t, &t->tokens, hash_of_token)) {
        deq_free(bytes);
        return 0;
    }
    memcpy(bytes, a->bytes, a->len);
    memcpy(bytes + a->len, b->bytes, b->len);
    size_t mask = t->tokens.n_slots - 1, k = hash_bytes(bytes, len) & mask;
    for (; t->tokens.slot[k]; k = (k + 1) & mask) {
        const struct deq_bpe_token *old = &t->token[t->tokens.slot[k] - 1];
        if (old->len == len && !memcmp(old->bytes, bytes, len)) {
            deq_free(bytes);
            return t->tokens.slot[k] - 1;
        }
    }
    uint32_t id = (uint32_t)t->n_tokens++;
    t->token[id] = (struct deq_bpe_token){bytes, len};
    t->tokens.slot[k] = id + 1;
    t->tokens.n_used++;
    return id;
}

static bool merge_pairs(struct train *t, const struct deq_bpe_train_opts *opts)
{
    size_t total = opts->vocab_size - FIRST_MERGE_ID;
    while (t->n_tokens < opts->vocab_size && t->n_heap) {
        struct queued q = heap_pop(t);
        struct pair *p = &t->pair[q.pair];
        if (q.count != p->count) {
            if (p->count > 0 && !heap_push(t, (struct queued){p->count, q.pair}))
                return false;
            continue;
        }
        if (!p->id) {
            void *m = room(t->merge, t->n_merges, &t->cap_merges, sizeof *t->merge);
            if (!m)
                return false;
            t->merge = m;
            if (!(p->id = join_tokens(t, p->left, p->right)))
                return false;
            t->merge[t->n_merges++] = (struct deq_bpe_parts){p->left, p->right};
            if (opts->progress && t->n_merges % 32 == 0)
                opts->progress(opts->ctx, DEQ_MIN(t->n_tokens - FIRST_MERGE_ID, total), total);
        }
        if (!merge_pair(t, q.pair))
            return false;
    }
    if (opts->progress)
        opts->progress(opts->ctx, total, total);
    return true;
}

/* ---- the call ---- */

static bool first_tokens(struct train *t, uint32_t vocab_size, uint32_t byte_id[256])
{
    if (!(t->token = DEQ_NEW_ARRAY(struct deq_bpe_token, vocab_size)) ||
        !(t->token[0].bytes = deq_strdup(DEQ_BPE_END_OF_TEXT)))
        return false;
    t->token[0].len = END_LEN;
    t->n_tokens = 1;
    for (uint32_t cp = 0; cp < 0x100 + 68; cp++) {
        int byte = deq_cp_to_byte(cp);
        if (byte < 0)
            continue;
        struct deq_bpe_token *k = &t->token[t->n_tokens];
        if (!(k->bytes = deq_alloc(1)))
            return false;
        k->bytes[0] = (char)byte;
        k->len = 1;
        byte_id[byte] = (uint32_t)t->n_tokens++;
    }
    return true;
}

static void train_free(struct train *t)
{
    for (size_t i = 0; i < t->n_pairs; i++)
        deq_free(t->pair[i].where);
    for (size_t i = 0; i < t->n_tokens; i++)
        deq_free(t->token[i].bytes);
    deq_free(t->word);
    deq_free(t->words.slot);
    deq_free(t->symbol);
    deq_free(t->pair);
    deq_free(t->pairs.slot);
    deq_free(t->heap);
    deq_free(t->grown);
    deq_free(t->token);
    deq_free(t->tokens.slot);
    deq_free(t->merge);
}

enum deq_rc deq_bpe_train(const char *text, size_t len, const struct deq_bpe_train_opts *opts, struct deq_buf *ret_json,
                          struct deq_err *err)
{
    struct train t = {0};
    uint32_t byte_id[256];
    enum deq_rc rc = DEQ_OK;
    if (opts->vocab_size < DEQ_BPE_TRAIN_MIN_VOCAB || opts->vocab_size > DEQ_BPE_TRAIN_MAX_VOCAB)
        return deq_fail(err, DEQ_EINVAL, "vocabulary of %u tokens: expected %d..%d", opts->vocab_size,
                        DEQ_BPE_TRAIN_MIN_VOCAB, DEQ_BPE_TRAIN_MAX_VOCAB);
    if (len > DEQ_BPE_TRAIN_MAX_BYTES)
        return deq_fail(err, DEQ_EINVAL, "%zu bytes of text, the limit is %u", len, DEQ_BPE_TRAIN_MAX_BYTES);
    if (!first_tokens(&t, opts->vocab_size, byte_id) || !count_text(&t, text, len) || !count_pairs(&t, byte_id) ||
        !merge_pairs(&t, opts)) {
        rc = deq_fail(err, DEQ_ENOMEM, "no memory to train a vocabulary of %u tokens", opts->vocab_size);
        goto out;
    }
    deq_bpe_write(t.token, t.n_tokens, t.merge, t.n_merges, ret_json);
    if (ret_json->failed)
        rc = deq_fail(err, DEQ_ENOMEM, "no room for a tokenizer of %zu tokens", t.n_tokens);
out:
    train_free(&t);
    return rc;
}
