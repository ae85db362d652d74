/* Done in blocks of query rows, so that only the keys up to the block's last row are multiplied.
 * Relative keys stand in reverse (row i is distance R-1-i): then (q + r_r) R' gives row t the scores of
 * distance t-j at column j + (t1-1-t): read with rows one number closer together, they are what the scores of content
 * begin with. With memory, columns 0..M-1 are its positions and column M + j is position j. */
#include "core/cell/attention_seq.h"

#include <math.h>
#include <string.h>

#include "core/math/gemm.h"
#include "core/math/kern.h"

enum { QB = DEQ_ATTENTION_SEQ_ROWS };

/* out [rows, Dh] = q + bias */
static void biased(const struct deq_kern *k, const float *q, size_t ldq, const float *bias, size_t rows, size_t Dh,
                   float *out)
{
    for (size_t i = 0; i < rows; i++)
        k->add(out + i * Dh, q + i * ldq, bias, Dh);
}

/* One head's part of the arrays. */
struct head {
    size_t ld, ld_av;                /* floats between rows of q, k, v; of av */
    const float *q, *k, *v;
    size_t q_at, k_at, v_at;         /* where they begin in a row of qkv */
    const float *rel, *r_w, *r_r;    /* NULL: none */
    const float *mem_k, *mem_v;
    float *probs, *av;
};

static struct head head_of(const struct deq_attention_seq *a, size_t b, size_t h)
{
    const size_t T = a->seq->t, Dh = a->d_head, H = a->n_head, G = h * a->n_kv_head / H;
    struct head x = {.ld = (H + 2 * a->n_kv_head) * Dh, .ld_av = H * Dh, .q_at = h * Dh, .k_at = (H + G) * Dh,
                     .v_at = (H + a->n_kv_head + G) * Dh};
    const float *row = a->qkv + b * T * x.ld;
    x.q = row + x.q_at;
    x.k = row + x.k_at;
    x.v = row + x.v_at;
    if (a->rel) {
        x.rel = a->rel + h * Dh;
        x.r_w = a->r_w + h * Dh;
        x.r_r = a->r_r + h * Dh;
    }
    if (a->m) {
        x.mem_k = a->memory + b * a->m_max * 2 * x.ld_av + h * Dh;
        x.mem_v = x.mem_k + x.ld_av;
    }
    x.probs = a->probs + (b * H + h) * T * (a->m + T);
    x.av = a->av + b * T * x.ld_av + h * Dh;
    return x;
}

/* Scores of the queries t0 .. t1-1, not scaled, S [t1 - t0, M + T]. */
static void scores(const struct deq_attention_seq *a, const struct head *x, size_t t0, size_t t1, float *S)
{
    const struct deq_kern *k = deq_kern();
    const size_t M = a->m, C = M + a->seq->t, Dh = a->d_head, rows = t1 - t0, R = a->n_rel;
    const float *q = x->q + t0 * x->ld;
    if (!x->rel) {
        a->seq->xwt(rows, t1, Dh, q, x->ld, x->k, x->ld, NULL, 0, S, C);
        return;
    }
    const float *shifted = a->scores + rows - 1; /* behind a position it holds anything: masked later */
    biased(k, q, x->ld, x->r_r, rows, Dh, a->queries);
    a->seq->xwt(rows, M + t1, Dh, a->queries, Dh, x->rel + (R - M - t1) * x->ld_av, x->ld_av, NULL, 0, a->scores, R);
    biased(k, q, x->ld, x->r_w, rows, Dh, a->queries);
    if (M)
        a->seq->xwt(rows, M, Dh, a->queries, Dh, x->mem_k, 2 * x->ld_av, shifted, R - 1, S, C);
    a->seq->xwt(rows, t1, Dh, a->queries, Dh, x->k, x->ld, shifted + M, R - 1, S + M, C);
}

void deq_attention_seq(const struct deq_attention_seq *a)
{
    const struct deq_kern *k = deq_kern();
    const size_t T = a->seq->t, M = a->m, C = M + T, Dh = a->d_head, W = a->window;
    const float scale = 1.0f / sqrtf((float)Dh);
    for (size_t i = 0; i < a->seq->b * a->n_head; i++) {
        const struct head x = head_of(a, i / a->n_head, i % a->n_head);
        for (size_t t0 = 0; t0 < T; t0 += QB) {
            const size_t t1 = DEQ_MIN(t0 + QB, T), rows = t1 - t0;
            float *S = x.probs + t0 * C, *av = x.av + t0 * x.ld_av;
            scores(a, &x, t0, t1, S);
            for (size_t r = 0; r < rows; r++) {
                float *row = S + r * C;
                const size_t end = M + t0 + r + 1, lo = end > W ? end - W : 0, n = end - lo;
                k->scale(row + lo, scale, n);
                float sum = k->exp_sum(row + lo, row + lo, k->max(row + lo, n), n);
                k->scale(row + lo, 1.0f / sum, n);
                memset(row, 0, lo * sizeof(float));
                memset(row + end, 0, (M + t1 - end) * sizeof(float));
            }
            if (M)
                a->seq->dyw(rows, M, Dh, S, C, x.mem_v, 2 * x.ld_av, NULL, 0, av, x.ld_av);
            a->seq->dyw(rows, t1, Dh, S + M, C, x.v, x.ld, M ? av : NULL, x.ld_av, av, x.ld_av);
        }
    }
}

