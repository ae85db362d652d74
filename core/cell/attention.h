/* Attention of rows over a paged cache of keys and values: causal, within a window, heads of queries in groups of
 * H / Hkv that read the same keys and values (Ainslie et al., "GQA", 2023):
 *
 *   s_tj = q_t . k_j / sqrt(Dh),  t-W < j <= t;   a_t = sum_j softmax(s_t)_j v_j
 *
 * where queries and keys know their positions (RoPE) or, with Hkv = H, with the relative term of Dai et al.,
 * "Transformer-XL", 2019, section 3.3:
 *
 *   s_tj = ((q_t + r_w) . k_j + (q_t + r_r) . R_{t-j}) / sqrt(Dh)
 *
 * A part of a cell (attention_seq.c is its form on whole sequences): it holds the pages of all layers, the relative
 * keys of the distances that occur and the scratch of every thread, all cut out of the cell's block of memory. */
#ifndef DEQ_CELL_ATTENTION_H
#define DEQ_CELL_ATTENTION_H

#include "core/base/layout.h"
#include "core/cell/cell.h"
#include "core/cell/kv_layout.h"

/* Columns of a table of relative keys for distances below reach: that of distance 0, and how many there are. */
static inline size_t deq_rel_zero(size_t reach)
{
    return reach - 1 + (size_t)DEQ_REL_PAD;
}
static inline size_t deq_rel_stride(size_t reach)
{
    return DEQ_ROUND_UP(deq_rel_zero(reach) + 1 + (size_t)DEQ_REL_PAD, (size_t)DEQ_KV_PAGE_TOK);
}

struct deq_attention_dims {
    enum deq_class numeric; /* float32: so are keys and values; else 16 bits */
    size_t n_kv, d_head;    /* heads of keys and values of all layers; Dh */
    size_t window;          /* W: positions a row sees, itself included */
    bool relative;
};

/* The heads of one layer: n of queries; n_kv, which divides it, of keys and values, in pages from head `at` on. */
struct deq_heads {
    size_t n, n_kv, at;
};

struct deq_attention {
    struct deq_attention_dims dims;
    const struct deq_kern *kern;
    struct deq_kv_layout kv;
    size_t reach; /* distances that occur */
    uint32_t n_pages;
    char *pages; /* [n_pages] keys and values */
    /* relative keys by head, in the pages' format: distance d < reach in column deq_rel_zero(reach) - d, other columns
     * zero; NULL without */
    void *rel;              /* float32: [n_kv, Dh, deq_rel_stride(reach)];  int16: as K, [n_kv, columns/16] */
    const void **rel_pages; /* int16: [n_kv, columns/16] into rel */
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

/* Rows of one layer: what they ask with, and where the answers go. */
struct deq_attention_rows {
    const struct deq_rows *rows;
    struct deq_heads heads;
    const float *r_w, *r_r; /* [H, Dh] with the relative term */
    const float *q;         /* [R, ldq] of them [H*Dh] */
    size_t ldq;
    float *av;              /* [R, H*Dh] */
};

/* Its sizes; the relative keys are those that occur within so many pages. */
struct deq_attention deq_attention_shape(const struct deq_attention_dims *d, uint32_t n_pages);
void deq_attention_lay_out(struct deq_attention *a, unsigned threads, struct deq_layout *l);

size_t deq_attention_page_bytes(const struct deq_attention *a);
/* Once it is laid out: W_r p of one distance below reach, r [H*Dh]. */
void deq_attention_relative(const struct deq_attention *a, struct deq_heads heads, size_t distance, const float *r);

/* Keys and values of one row go to its page: kv [2, Hkv*Dh]. */
void deq_attention_write(const struct deq_attention *a, struct deq_heads heads, const struct deq_ring *ring,
                         size_t position, const float *kv, unsigned thread);
/* Multiply-adds of all rows. */
size_t deq_attention_work(const struct deq_attention *a, struct deq_heads heads, const struct deq_rows *rows);
/* A thread's share of a stage; the rows' own keys and values, and all before them, are in their pages. */
void deq_attention_read(const struct deq_attention *a, const struct deq_attention_rows *rows, unsigned thread,
                        unsigned n_threads);
void deq_attention_page_copy(const struct deq_attention *a, uint32_t to, uint32_t from);
/* A page as bytes [deq_attention_page_bytes], zeros from position n on; and the reverse. */
void deq_attention_page_get(const struct deq_attention *a, uint32_t page, uint32_t n, void *out);
void deq_attention_page_put(const struct deq_attention *a, uint32_t page, const void *in);

#endif
