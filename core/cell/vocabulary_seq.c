/* The vocabulary on sequences: vocabulary.h's equations over plain weights, and the loss with its gradients. */
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

/* Of rows x [n, D], those whose target lies in cluster c: into s->gather, their numbers into s->row. Returns how
 * many. */
static size_t gather(struct deq_seq *s, unsigned c, const float *x, size_t n, const uint32_t *targets)
{
    const size_t D = deq_vocab_out(&s->vocab);
    size_t m = 0;
    for (size_t i = 0; i < n; i++)
        if (targets[i] != UINT32_MAX && deq_cluster_of(&s->vocab, targets[i]) == c) {
            memcpy(s->gather + m * D, x + i * D, D * sizeof(float));
            s->row[m++] = (uint32_t)i;
        }
    return m;
}

/* The cross entropy, in nats, of the outcome whose logit is *at, one of y [V] and t [C], which become its gradient
 * times weight. */
static double cross_entropy(float *y, size_t V, float *t, size_t C, float *at, float weight)
{
    const struct deq_kern *k = deq_kern();
    const float top = C ? fmaxf(k->max(y, V), k->max(t, C)) : k->max(y, V), logit = *at;
    const double total = (double)k->exp_sum(y, y, top, V) + (C ? (double)k->exp_sum(t, t, top, C) : 0);
    const float scale = weight / (float)total;
    k->scale(y, scale, V); /* softmax * weight */
    if (C)
        k->scale(t, scale, C);
    *at -= weight;
    return (double)top + log(total) - (double)logit;
}

/* The gradient of logits before their cap, from that behind it; y [V] capped. */
static void softcap_vjp(float cap, const float *y, size_t V, float *d_y)
{
    for (size_t i = 0; i < V; i++)
        d_y[i] *= 1 - y[i] / cap * (y[i] / cap);
}

/* What rows x [n, D] lose in cluster c: of the shortlist a target's word or its cluster, of another the word; row i has
 * targets[s->row[i]]. Returns the sum of nats; ret_nll (may be NULL) is added to. s->logits and, of the shortlist,
 * s->tails become the gradients of that times weight. */
static double cluster_loss(struct deq_seq *s, unsigned c, const float *x, size_t n, const uint32_t *targets,
                           float weight, double *ret_nll)
{
    const struct deq_vocab *a = &s->vocab;
    const size_t V = deq_cluster_size(a, c), C = c ? 0 : a->n_cutoffs;
    float *y = s->logits, *t = s->tails;
    double sum = 0;
    words(s, c, x, n, t);
    for (size_t i = 0; i < n; i++, y += V, t += C) {
        const uint32_t target = targets[s->row[i]];
        if (target == UINT32_MAX) {
            memset(y, 0, V * sizeof(float));
            if (C)
                memset(t, 0, C * sizeof(float));
            continue;
        }
        const unsigned in = deq_cluster_of(a, target);
        if (s->logit_softcap > 0)
            memcpy(s->capped, y, V * sizeof(float));
        const double nll =
            cross_entropy(y, V, t, C, in == c ? y + (target - deq_cluster_begin(a, c)) : t + in - 1, weight);
        if (s->logit_softcap > 0)
            softcap_vjp(s->logit_softcap, s->capped, V, y);
        sum += nll;
        if (ret_nll)
            ret_nll[s->row[i]] += nll;
    }
    return sum;
}

/* The tensor of grads that belongs to w; either may be NULL: there is none. */
static float *grad_of(const struct deq_seq *s, const struct deq_weights *grads, const float *w)
{
    return grads && w ? deq_weights_at(grads, s->weights, w) : NULL;
}

/* The VJP of words: from the gradients in s->logits and, of the shortlist, s->tails to d_x [n, D], which is written
 * (NULL: not), and grads (NULL: none). s->hidden is as words left it. */
static void words_vjp(struct deq_seq *s, unsigned c, const float *x, size_t n, float *d_x, struct deq_weights *grads)
{
    const struct deq_vocabulary *w = s->vocabulary;
    const struct deq_vocab *a = &w->shape;
    const size_t D = deq_vocab_out(a), E = deq_cluster_head(a, c), V = deq_cluster_size(a, c), C = c ? 0 : a->n_cutoffs;
    const float *proj = w->head_proj[c] ? w->head_proj[c] : w->embed_proj[c],
                *rows = w->head[c] ? w->head[c] : w->embed[c], *h = proj ? s->hidden : x;
    float *d_rows = grad_of(s, grads, rows), *d_proj = grad_of(s, grads, proj),
          *d_bias = grad_of(s, grads, w->head_bias), *d_tails = grad_of(s, grads, w->tails_w),
          *d_tails_b = grad_of(s, grads, w->tails_b), *d_h = proj ? s->d_hidden : d_x;
    if (d_h) {
        deq_gemm_dyw(n, V, E, s->logits, V, rows, E, NULL, 0, d_h, E);
        if (C)
            deq_gemm_dyw(n, C, E, s->tails, C, w->tails_w, E, d_h, E, d_h, E);
    }
    if (d_rows)
        deq_gemm_dytx(n, V, E, s->logits, V, h, E, d_rows, E);
    if (d_bias)
        deq_seq_sum_rows(s->logits, n, V, d_bias + deq_cluster_begin(a, c));
    if (d_tails && C) {
        deq_gemm_dytx(n, C, E, s->tails, C, h, E, d_tails, E);
        deq_seq_sum_rows(s->tails, n, C, d_tails_b);
    }
    if (d_proj)
        deq_gemm_dytx(n, D, E, x, D, d_h, E, d_proj, E);
    if (d_x && proj)
        deq_gemm_xwt(n, D, E, d_h, E, proj, E, NULL, 0, d_x, D);
}

double deq_seq_loss(struct deq_seq *s, const float *z, const uint32_t *targets, float weight, float *d_z,
                    struct deq_weights *grads, double *ret_nll)
{
    const size_t D = deq_vocab_out(&s->vocab);
    const float *x = s->ops->read(s, z);
    double sum = 0;
    for (size_t r = 0; r < s->n; r += s->loss_rows) {
        const size_t rows = DEQ_MIN(s->loss_rows, s->n - r);
        double *nll = ret_nll ? ret_nll + r : NULL;
        float *d_x = d_z ? s->d_x + r * D : NULL;
        for (size_t i = 0; i < rows; i++) {
            s->row[i] = (uint32_t)i;
            if (nll)
                nll[i] = 0;
        }
        sum += cluster_loss(s, 0, x + r * D, rows, targets + r, weight, nll);
        if (d_x || grads)
            words_vjp(s, 0, x + r * D, rows, d_x, grads);
        for (unsigned c = 1; c < deq_clusters(&s->vocab); c++) {
            const size_t m = gather(s, c, x + r * D, rows, targets + r);
            if (!m)
                continue;
            sum += cluster_loss(s, c, s->gather, m, targets + r, weight, nll);
            if (d_x || grads)
                words_vjp(s, c, s->gather, m, d_x ? s->d_gather : NULL, grads);
            for (size_t i = 0; i < m && d_x; i++)
                deq_kern()->add(d_x + s->row[i] * D, d_x + s->row[i] * D, s->d_gather + i * D, D);
        }
    }
    if (d_z)
        s->ops->read_vjp(s, z, s->d_x, d_z, grads);
    return sum * (double)weight;
}
