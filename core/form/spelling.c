#include "core/form/spelling.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

static int by_bytes(const void *pa, const void *pb)
{
    const struct deq_token_text *a = pa, *b = pb;
    const int order = memcmp(a->bytes, b->bytes, DEQ_MIN(a->len, b->len));
    if (order)
        return order;
    if (a->len != b->len)
        return a->len < b->len ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static uint32_t common(const struct deq_token_text *a, const struct deq_token_text *b)
{
    uint32_t n = 0;
    while (n < a->len && n < b->len && a->bytes[n] == b->bytes[n])
        n++;
    return n;
}

static uint8_t kind_of(unsigned b)
{
    enum { SIGNS = 33, ZERO = SIGNS, DIGIT, HEX, LETTER, BIG_HEX, BIG_LETTER, NUL, TAB, LINE, RETURN, CONTROL, TRAIL,
           NONE, LEAD_2, LEAD_3, LEAD_4 };
    _Static_assert(LEAD_4 + 1 == DEQ_BYTE_KINDS, "all of them");
    static const uint8_t low[' '] = {['\0'] = NUL, [1 ... 8] = CONTROL, ['\t'] = TAB, ['\n'] = LINE,
                                     [11 ... 12] = CONTROL, ['\r'] = RETURN, [14 ... 31] = CONTROL};
    if (b >= 0xc0)
        return b < 0xc2 ? NONE : b < 0xe0 ? LEAD_2 : b < 0xf0 ? LEAD_3 : LEAD_4;
    if (b >= 0x7f)
        return b == 0x7f ? CONTROL : TRAIL;
    if (b >= 'a' && b <= 'z')
        return b <= 'f' ? HEX : LETTER;
    if (b >= 'A' && b <= 'Z')
        return b <= 'F' ? BIG_HEX : BIG_LETTER;
    if (b >= '0' && b <= '9')
        return b == '0' ? ZERO : DIGIT;
    if (b < ' ')
        return low[b];
    const unsigned before = (b > '9' ? 10 : 0) + (b > 'Z' ? 26 : 0) + (b > 'z' ? 26 : 0); /* that are no signs */
    return (uint8_t)(b - ' ' - before);
}

/* The node at that depth has all its nodes; what it holds is below the one before it, too. */
static void close_node(struct deq_spelling *s, const uint32_t *open, uint32_t depth)
{
    struct deq_spelling_node *node = &s->node[open[depth]], *above = &s->node[open[depth - 1]];
    node->behind = s->n;
    if (depth == 1)
        return;
    above->below |= node->below | 1ull << s->kind[node->byte];
    above->most = DEQ_MAX(above->most, (uint8_t)(node->most + 1));
}

/* Nodes of the sorted tokens: each has those that it does not share with the one before it. */
static void plant(struct deq_spelling *s, const struct deq_token_text *sorted)
{
    uint32_t open[DEQ_SPELLING_LONGEST + 1] = {0}; /* nodes from the root to the last one, at 1.. */
    uint32_t depth = 0;
    for (uint32_t i = 0; i < s->n_ids; i++) {
        const struct deq_token_text *t = &sorted[i];
        const uint32_t shared = i ? common(&sorted[i - 1], t) : 0;
        for (; depth > shared; depth--)
            close_node(s, open, depth);
        for (; depth < t->len; depth++) {
            open[depth + 1] = s->n;
            s->node[s->n++] = (struct deq_spelling_node){
                .first = i, .byte = (uint8_t)t->bytes[depth], .depth = (uint8_t)(depth + 1)};
        }
        struct deq_spelling_node *node = &s->node[open[depth]];
        node->first = node->n ? node->first : i;
        node->n += node->n < UINT16_MAX;
        s->ids[i] = t->id;
        s->alone[(uint8_t)t->bytes[0]] |= t->len == 1;
    }
    for (; depth; depth--)
        close_node(s, open, depth);
}

enum deq_rc deq_spelling_new(uint32_t vocab_size, const char *(*bytes)(const void *ctx, uint32_t id, size_t *ret_len),
                             const void *ctx, struct deq_spelling **ret, struct deq_err *err)
{
    struct deq_spelling *s = DEQ_NEW(struct deq_spelling);
    struct deq_token_text *sorted = DEQ_NEW_ARRAY(struct deq_token_text, vocab_size);
    uint32_t n_nodes = 0;
    if (s)
        s->text = DEQ_NEW_ARRAY(struct deq_token_text, vocab_size);
    bool ok = s && sorted && s->text;
    for (uint32_t id = 0; ok && id < vocab_size; id++) {
        size_t len = 0;
        const char *b = bytes(ctx, id, &len);
        if (!b || !len || len > DEQ_SPELLING_LONGEST)
            continue;
        s->text[id] = sorted[s->n_ids++] = (struct deq_token_text){b, (uint32_t)len, id};
    }
    if (ok)
        qsort(sorted, s->n_ids, sizeof *sorted, by_bytes);
    for (uint32_t i = 0; ok && i < s->n_ids; i++)
        n_nodes += sorted[i].len - (i ? common(&sorted[i - 1], &sorted[i]) : 0);
    if (ok) {
        s->vocab_size = vocab_size;
        for (unsigned b = 0; b < 256; b++)
            s->kind[b] = kind_of(b);
        s->node = DEQ_NEW_ARRAY(struct deq_spelling_node, n_nodes);
        s->ids = DEQ_NEW_ARRAY(uint32_t, s->n_ids);
        ok = s->node && s->ids;
    }
    if (ok)
        plant(s, sorted);
    deq_free(sorted);
    if (!ok) {
        deq_spelling_free(s);
        return deq_fail(err, DEQ_ENOMEM, "no memory for the spelling of a vocabulary");
    }
    *ret = s;
    return DEQ_OK;
}

void deq_spelling_free(struct deq_spelling *s)
{
    if (!s)
        return;
    deq_free(s->node);
    deq_free(s->ids);
    deq_free(s->text);
    deq_free(s);
}