/* The part of relative keys: dS [rows, T] -> what it adds to dq [rows, ld], and parameter gradients. */
static void relative_vjp(const struct deq_attention_seq *a, const struct head *x, size_t t0, size_t t1, const float *dS,
                         float *dq, float *d_r_r, float *d_rel)
{
    const struct deq_kern *k = deq_kern();
    const size_t T = a->seq->t, Dh = a->d_head, rows = t1 - t0, first = (a->n_rel - t1) * x->ld_av;
    float *dB = a->scores2, *qb = a->queries;
    for (size_t i = 0; i < rows; i++) { /* dS, shifted */
        const size_t n = t0 + i + 1, shift = rows - 1 - i;
        float *e = dB + i * T;
        memset(e, 0, shift * sizeof(float));
        memcpy(e + shift, dS + i * T, n * sizeof(float));
        memset(e + shift + n, 0, (t1 - shift - n) * sizeof(float));
    }
    deq_gemm_dyw(rows, t1, Dh, dB, T, x->rel + first, x->ld_av, NULL, 0, qb, Dh);
    for (size_t i = 0; i < rows; i++) {
        k->add(dq + i * x->ld, dq + i * x->ld, qb + i * Dh, Dh);
        if (d_r_r)
            k->add(d_r_r, d_r_r, qb + i * Dh, Dh);
    }
    if (d_rel) { /* dR += dB^T (q + r_r) */
        biased(k, x->q + t0 * x->ld, x->ld, x->r_r, rows, Dh, qb);
        deq_gemm_dytx(rows, t1, Dh, dB, T, qb, Dh, d_rel + first, x->ld_av);
    }
}

void deq_attention_seq_vjp(const struct deq_attention_seq *a, const float *d_av, float *d_qkv, float *d_r_w,
                           float *d_r_r, float *d_rel)
{
    const struct deq_kern *k = deq_kern();
    const size_t T = a->seq->t, Dh = a->d_head, H = a->n_head;
    const float scale = 1.0f / sqrtf((float)Dh);
    float *dS = a->scores;
    memset(d_qkv, 0, a->seq->n * (H + 2 * a->n_kv_head) * Dh * sizeof(float));
    for (size_t i = 0; i < a->seq->b * H; i++) {
        const size_t b = i / H, h = i % H;
        const struct head x = head_of(a, b, h);
        float *row = d_qkv + b * T * x.ld, *dk = row + x.k_at, *dv = row + x.v_at;
        for (size_t t0 = 0; t0 < T; t0 += QB) {
            const size_t t1 = DEQ_MIN(t0 + QB, T), rows = t1 - t0;
            const float *P = x.probs + t0 * T, *da = d_av + (b * T + t0) * x.ld_av + h * Dh;
            deq_gemm_dytx(rows, t1, Dh, P, T, da, x.ld_av, dv, x.ld); /* dV += P^T dA */
            deq_gemm_xwt(rows, t1, Dh, da, x.ld_av, x.v, x.ld, NULL, 0, dS, T); /* dP = dA V^T */
            for (size_t r = 0; r < rows; r++) { /* dS = P (dP - <P, dP>) / sqrt(Dh) */
                float *d = dS + r * T;
                const float *p = P + r * T;
                const size_t n = t0 + r + 1;
                const float m = k->dot(p, d, n);
                for (size_t j = 0; j < n; j++)
                    d[j] = p[j] * (d[j] - m) * scale;
                memset(d + n, 0, (t1 - n) * sizeof(float));
            }
            const float *q = x.q + t0 * x.ld;
            float *dq = row + t0 * x.ld + x.q_at;
            deq_gemm_dyw(rows, t1, Dh, dS, T, x.k, x.ld, dq, x.ld, dq, x.ld); /* content part of dq */
            if (!x.rel) {
                deq_gemm_dytx(rows, t1, Dh, dS, T, q, x.ld, dk, x.ld); /* dK += dS^T q */
                continue;
            }
            for (size_t r = 0; r < rows && d_r_w; r++)
                k->add(d_r_w + h * Dh, d_r_w + h * Dh, dq + r * x.ld, Dh);
            biased(k, q, x.ld, x.r_w, rows, Dh, a->queries);
            deq_gemm_dytx(rows, t1, Dh, dS, T, a->queries, Dh, dk, x.ld); /* dK += dS^T (q + r_w) */
            relative_vjp(a, &x, t0, t1, dS, dq, d_r_r ? d_r_r + h * Dh : NULL, d_rel ? d_rel + h * Dh : NULL);
        }
    }
}
