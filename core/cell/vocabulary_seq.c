/* The vocabulary on sequences: vocabulary.h's equations over plain weights, for scoring.
 * And the loss of training. */
#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/cell/seq.h"
#include "core/math/gemm.h"
#include "core/math/kern.h"

/* s->logits [n, V_c] = those of cluster c's words; tails [n, n_cutoffs]: the further clusters', with c = 0. */
static void words(const struct deq_seq *s, unsigned c, const float *x, size_t n, float *tails)
{
    const struct deq_kern *k = deq_kern();
    const struct deq_vocabulary *w = s->vocabulary;
    const struct deq_vocab *a = &w->shape;
    const size_t D = a->d_model, E = deq_cluster_head(a, c), V = deq_cluster_size(a, c), C = a->n_cutoffs;
    const float *proj = w->head_proj[c] ? w->head_proj[c] : w->embed_proj[c];
    float *y = s->logits;
    if (proj) {
        deq_gemm_dyw(n, D, E, x, D, proj, E, NULL, 0, s->hidden, E);
        x = s->hidden;
    }
    deq_gemm_xwt(n, V, E, x, E, w->head[c] ? w->head[c] : w->embed[c], E, NULL, 0, y, V);
    if (!c && C)
        deq_gemm_xwt(n, C, E, x, E, w->tails_w, E, NULL, 0, tails, C);
    for (size_t i = 0; i < n; i++) {
        if (w->head_bias)
            k->add(y + i * V, y + i * V, w->head_bias + deq_cluster_begin(a, c), V);
        if (!c && C)
            k->add(tails + i * C, tails + i * C, w->tails_b, C);
    }
    if (s->logit_softcap > 0) {
        k->scale(y, 1.0f / s->logit_softcap, n * V);
        k->tanh_of(y, y, n * V);
        k->scale(y, s->logit_softcap, n * V);
    }
}

/* log sum exp of x [n] and t [m] */
static double log_sum(const float *x, size_t n, const float *t, size_t m)
{
    const struct deq_kern *k = deq_kern();
    const float top = m ? fmaxf(k->max(x, n), k->max(t, m)) : k->max(x, n);
    return (double)top + log((double)k->exp_sum(NULL, x, top, n) + (m ? (double)k->exp_sum(NULL, t, top, m) : 0));
}

/* sum_k x[k] y[k], rounded once */
static double dot(const float *x, const float *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)y[i];
    return sum;
}

/* log sum exp of y [n] and t [m] */
static double log_sum_double(const double *y, size_t n, const double *t, size_t m)
{
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n + m; i++)
        top = fmax(top, i < n ? y[i] : t[i - n]);
    for (size_t i = 0; i < n + m; i++)
        sum += exp((i < n ? y[i] : t[i - n]) - top);
    return top + log(sum);
}

enum deq_rc deq_seq_logprobs(struct deq_seq *s, const float *z, float *out, struct deq_err *err)
{
    const struct deq_vocabulary *w = s->vocabulary;
    const struct deq_vocab *a = &s->vocab;
    const size_t D = deq_vocab_out(a), n = s->n, V = a->size, C = a->n_cutoffs;
    const float *x = s->ops->read(s, z);
    const double cap = (double)s->logit_softcap;
    double *y = DEQ_NEW_ARRAY(double, V), tails[DEQ_CUTOFFS_MAX];
    if (!y)
        return deq_fail(err, DEQ_ENOMEM, "no memory for a distribution over %zu tokens", V);
    for (size_t r = 0; r < n; r++, x += D) {
        double base = 0;
        for (unsigned c = 0; c < deq_clusters(a); c++) {
            const size_t E = deq_cluster_head(a, c), begin = deq_cluster_begin(a, c), m = deq_cluster_size(a, c);
            const float *proj = w->head_proj[c] ? w->head_proj[c] : w->embed_proj[c],
                        *words = w->head[c] ? w->head[c] : w->embed[c], *h = x;
            if (proj) {
                for (size_t e = 0; e < E; e++) {
                    double sum = 0;
                    for (size_t d = 0; d < D; d++)
                        sum += (double)proj[d * E + e] * (double)x[d];
                    s->hidden[e] = (float)sum;
                }
                h = s->hidden;
            }
            for (size_t i = 0; i < m; i++)
                y[begin + i] = dot(words + i * E, h, E) + (w->head_bias ? (double)w->head_bias[begin + i] : 0);
            if (cap > 0)
                for (size_t i = begin; i < begin + m; i++)
                    y[i] = cap * tanh(y[i] / cap);
            for (size_t i = 0; !c && i < C; i++)
                tails[i] = dot(w->tails_w + i * E, h, E) + (double)w->tails_b[i];
            const double by = c ? base + tails[c - 1] - log_sum_double(y + begin, m, NULL, 0)
                                : -log_sum_double(y, m, tails, C);
            base = c ? base : by;
            for (size_t i = begin; i < begin + m; i++)
                out[r * V + i] = (float)(y[i] + by);
        }
    }
    deq_free(y);
    return DEQ_OK;
}

