#include "core/text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

enum {
    SCAN_MAX = 48,           /* bytes: up to here looking at all pairs beats the heap */
    PIECE_MAX = 1 << 30,     /* bytes: positions are 32 bits wide */
};

struct symbol {
    uint32_t id;
    uint32_t prev, next; /* positions; NIL at the ends */
    bool alive;
};

struct candidate {
    uint32_t rank, pos; /* pos: of the left symbol */
};

static const uint32_t NIL = UINT32_MAX;

static bool printable(uint32_t b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

uint32_t deq_byte_to_cp(uint8_t byte)
{
    uint32_t b = byte;
    if (printable(b))
        return b;
    /* bytes 0..32, 127..160, 173 in order */
    return 0x100 + (b <= 32 ? b : b <= 160 ? b - 127 + 33 : 67);
}

int deq_cp_to_byte(uint32_t cp)
{
    if (cp < 0x100)
        return printable(cp) ? (int)cp : -1;
    if (cp >= 0x100 + 68)
        return -1;
    uint32_t k = cp - 0x100;
    return (int)(k <= 32 ? k : k < 67 ? k - 33 + 127 : 173);
}

static int by_pair(const void *pa, const void *pb)
{
    const struct deq_bpe_merge *a = pa, *b = pb;
    if (a->left != b->left)
        return a->left < b->left ? -1 : 1;
    if (a->right != b->right)
        return a->right < b->right ? -1 : 1;
    return a->rank < b->rank ? -1 : a->rank > b->rank;
}

static int compare_words(const char *a, size_t na, const char *b, size_t nb)
{
    int c = memcmp(a, b, DEQ_MIN(na, nb));
    return c ? c : na < nb ? -1 : na > nb;
}

static int by_bytes(const void *pa, const void *pb)
{
    const struct deq_bpe_word *a = pa, *b = pb;
    return compare_words(a->bytes, a->len, b->bytes, b->len);
}

static const struct deq_bpe_word *find_word(const struct deq_bpe *b, const char *piece, size_t n)
{
    size_t lo = 0, hi = b->n_words;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = compare_words(b->word[mid].bytes, b->word[mid].len, piece, n);
        if (!c)
            return &b->word[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

int64_t deq_bpe_index(struct deq_bpe *b)
{
    if (b->n_words)
        qsort(b->word, b->n_words, sizeof *b->word, by_bytes);
    b->first = DEQ_NEW_ARRAY(uint32_t, (size_t)b->vocab_size + 1);
    if (!b->first)
        return -2;
    if (b->n_merges)
        qsort(b->merge, b->n_merges, sizeof *b->merge, by_pair);
    for (size_t i = 0; i < b->n_merges; i++) {
        const struct deq_bpe_merge *m = &b->merge[i];
        if (i && m[-1].left == m->left && m[-1].right == m->right)
            return m->rank;
        b->first[m->left + 1]++;
    }
    for (uint32_t l = 0; l < b->vocab_size; l++)
        b->first[l + 1] += b->first[l];
    return -1;
}

void deq_bpe_free(struct deq_bpe *b)
{
    deq_free(b->merge);
    deq_free(b->first);
    deq_free(b->word);
    *b = (struct deq_bpe){0};
}

void deq_bpe_work_free(struct deq_bpe_work *work)
{
    deq_free(work->symbols);
    deq_free(work->heap);
    *work = (struct deq_bpe_work){0};
}

static const struct deq_bpe_merge *find(const struct deq_bpe *b, uint32_t left, uint32_t right)
{
    size_t lo = b->first[left], hi = b->first[left + 1], end = hi;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (b->merge[mid].right < right)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < end && b->merge[lo].right == right ? &b->merge[lo] : NULL;
}

static enum deq_rc no_symbol(uint8_t byte, struct deq_err *err)
{
    return deq_fail(err, DEQ_EINVAL, "the text has byte 0x%02x, for which the vocabulary has no symbol", byte);
}

static enum deq_rc encode_short(const struct deq_bpe *b, const char *piece, size_t n, struct deq_tokens *out,
                                struct deq_err *err)
{
    uint32_t id[SCAN_MAX];
    const struct deq_bpe_merge *pair[SCAN_MAX]; /* [n-1] merge of id[i], id[i+1], or NULL */
    for (size_t i = 0; i < n; i++) {
        int32_t k = b->byte_id[(uint8_t)piece[i]];
        if (k < 0)
            return no_symbol((uint8_t)piece[i], err);
        id[i] = (uint32_t)k;
        if (i)
            pair[i - 1] = find(b, id[i - 1], id[i]);
    }
    while (n > 1) {
        size_t best = n;
        for (size_t i = 0; i + 1 < n; i++)
            if (pair[i] && (best == n || pair[i]->rank < pair[best]->rank))
                best = i;
        if (best == n)
            break;
        id[best] = pair[best]->id;
        memmove(id + best + 1, id + best + 2, (n - best - 2) * sizeof *id);
        if (best + 2 < n)
            memmove(pair + best, pair + best + 1, (n - best - 2) * sizeof *pair);
        n--;
        if (best)
            pair[best - 1] = find(b, id[best - 1], id[best]);
        if (best + 1 < n)
            pair[best] = find(b, id[best], id[best + 1]);
    }
    for (size_t i = 0; i < n; i++)
        if (!deq_tokens_push(out, id[i]))
            return deq_fail(err, DEQ_ENOMEM, "no memory for the tokens of a text");
    return DEQ_OK;
}

static bool sooner(struct candidate a, struct candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.pos < b.pos;
}

static void heap_push(struct candidate *h, size_t *n, struct candidate c)
{
    size_t i = (*n)++;
    for (; i && sooner(c, h[(i - 1) / 2]); i = (i - 1) / 2)
        h[i] = h[(i - 1) / 2];
    h[i] = c;
}

static struct candidate heap_pop(struct candidate *h, size_t *n)
{
    struct candidate top = h[0], c = h[--*n];
    size_t i = 0;
    for (;;) {
        size_t k = 2 * i + 1;
        if (k >= *n)
            break;
        if (k + 1 < *n && sooner(h[k + 1], h[k]))
            k++;
        if (!sooner(h[k], c))
            break;
        h[i] = h[k];
        i = k;
    }
    h[i] = c;
    return top;
}

static bool work_room(struct deq_bpe_work *work, size_t n)
{
    if (n <= work->cap)
        return true;
    size_t cap = DEQ_MAX(n, work->cap * 2);
    deq_bpe_work_free(work);
    work->symbols = DEQ_NEW_ARRAY(struct symbol, cap);
    /* at most n-1 candidates at first; each merge takes one out and puts at most two in */
    work->heap = DEQ_NEW_ARRAY(struct candidate, 2 * cap);
    if (!work->symbols || !work->heap) {
        deq_bpe_work_free(work);
        return false;
    }
    work->cap = cap;
    return true;
}

static enum deq_rc encode_long(const struct deq_bpe *b, const char *piece, size_t n, struct deq_bpe_work *work,
                               struct deq_tokens *out, struct deq_err *err)
{
    if (n > PIECE_MAX)
        return deq_fail(err, DEQ_EINVAL, "one word of %zu bytes; the limit is %d", n, PIECE_MAX);
    if (!work_room(work, n))
        return deq_fail(err, DEQ_ENOMEM, "no memory for a word of %zu bytes", n);
    struct symbol *s = work->symbols;
    struct candidate *heap = work->heap;
    size_t n_heap = 0;
    const struct deq_bpe_merge *m;

    for (size_t i = 0; i < n; i++) {
        int32_t k = b->byte_id[(uint8_t)piece[i]];
        if (k < 0)
            return no_symbol((uint8_t)piece[i], err);
        s[i] = (struct symbol){(uint32_t)k, i ? (uint32_t)i - 1 : NIL, i + 1 < n ? (uint32_t)i + 1 : NIL, true};
        if (i && (m = find(b, s[i - 1].id, s[i].id)))
            heap_push(heap, &n_heap, (struct candidate){m->rank, (uint32_t)i - 1});
    }
    while (n_heap) {
        struct candidate c = heap_pop(heap, &n_heap);
        struct symbol *l = &s[c.pos];
        if (!l->alive || l->next == NIL)
            continue;
        m = find(b, l->id, s[l->next].id);
        if (!m || m->rank != c.rank) /* one of the two was merged since */
            continue;
        s[l->next].alive = false;
        l->id = m->id;
        l->next = s[l->next].next;
        if (l->next != NIL) {
            s[l->next].prev = c.pos;
            if ((m = find(b, l->id, s[l->next].id)))
                heap_push(heap, &n_heap, (struct candidate){m->rank, c.pos});
        }
        if (l->prev != NIL && (m = find(b, s[l->prev].id, l->id)))
            heap_push(heap, &n_heap, (struct candidate){m->rank, l->prev});
    }
    for (uint32_t i = 0; i != NIL; i = s[i].next)
        if (!deq_tokens_push(out, s[i].id))
            return deq_fail(err, DEQ_ENOMEM, "no memory for the tokens of a text");
    return DEQ_OK;
}

enum deq_rc deq_bpe_encode(const struct deq_bpe *b, const char *piece, size_t n, struct deq_bpe_work *work,
                           struct deq_tokens *out, struct deq_err *err)
{
    if (!n)
        return DEQ_OK;
    const struct deq_bpe_word *w = b->n_words ? find_word(b, piece, n) : NULL;
    if (w)
        return deq_tokens_push(out, w->id) ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory for the tokens of a text");
    return n <= SCAN_MAX ? encode_short(b, piece, n, out, err) : encode_long(b, piece, n, work, out, err);
}
