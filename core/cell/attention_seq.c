/* Relative attention (Dai et al., "Transformer-XL", 2019, section 3.3) over whole sequences, forward and VJP.
 *
 *   S_tj = ((q_t + r_w) . k_j + (q_t + r_r) . R_{t-j}) / sqrt(Dh),  j <= t;   P = softmax(S);   a_t = sum_j P_tj v_j
 *
 * Done in blocks of QB query rows, so that only the keys up to the block's last row are multiplied.
 * Relative keys stand in reverse (row i is distance R-1-i): then (q + r_r) R' gives row t the scores of
 * distance t-j at column j + (t1-1-t): read with rows one number closer together, they are what the scores of content
 * begin with. With memory, columns 0..M-1 are its
 * positions and column M + j is position j. */
#include <math.h>
#include <string.h>

#include "core/cell/transformer_seq.h"
#include "core/math/gemm.h"
#include "core/math/kern.h"

enum { QB = 64 };

/* out [rows, Dh] = q + bias */
static void biased(const struct deq_kern *k, const float *q, size_t ldq, const float *bias, size_t rows, size_t Dh,
                   float *out)
{
    for (size_t i = 0; i < rows; i++)
        k->add(out + i * Dh, q + i * ldq, bias, Dh);
}

void deq_attention_seq(struct deq_transformer_seq *s, unsigned block, const struct deq_tape *tp)
{
    const struct deq_kern *k = deq_kern();
    const struct deq_block_weights *w = &s->w->block[block];
    const size_t T = s->base.t, M = s->m, H = s->arch.n_head, Dh = s->arch.d_head, HD = H * Dh, ld = 3 * HD, C = M + T,
                 R = s->base.t_max + s->m_max;
    const size_t W = s->arch.attn_window;
    const float scale = 1.0f / sqrtf((float)Dh);
    float *qb = s->w_td, *rb = s->w_tt;
    for (size_t b = 0; b < s->base.b; b++)
        for (size_t h = 0; h < H; h++) {
            const float *q = tp->qkv + b * T * ld + h * Dh, *key = q + HD, *val = q + 2 * HD;
            const float *mem_key = s->memory[block] + b * s->m_max * 2 * HD + h * Dh, *mem_val = mem_key + HD;
            float *P = tp->probs + (b * H + h) * T * C;
            for (size_t t0 = 0; t0 < T; t0 += QB) {
                const size_t t1 = DEQ_MIN(t0 + QB, T), rows = t1 - t0;
                float *S = P + t0 * C, *av = tp->av + (b * T + t0) * HD + h * Dh;
                const float *shifted = rb + rows - 1; /* behind a position it holds anything: masked below */
                biased(k, q + t0 * ld, ld, w->r_r + h * Dh, rows, Dh, qb);
                s->base.xwt(rows, M + t1, Dh, qb, Dh, s->rel[block] + (R - M - t1) * HD + h * Dh, HD, NULL, 0, rb, R);
                biased(k, q + t0 * ld, ld, w->r_w + h * Dh, rows, Dh, qb);
                if (M)
                    s->base.xwt(rows, M, Dh, qb, Dh, mem_key, 2 * HD, shifted, R - 1, S, C);
                s->base.xwt(rows, t1, Dh, qb, Dh, key, ld, shifted + M, R - 1, S + M, C);
                for (size_t i = 0; i < rows; i++) {
                    float *row = S + i * C;
                    const size_t end = M + t0 + i + 1, lo = end > W ? end - W : 0, n = end - lo;
                    k->scale(row + lo, scale, n);
                    float sum = k->exp_sum(row + lo, row + lo, k->max(row + lo, n), n);
                    k->scale(row + lo, 1.0f / sum, n);
                    memset(row, 0, lo * sizeof(float));
                    memset(row + end, 0, (M + t1 - end) * sizeof(float));
                }
                if (M)
                    s->base.dyw(rows, M, Dh, S, C, mem_val, 2 * HD, NULL, 0, av, HD);
                s->base.dyw(rows, t1, Dh, S + M, C, val, ld, M ? av : NULL, HD, av, HD);
            }
        }
}