void deq_seq_nll(struct deq_seq *s, const float *z, const uint32_t *targets, double *ret_nll)
{
    const struct deq_vocab *a = &s->vocab;
    const size_t D = deq_vocab_out(a), n = s->n, V0 = deq_cluster_size(a, 0), C = a->n_cutoffs;
    const float *x = s->ops->read(s, z);
    for (size_t r = 0; r < n; r += s->loss_rows) {
        const size_t rows = DEQ_MIN(s->loss_rows, n - r);
        words(s, 0, x + r * D, rows, s->tails);
        for (size_t i = 0; i < rows; i++) {
            const unsigned c = deq_cluster_of(a, targets[r + i]);
            const float *y = s->logits + i * V0, *t = s->tails + i * C;
            ret_nll[r + i] = log_sum(y, V0, t, C) - (double)(c ? t[c - 1] : y[targets[r + i]]);
        }
        /* the words of a cluster, for the rows whose targets lie in it */
        for (unsigned c = 1; c < deq_clusters(a); c++) {
            const size_t V = deq_cluster_size(a, c);
            size_t m = 0, at = 0;
            for (size_t i = 0; i < rows; i++)
                if (deq_cluster_of(a, targets[r + i]) == c)
                    memcpy(s->gather + m++ * D, x + (r + i) * D, D * sizeof(float));
            if (m)
                words(s, c, s->gather, m, NULL);
            for (size_t i = 0; i < rows; i++)
                if (deq_cluster_of(a, targets[r + i]) == c) {
                    const float *y = s->logits + at++ * V;
                    ret_nll[r + i] += log_sum(y, V, NULL, 0) - (double)y[targets[r + i] - deq_cluster_begin(a, c)];
                }
        }
    }
}

/* Rows of y [rows, V], logits, become the gradient of their mean cross entropy; returns the sum of nats. */
static double cross_entropy(float *y, size_t rows, size_t V, const uint32_t *targets, size_t count, float *ret_nll)
{
    const struct deq_kern *k = deq_kern();
    double sum = 0;
    for (size_t i = 0; i < rows; i++, y += V) {
        if (targets[i] == UINT32_MAX) {
            memset(y, 0, V * sizeof(float));
            if (ret_nll)
                ret_nll[i] = 0;
            continue;
        }
        const float top = k->max(y, V), at = y[targets[i]], total = k->exp_sum(y, y, top, V);
        const double nll = log((double)total) + top - at;
        sum += nll;
        if (ret_nll)
            ret_nll[i] = (float)nll;
        k->scale(y, 1.0f / total / (float)count, V); /* softmax / count */
        y[targets[i]] -= 1.0f / (float)count;
    }
    return sum;
}

double deq_seq_loss(struct deq_seq *s, const float *z, const uint32_t *targets, size_t count, float *d_z,
                    struct deq_weights *grads, float *ret_nll)
{
    const size_t D = deq_vocab_out(&s->vocab), V = s->vocab.size;
    const float *embed = s->vocabulary->embed[0], *x = s->ops->read(s, z);
    float *d_embed = grads ? deq_weights_at(grads, s->weights, embed) : NULL;
    double sum = 0;
    for (size_t r = 0; r < s->n; r += s->loss_rows) {
        const size_t rows = DEQ_MIN(s->loss_rows, s->n - r);
        deq_gemm_xwt(rows, V, D, x + r * D, D, embed, D, NULL, 0, s->logits, V);
        sum += cross_entropy(s->logits, rows, V, targets + r, count, ret_nll ? ret_nll + r : NULL);
        if (d_z)
            deq_gemm_dyw(rows, V, D, s->logits, V, embed, D, NULL, 0, s->d_x + r * D, D);
        if (d_embed)
            deq_gemm_dytx(rows, V, D, s->logits, V, x + r * D, D, d_embed, D);
    }
    if (d_z)
        s->ops->read_vjp(s, z, s->d_x, d_z, grads);
    return sum / (double)count;
}
