/* The transformer cell on whole sequences [B, T], with its vector-Jacobian product: what training needs.
 * (The engine's form of the same equations, on single rows over a cache, is transformer.h; tests compare the two.)
 *
 *     e = E[token] * sqrt(D);   u = W_u e + b_u;   f(z) = block_{L-1}( ... block_0(z, u) ... )         equations: models/README.md
 *
 * A *tape* keeps what the VJP of one evaluation needs; its size does not depend on how many evaluations the solver makes, since
 * solving uses one tape over and over. Memory is allocated once, in deq_seq_new. One thread a struct deq_seq.
 * Rows are n = b*T + t; N = B*T.
 *
 * *Memory* (Transformer-XL's, and how the DEQ authors evaluate): the last M positions before the sequence may be attended to as well. Their states are
 * fixed, so all that is kept of them is keys and values. In every block they are computed from the state z itself, as the authors' code does
 * (a block after the first sees z there, not the block's own input): with one block this is what the engine's cache holds. No gradient goes
 * into memory: the VJP is for sequences without it. Columns of scores are the M positions, then the T of the sequence. */
#ifndef DEQ_CELL_TRANSFORMER_SEQ_H
#define DEQ_CELL_TRANSFORMER_SEQ_H

#include "core/data/weights.h"
#include "core/math/gemm.h"

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

struct deq_seq {
    const struct deq_weights *w; /* set by deq_seq_begin */
    struct deq_arch arch;
    size_t b, t, n; /* B, T, N */
    deq_gemm_fn *xwt, *dyw; /* products of the forward evaluation: fast, or wide */
    size_t t_max, m_max, m; /* room for T; for M; M now */
    float *memory[DEQ_BLOCKS_MAX]; /* [B, m_max, 2*H*Dh] keys, values of the M positions, oldest first */
    const uint32_t *tokens; /* [N], borrowed from begin to end */
    float *e;       /* [N, D] scaled embeddings */
    float *u[DEQ_BLOCKS_MAX];   /* [N, 3*H*Dh] injection into q, k, v */
    float *ux[DEQ_BLOCKS_MAX];  /* [N, D] injection beside attention (inject_residual) */
    float *d_u[DEQ_BLOCKS_MAX], *d_ux[DEQ_BLOCKS_MAX]; /* the same shapes, accumulated by VJPs with gradients */
    float *sin;     /* [R, D] sinusoids, R = m_max + t_max; row i is distance R-1-i */
    float *rel[DEQ_BLOCKS_MAX];   /* [R, H*Dh] W_r p, row i is distance R-1-i */
    float *d_rel[DEQ_BLOCKS_MAX]; /* [R, H*Dh] */
    float *mask_attn; /* [B, D] variational dropout on the attention's output, or NULL: one mask a sequence, all positions and iterations */
    float *mask_ffn;  /* [B, F] on the FFN's hidden units, or NULL */
    bool masked;      /* masks apply in this step */
    struct deq_tape *tape; /* [n_tapes * L] */
    unsigned n_tapes;
    float *carry;     /* [N, D] what the residual stream's additions lost, of the evaluation under way */
    /* work */
    float *w_nd, *w_nd2, *w_nf, *w_nh, *w_qkv, *w_tt, *w_tt2, *w_td; /* [N,D] [N,D] [N,F] [N,HDh] [N,3HDh] [64,R] [64,R] [64,Dh] */
    float *logits; /* [loss_rows, V] */
    float *tails, *gather, *hidden; /* [loss_rows, n_cutoffs], [loss_rows, D], [loss_rows, E_0] */
    size_t loss_rows;
    float *mem;       /* the one block all of these live in */
};

/* B sequences of at most t positions, which may have at most `memory` before them. */
enum deq_rc deq_seq_new(const struct deq_arch *arch, size_t b, size_t t, size_t memory, unsigned n_tapes, bool dropout, struct deq_seq **ret,
                        struct deq_err *err);
void deq_seq_free(struct deq_seq *s);
/* From now on sequences have t positions, 1 .. t_max. */
void deq_seq_length(struct deq_seq *s, size_t t);

/* From now on every sum of products is made in double: slow, for comparisons with what other code computed in float64. */
void deq_seq_wide(struct deq_seq *s);

/* Embeds tokens [N], computes injections and relative keys, clears d_u and d_rel. dropout 0: none. */
void deq_seq_begin(struct deq_seq *s, const struct deq_weights *w, const uint32_t *tokens, float dropout, uint64_t seed, uint64_t step);
/* fz = f(z), both [N, D]; fz may be z. Keeps the evaluation in tape `tape`. */
void deq_seq_forward(struct deq_seq *s, unsigned tape, const float *z, float *fz);
/* dz = J_f^T d_fz at the evaluation kept in `tape`; both [N, D], may be the same. grads NULL: only dz. Else parameter gradients are added
 * to grads, and those of u and rel to s->d_u, s->d_rel. */
void deq_seq_vjp(struct deq_seq *s, unsigned tape, const float *d_fz, float *dz, struct deq_weights *grads);
/* Carries d_u and d_rel on to the injection, the relative projection and the embedding. */
void deq_seq_end(struct deq_seq *s, struct deq_weights *grads);

/* The sequence's positions, with their states z [N, D], become the newest of the memory (at most m_max are kept). */
void deq_seq_remember(struct deq_seq *s, const float *z);
/* Nothing lies before the next sequence. */
void deq_seq_forget(struct deq_seq *s);

/* vocabulary_seq.c: what any vocabulary and head say of states z [n, D] (vocabulary.h has the equations).
 * The whole distribution, log-probabilities out [n, V], summed in double (for goldens, not for speed); or the negative log-probability (nats) of one
 * target each, for which only the shortlist and the target's own cluster are computed. */
enum deq_rc deq_seq_logprobs(struct deq_seq *s, const float *z, size_t n, float *out, struct deq_err *err);
void deq_seq_nll(struct deq_seq *s, const float *z, const uint32_t *targets, size_t n, double *ret_nll);
/* e [D] of a token, not scaled */
void deq_seq_embed(const struct deq_weights *w, uint32_t token, float *e);

/* For training, which knows the plain tied head alone. Mean cross entropy (nats) of targets [N] at states z [N, D] through the final norm and the tied
 * head; UINT32_MAX targets are left out, `count` is the number of those that are in over the whole batch (all shards). d_z [N, D] and grads are written
 * or added to when not NULL; ret_nll (may be NULL) [N] receives each position's nats. Returns the sum of nats / count. */
double deq_seq_loss(struct deq_seq *s, const float *z, const uint32_t *targets, size_t count, float *d_z, struct deq_weights *grads,
                    float *ret_nll);

/* attention_seq.c: one block's attention over all sequences; see there. */
void deq_attention_seq(struct deq_seq *s, unsigned block, const struct deq_tape *t);
void deq_attention_seq_vjp(struct deq_seq *s, unsigned block, const struct deq_tape *t, const float *d_av, float *d_qkv,
                           struct deq_weights *grads);

#endif
