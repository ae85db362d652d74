/* Causal attention over whole sequences, forward and VJP, of one layer at a time:
 *
 *   S_tj = q_t . k_j / sqrt(Dh),  t-W < j <= t;   P = softmax(S);   a_t = sum_j P_tj v_j
 *
 * with, where there are relative keys, ((q_t + r_w) . k_j + (q_t + r_r) . R_{t-j}) for q_t . k_j (Dai et al.,
 * "Transformer-XL", 2019, section 3.3), and before the sequence M positions of which keys and values are known. Head h
 * of H reads keys and values of head h * Hkv / H. attention.h is its form on rows. */
#ifndef DEQ_CELL_ATTENTION_SEQ_H
#define DEQ_CELL_ATTENTION_SEQ_H

#include "core/cell/seq.h"

enum { DEQ_ATTENTION_SEQ_ROWS = 64 }; /* queries that are done together */

struct deq_attention_seq {
    const struct deq_seq *seq;        /* B, T, N and the products */
    size_t n_head, n_kv_head, d_head; /* H, Hkv, Dh */
    size_t window;                    /* W */
    const float *qkv;                 /* [N, (H + 2 Hkv) Dh] q, k, v */
    float *probs;                     /* [B, H, T, M + T]; what is behind a position or beyond the window is zero */
    float *av;                        /* [N, H*Dh] */
    const float *rel;                 /* [R, H*Dh] R_d in row R-1-d; NULL: there are none, and no r_w, r_r */
    size_t n_rel;                     /* R, at least M + T */
    const float *r_w, *r_r;           /* [H, Dh] */
    const float *memory;              /* [B, m_max, 2*H*Dh] keys, values, of Hkv = H with relative keys; NULL: M is 0 */
    size_t m, m_max;                  /* M, room for M */
    float *scores, *scores2;          /* scratch [DEQ_ATTENTION_SEQ_ROWS, R]; R is T without relative keys */
    float *queries;                   /* scratch [DEQ_ATTENTION_SEQ_ROWS, Dh] */
};

void deq_attention_seq(const struct deq_attention_seq *a);
/* d_av [N, H*Dh] -> d_qkv [N, (H + 2 Hkv) Dh] (overwritten); those of r_w, r_r, rel, in their shapes, are added to, or
 * NULL. M is 0. */
void deq_attention_seq_vjp(const struct deq_attention_seq *a, const float *d_av, float *d_qkv, float *d_r_w,
                           float *d_r_r, float *d_rel);

#endif
