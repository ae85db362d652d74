/* The transformer on whole sequences: seq.h's operations, inside.
 *
 *     e = E[token] * sqrt(D);   u = W_u e + b_u;   f(z) = block_{L-1}( ... block_0(z, u) ... )
 *     equations: models/FORMAT.md
 *
 * *Memory* (Transformer-XL's, and how the DEQ authors evaluate): the last M positions before the sequence may be
 * attended to as well. Their states are fixed, so all that is kept of them is keys and values. In every block they are
 * computed from the state z itself, as the authors' code does (a block after the first sees z there, not the block's
 * own input): with one block this is what the engine's cache holds. No gradient goes into memory: the VJP is for
 * sequences without it. Columns of scores are the M positions, then the T of the sequence. */
#ifndef DEQ_CELL_TRANSFORMER_SEQ_H
#define DEQ_CELL_TRANSFORMER_SEQ_H

#include "core/cell/attention_seq.h"
#include "core/cell/transformer.h"

struct deq_tape { /* one evaluation of one block */
    float *x;       /* [N, D] block input */
    float *n1;      /* [N, D] normed input of qkv (pre, pre_sub) */
    float *st1;     /* [N, 2] mean, rstd of the attention norm */
    float *qkv;     /* [N, 3*H*Dh] */
    float *probs;   /* [B, H, T, M + T]; what is behind a position or beyond the window is zero */
    float *av;      /* [N, H*Dh] attention vector */
    float *avn;     /* [N, H*Dh] normed (pre_sub) */
    float *st_sub;  /* [N, 2] */
    float *s;       /* [N, D] x + attention */
    float *h;       /* [N, D] the FFN's input */
    float *act;     /* [N, F] after ReLU and dropout */
    float *o;       /* [N, D] h + ffn, before the last norm (post) */
    float *st2;     /* [N, 2] of the FFN norm */
};

struct deq_transformer_seq {
    struct deq_seq base;
    const struct deq_transformer_weights *w; /* set by begin */
    struct deq_transformer_arch arch;
    size_t m_max, m; /* room for M; M now */
    float *memory[DEQ_BLOCKS_MAX]; /* [B, m_max, 2*H*Dh] keys, values of the M positions, oldest first */
    float *u[DEQ_BLOCKS_MAX];   /* [N, 3*H*Dh] injection into q, k, v */
    float *ux[DEQ_BLOCKS_MAX];  /* [N, D] injection beside attention (inject_residual) */
    float *d_u[DEQ_BLOCKS_MAX], *d_ux[DEQ_BLOCKS_MAX]; /* the same shapes, accumulated by VJPs with gradients */
    float *sin;     /* [R, D] sinusoids, R = m_max + t_max; row i is distance R-1-i */
    float *rel[DEQ_BLOCKS_MAX];   /* [R, H*Dh] W_r p, row i is distance R-1-i */
    float *d_rel[DEQ_BLOCKS_MAX]; /* [R, H*Dh] */
    float *mask_attn; /* [B, D] variational dropout on the attention's output, or NULL: one mask a sequence,
                       * all positions and iterations */
    float *mask_ffn;  /* [B, F] on the FFN's hidden units, or NULL */
    bool masked;      /* masks apply in this step */
    struct deq_tape *tape; /* [n_tapes * L] */
    float *carry;     /* [N, D] what the residual stream's additions lost, of the evaluation under way */
    /* work */
    float *w_nd, *w_nd2, *w_wide, *w_tt, *w_tt2, *w_td; /* [N,D] [N,D] [N, max of F and 4HDh] [64,R] [64,R] [64,Dh] */
    float *stats;     /* [N, 2] of the final norm */
    void *mem;        /* the one block all of these live in */
};

enum deq_rc deq_transformer_seq_new(const struct deq_arch *a, const struct deq_seq_shape *shape, struct deq_seq **ret,
                                    struct deq_err *err);

#endif