/* d_av [N, H*Dh] -> d_qkv [N, 3*H*Dh] (overwritten); with grads also r_w, r_r and s->d_rel. Without memory. */
void deq_attention_seq_vjp(struct deq_transformer_seq *s, unsigned block, const struct deq_tape *tp, const float *d_av,
                           float *d_qkv, struct deq_transformer_weights *grads)
{
    const struct deq_kern *k = deq_kern();
    const struct deq_block_weights *w = &s->w->block[block];
    const size_t T = s->base.t, H = s->arch.n_head, Dh = s->arch.d_head, HD = H * Dh, ld = 3 * HD,
                 R = s->base.t_max + s->m_max;
    const float scale = 1.0f / sqrtf((float)Dh);
    float *qb = s->w_td, *dS = s->w_tt, *dB = s->w_tt2;
    memset(d_qkv, 0, s->base.n * ld * sizeof(float));
    for (size_t b = 0; b < s->base.b; b++)
        for (size_t h = 0; h < H; h++) {
            const float *q = tp->qkv + b * T * ld + h * Dh, *key = q + HD, *val = q + 2 * HD;
            float *dq = d_qkv + b * T * ld + h * Dh, *dk = dq + HD, *dv = dq + 2 * HD;
            const float *P = tp->probs + (b * H + h) * T * T;
            for (size_t t0 = 0; t0 < T; t0 += QB) {
                const size_t t1 = DEQ_MIN(t0 + QB, T), rows = t1 - t0;
                const float *Pb = P + t0 * T, *da = d_av + (b * T + t0) * HD + h * Dh,
                            *rel = s->rel[block] + (R - t1) * HD + h * Dh;
                deq_gemm_dytx(rows, t1, Dh, Pb, T, da, HD, dv, ld); /* dV += P^T dA */
                deq_gemm_xwt(rows, t1, Dh, da, HD, val, ld, NULL, 0, dS, T); /* dP = dA V^T */
                for (size_t i = 0; i < rows; i++) { /* dS = P (dP - <P, dP>) / sqrt(Dh), and its shifted copy */
                    float *d = dS + i * T, *e = dB + i * T;
                    const float *p = Pb + i * T;
                    const size_t n = t0 + i + 1, shift = rows - 1 - i;
                    const float m = k->dot(p, d, n);
                    for (size_t j = 0; j < n; j++)
                        d[j] = p[j] * (d[j] - m) * scale;
                    memset(d + n, 0, (t1 - n) * sizeof(float));
                    memset(e, 0, shift * sizeof(float));
                    memcpy(e + shift, d, n * sizeof(float));
                    memset(e + shift + n, 0, (t1 - shift - n) * sizeof(float));
                }
                float *dqb = dq + t0 * ld;
                deq_gemm_dyw(rows, t1, Dh, dS, T, key, ld, dqb, ld, dqb, ld); /* content part of dq */
                if (grads)
                    for (size_t i = 0; i < rows; i++)
                        k->add(grads->block[block].r_w + h * Dh, grads->block[block].r_w + h * Dh, dqb + i * ld, Dh);
                biased(k, q + t0 * ld, ld, w->r_w + h * Dh, rows, Dh, qb);
                deq_gemm_dytx(rows, t1, Dh, dS, T, qb, Dh, dk, ld); /* dK += dS^T (q + r_w) */
                deq_gemm_dyw(rows, t1, Dh, dB, T, rel, HD, NULL, 0, qb, Dh); /* position part of dq */
                for (size_t i = 0; i < rows; i++) {
                    k->add(dqb + i * ld, dqb + i * ld, qb + i * Dh, Dh);
                    if (grads)
                        k->add(grads->block[block].r_r + h * Dh, grads->block[block].r_r + h * Dh, qb + i * Dh, Dh);
                }
                if (grads) { /* dR += dB^T (q + r_r) */
                    biased(k, q + t0 * ld, ld, w->r_r + h * Dh, rows, Dh, qb);
                    deq_gemm_dytx(rows, t1, Dh, dB, T, qb, Dh, s->d_rel[block] + (R - t1) * HD + h * Dh, HD);
                }
            }
        }
}
