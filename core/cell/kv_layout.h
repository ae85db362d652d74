/* Keys and values in a page of 16 positions, as attention reads them (core/math/kern.h has the two forms).
 *
 * A page holds, for each head of each layer, keys, transposed so that a vector of scores is a vector of positions, and
 * values:
 *   float32   K [Dh, 16]                            V [16, Dv]                Dv = Dh rounded up to 16
 *   int16     K [h, 16] pairs, scales [16]          V scales [16], [16, Dv]   h = ceil(Dh / 2), Dv = h rounded up to 16
 * Heads are numbered through all layers. A page counts in words of four bytes. */
#ifndef DEQ_CELL_KV_LAYOUT_H
#define DEQ_CELL_KV_LAYOUT_H

#include "core/base/base.h"
#include "core/math/kern.h"

enum deq_kv_format { DEQ_KV_F32, DEQ_KV_I16 };

struct deq_kv_layout {
    enum deq_kv_format format;
    size_t d_head;
    size_t k_rows, v_stride;                /* K's vectors of 16 words without scales: Dh or h; Dv */
    size_t k_words, head_words, page_words; /* one head's K; its K and V; a page */
};

/* n_head: of all layers */
static inline struct deq_kv_layout deq_kv_layout(enum deq_kv_format format, size_t n_head, size_t d_head)
{
    const size_t scales = format == DEQ_KV_I16 ? DEQ_KV_PAGE_TOK : 0;
    struct deq_kv_layout l = {.format = format, .d_head = d_head};
    l.k_rows = format == DEQ_KV_I16 ? DEQ_PAIRS(d_head) : d_head;
    l.v_stride = DEQ_ROUND_UP(l.k_rows, (size_t)16);
    l.k_words = l.k_rows * DEQ_KV_PAGE_TOK + scales;
    l.head_words = l.k_words + scales + DEQ_KV_PAGE_TOK * l.v_stride;
    l.page_words = l.head_words * n_head;
    return l;
}

/* K and V of one head, in a page. */
static inline void *deq_kv_k(const struct deq_kv_layout *l, void *page, size_t head)
{
    return (char *)page + head * l->head_words * 4;
}

static inline void *deq_kv_v(const struct deq_kv_layout *l, void *page, size_t head)
{
    return (char *)deq_kv_k(l, page, head) + l->k_words * 4;
}

#endif
