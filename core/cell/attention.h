/* Relative attention (Dai et al., "Transformer-XL", 2019, section 3.3) of rows over a paged cache of keys and values:
 *
 *   s_tj = ((q_t + r_w) . k_j + (q_t + r_r) . R_{t-j}) / sqrt(Dh),  t-W < j <= t;   a_t = sum_j softmax(s_t)_j v_j
 *
 * A part of the transformer's cell (attention_seq.c is its form on whole sequences): it holds the pages, the relative
 * keys of the distances that occur and the scratch of every thread, all cut out of the cell's block of memory. */
#ifndef DEQ_CELL_ATTENTION_H
#define DEQ_CELL_ATTENTION_H

#include "core/base/layout.h"
#include "core/cell/cell.h"
#include "core/cell/kv_layout.h"
#include "core/cell/transformer.h"

/* Columns of a table of relative keys for distances below reach: that of distance 0, and how many there are. */
static inline size_t deq_rel_zero(size_t reach)
{
    return reach - 1 + (size_t)DEQ_REL_PAD;
}
static inline size_t deq_rel_stride(size_t reach)
{
    return DEQ_ROUND_UP(deq_rel_zero(reach) + 1 + (size_t)DEQ_REL_PAD, (size_t)DEQ_KV_PAGE_TOK);
}

struct deq_attention {
    const struct deq_kern *kern;
    struct deq_kv_layout kv;
    size_t n_head, window, reach; /* reach: distances that occur */
    unsigned n_block;
    uint32_t n_pages;
    char *pages; /* [n_pages] keys and values */
    /* relative keys, in the pages' format: distance d < reach in column deq_rel_zero(reach) - d, other columns zero */
    void *rel[DEQ_BLOCKS_MAX];              /* float32: [H, Dh, deq_rel_stride(reach)];  int16: as K, [H, columns/16] */
    const void **rel_pages[DEQ_BLOCKS_MAX]; /* int16: [H, columns/16] into rel */
    struct deq_attention_scratch {
        struct deq_attn_row row[DEQ_ATTN_ROWS]; /* what they point at follows, [DEQ_ATTN_ROWS, ..] each */
        float *qc, *qr;       /* [Dh + 1, rounded up to 16] */
        float *scores;        /* [positions of their pages] */
        float *relative;      /* [columns] */
        float *out;           /* [Dh, rounded up to 16] */
        const void **k, **v;  /* [their pages] */
        int32_t *pairs;       /* [Dv] a key before it is transposed */
    } *thread;                /* [threads] */
};

/* Rows of one block: what they ask with, and where the answers go. */
struct deq_attention_rows {
    const struct deq_rows *rows;
    unsigned block;
    const float *r_w, *r_r; /* [H, Dh] */
    const float *qkv;       /* [R, 3, H*Dh] */
    float *av;              /* [R, H*Dh] */
};

/* Its sizes; the relative keys are those that occur within so many pages. */
struct deq_attention deq_attention_shape(const struct deq_transformer_arch *a, uint32_t n_pages);
void deq_attention_lay_out(struct deq_attention *a, unsigned threads, struct deq_layout *l);

size_t deq_attention_page_bytes(const struct deq_attention *a);
/* Once it is laid out: W_r p of one distance below reach, r [H*Dh]. */
void deq_attention_relative(const struct deq_attention *a, unsigned block, size_t distance, const float *r);

/* Keys and values of one row go to its page: kv [2, H*Dh]. */
void deq_attention_write(const struct deq_attention *a, unsigned block, const struct deq_ring *ring, size_t position,
                         const float *kv, unsigned thread);
/* Multiply-adds of all rows. */
size_t deq_attention_work(const struct deq_attention *a, const struct deq_rows *rows);
/* A thread's share of a stage; the rows' own keys and values, and all before them, are in their pages. */
void deq_attention_read(const struct deq_attention *a, const struct deq_attention_rows *rows, unsigned thread,
                        unsigned n_threads);
void deq_attention_page_copy(const struct deq_attention *a, uint32_t to, uint32_t from);

#endif
