/* The transformer kind: its architecture, its weights, and the cell on rows, the engine's form of the equations in
 * models/FORMAT.md, over packed weights and a paged cache of keys and values, exact path only. (transformer_seq.h is
 * the form on whole sequences that training uses; tests/unit/test_transformer.c compares the two.) */
#ifndef DEQ_CELL_TRANSFORMER_H
#define DEQ_CELL_TRANSFORMER_H

#include "core/cell/kind.h"
#include "core/cell/predictor.h"
#include "core/cell/vocabulary.h"

enum { DEQ_BLOCKS_MAX = 128 };

/* Where LayerNorm stands (n1 before attention, n2 after it, n3 after the FFN, n4 before it):
 *   POST     h = n2(z + attn(z));  f = n3(h + ffn(h))            locuslab/deq
 *   PRE      h = z + attn(n1(z));  x = n4(h);  f = x + ffn(x)    locuslab/deq pre_lnorm: the FFN's residual is normed
 *   PRE_SUB  h = z + W_o n(attn(n1(z)));  f = h + ffn(n4(h))     torchdeq deq-lm
 *   PRE_LN   h = z + attn(n1(z));  f = h + ffn(n4(h))            the usual pre-norm; torchdeq deq-seq pre_lnorm */
enum deq_norm { DEQ_NORM_POST, DEQ_NORM_PRE, DEQ_NORM_PRE_SUB, DEQ_NORM_PRE_LN };
/* The FFN's residual is its input before the norm. */
static inline bool deq_norm_keeps(enum deq_norm n)
{
    return n == DEQ_NORM_PRE_SUB || n == DEQ_NORM_PRE_LN;
}

struct deq_transformer_arch {
    struct deq_arch base;
    uint32_t n_head;           /* H */
    uint32_t d_head;           /* Dh */
    uint32_t d_inner;          /* F */
    uint32_t n_block;          /* L: blocks inside one evaluation of f */
    uint32_t attn_window;      /* W: positions a row attends to, itself included */
    enum deq_norm norm;
    bool norm_affine;          /* LayerNorms have weight and bias */
    bool inject_residual;      /* the token is also injected beside attention:
                                * h = n2(z + attn(z) + u_x), u_x = W_x e + b_x */
    bool final_norm;           /* an affine LayerNorm between z* and the head */
    float norm_eps;
};

extern const struct deq_kind deq_transformer_kind;

/* Outputs of one block's injection: q, k, v and, with inject_residual, x. */
static inline size_t deq_inject_dim(const struct deq_transformer_arch *a)
{
    return 3 * (size_t)a->n_head * a->d_head + (a->inject_residual ? a->base.vocab.d_model : 0);
}

struct deq_block_weights {
    float *inject_w; /* [U, D]   u = W_u e + b_u, U = deq_inject_dim: q, k, v (, x) */
    float *inject_b; /* [U] */
    float *qkv_w;    /* [3*H*Dh, D]   rows: all heads' q, then k, then v */
    float *rel_w;    /* [H*Dh, D]     r_d = W_r p_d */
    float *r_w;      /* [H, Dh]       content bias of the query (Transformer-XL's u) */
    float *r_r;      /* [H, Dh]       position bias of the query (Transformer-XL's v) */
    float *out_w;    /* [D, H*Dh] */
    float *out_b;    /* [D] */
    float *up_w;     /* [F, D] */
    float *up_b;     /* [F] */
    float *down_w;   /* [D, F] */
    float *down_b;   /* [D] */
    /* LayerNorms, NULL when not affine. attn: n1 (pre) or n2 (post), [D]; sub: on the attention vector, [H*Dh] (pre_sub
     * only); ffn: n4 (pre) or n3 (post), [D] */
    float *attn_norm_g, *attn_norm_b, *sub_norm_g, *sub_norm_b, *ffn_norm_g, *ffn_norm_b;
    struct {
        struct deq_packed inject, qkv, out, up, down;
    } packed;
};

struct deq_transformer_weights {
    struct deq_weights base;
    struct deq_transformer_arch arch;
    struct deq_vocabulary vocabulary;
    struct deq_block_weights block[DEQ_BLOCKS_MAX];
    float *final_norm_g, *final_norm_b; /* [D] or NULL */
    struct deq_predictor predictor;
};

static inline const struct deq_transformer_arch *deq_transformer_arch(const struct deq_arch *a)
{
    return (const struct deq_transformer_arch *)a;
}
static inline struct deq_transformer_weights *deq_transformer_weights(struct deq_weights *w)
{
    return (struct deq_transformer_weights *)w;
}

/* transformer_weights.c. Sinusoid of relative distance d (Vaswani et al. 2017; order of Transformer-XL:
 * sines, then cosines): out [D]. */
void deq_sinusoid(uint32_t d, uint32_t d_model, float *out);

/* W_r p of one distance: r [H*Dh]. */
void deq_transformer_relative(const struct deq_transformer_weights *w, unsigned block, size_t distance,
                              float *scratch /* [D] */, float *r);

/* The kind's row ops (kind.h). Its table of relative positions has those that occur within so many pages: a window that
 * config.json claims costs nothing by itself. */
struct deq_cell deq_transformer_shape(const struct deq_arch *a, size_t max_rows, uint32_t n_pages, unsigned threads);
enum deq_rc deq_transformer_open(const struct deq_weights *w, size_t max_rows, uint32_t n_pages, struct deq_pool *pool,
                                 struct deq_cell **ret, struct deq_err *err);
#endif
