#include "core/cell/seq.h"

#include <string.h>

#include "core/base/rng.h"
#include "core/math/kern.h"

/* logits that exist at a time: that many rows, or fewer of a large vocabulary */
enum { LOSS_ROWS = 256, LOSS_FLOATS = 1 << 24 };

void deq_seq_free(struct deq_seq *s)
{
    if (s)
        s->ops->free(s);
}

void deq_seq_length(struct deq_seq *s, size_t t)
{
    s->t = t;
    s->n = s->b * t;
}

void deq_seq_start(const struct deq_seq *s, float *z)
{
    if (s->start)
        memcpy(z, s->start, s->n * s->state_dim * sizeof(float));
    else
        memset(z, 0, s->n * s->state_dim * sizeof(float));
}

void deq_seq_wide(struct deq_seq *s)
{
    s->xwt = deq_gemm_xwt_wide;
    s->dyw = deq_gemm_dyw_wide;
}

void deq_seq_init(struct deq_seq *s, const struct deq_seq_ops *ops, const struct deq_arch *a,
                  const struct deq_seq_shape *shape, size_t state_dim)
{
    s->ops = ops;
    s->vocab = a->vocab;
    s->b = shape->b;
    s->t_max = shape->t;
    deq_seq_length(s, shape->t);
    s->state_dim = s->shown_dim = state_dim;
    s->n_tapes = shape->n_tapes;
    s->xwt = deq_gemm_xwt;
    s->dyw = deq_gemm_dyw;
    s->loss_rows = DEQ_MAX(DEQ_MIN((size_t)LOSS_ROWS, (size_t)LOSS_FLOATS / a->vocab.size), (size_t)1);
}

void deq_seq_lay_out(struct deq_seq *s, struct deq_layout *l)
{
    const struct deq_vocab *v = &s->vocab;
    const size_t N = s->b * s->t_max;
    DEQ_PART(l, s->e, N * v->d_model);
    DEQ_PART(l, s->d_x, N * deq_vocab_out(v));
    const size_t begin = l->bytes;
    const size_t R = s->loss_rows, width = DEQ_MAX((size_t)v->d_model, deq_vocab_out(v)),
                 hidden = deq_projects(v) ? deq_cluster_embed(v, 0) : 0;
    DEQ_PART(l, s->tails, R * v->n_cutoffs);
    DEQ_PART(l, s->gather, deq_head_is_plain(v) ? 0 : R * width);
    DEQ_PART(l, s->d_gather, v->n_cutoffs ? R * width : 0);
    DEQ_PART(l, s->hidden, R * hidden);
    DEQ_PART(l, s->d_hidden, R * hidden);
    DEQ_PART(l, s->capped, s->logit_softcap > 0 ? v->size : 0);
    DEQ_PART(l, s->row, R);
    DEQ_PART(l, s->logits, R * (size_t)v->size);
    s->logits_bytes = l->bytes - begin;
}

void deq_seq_embed(struct deq_seq *s, const struct deq_weights *w, const struct deq_vocabulary *v,
                   const uint32_t *tokens, float scale)
{
    const struct deq_kern *k = deq_kern();
    const size_t D = v->shape.d_model;
    s->weights = w;
    s->vocabulary = v;
    s->tokens = tokens;
    for (size_t i = 0; i < s->n; i++) {
        float *e = s->e + i * D;
        const unsigned c = deq_cluster_of(&v->shape, tokens[i]);
        const size_t E = deq_cluster_embed(&v->shape, c);
        const float *row = v->embed[c] + (tokens[i] - deq_cluster_begin(&v->shape, c)) * E;
        if (!v->embed_proj[c])
            memcpy(e, row, D * sizeof(float));
        else
            for (size_t d = 0; d < D; d++)
                e[d] = k->dot(v->embed_proj[c] + d * E, row, E);
        if (scale != 1)
            k->scale(e, scale, D);
    }
}

/* The tokens of cluster c among rows at .. at + n - 1, whose numbers go to s->row: embeddings into s->hidden, d_e times
 * scale into s->gather. Returns how many. */
static size_t gather_tokens(const struct deq_seq *s, unsigned c, size_t at, size_t n, const float *d_e, float scale)
{
    const struct deq_vocab *v = &s->vocab;
    const size_t D = v->d_model, E = deq_cluster_embed(v, c);
    size_t m = 0;
    for (size_t i = at; i < at + n; i++)
        if (deq_cluster_of(v, s->tokens[i]) == c) {
            const float *word = s->vocabulary->embed[c] + (s->tokens[i] - deq_cluster_begin(v, c)) * E;
            memcpy(s->hidden + m * E, word, E * sizeof(float));
            memcpy(s->gather + m * D, d_e + i * D, D * sizeof(float));
            s->row[m++] = (uint32_t)i;
        }
    deq_kern()->scale(s->gather, scale, m * D);
    return m;
}

/* e = scale P E[token] of cluster c's tokens among some rows */
static void project_vjp(const struct deq_seq *s, unsigned c, size_t at, size_t n, const float *d_e, float scale,
                        float *d_embed, float *d_proj)
{
    const struct deq_vocab *v = &s->vocab;
    const size_t D = v->d_model, E = deq_cluster_embed(v, c), m = gather_tokens(s, c, at, n, d_e, scale);
    if (!m)
        return;
    deq_gemm_dytx(m, D, E, s->gather, D, s->hidden, E, d_proj, E);
    deq_gemm_dyw(m, D, E, s->gather, D, s->vocabulary->embed_proj[c], E, NULL, 0, s->d_hidden, E);
    for (size_t i = 0; i < m; i++) {
        float *d_word = d_embed + (s->tokens[s->row[i]] - deq_cluster_begin(v, c)) * E;
        deq_kern()->add(d_word, d_word, s->d_hidden + i * E, E);
    }
}

void deq_seq_embed_vjp(const struct deq_seq *s, const float *d_e, float scale, struct deq_weights *grads)
{
    const struct deq_vocab *v = &s->vocab;
    const size_t D = v->d_model;
    float *d_embed[DEQ_CUTOFFS_MAX + 1], *d_proj[DEQ_CUTOFFS_MAX + 1];
    for (unsigned c = 0; c < deq_clusters(v); c++) {
        const float *proj = s->vocabulary->embed_proj[c];
        d_embed[c] = deq_weights_at(grads, s->weights, s->vocabulary->embed[c]);
        d_proj[c] = proj ? deq_weights_at(grads, s->weights, proj) : NULL;
        for (size_t at = 0; proj && at < s->n; at += s->loss_rows)
            project_vjp(s, c, at, DEQ_MIN(s->loss_rows, s->n - at), d_e, scale, d_embed[c], d_proj[c]);
    }
    for (size_t i = 0; i < s->n && !deq_projects(v); i++) {
        const unsigned c = deq_cluster_of(v, s->tokens[i]);
        deq_kern()->axpy(d_embed[c] + (s->tokens[i] - deq_cluster_begin(v, c)) * D, scale, d_e + i * D, D);
    }
}

void deq_seq_add_bias(float *y, const float *b, size_t rows, size_t n)
{
    const struct deq_kern *k = deq_kern();
    for (size_t i = 0; i < rows; i++)
        k->add(y + i * n, y + i * n, b, n);
}

void deq_seq_sum_rows(const float *dy, size_t rows, size_t n, float *d_b)
{
    const struct deq_kern *k = deq_kern();
    for (size_t i = 0; i < rows; i++)
        k->add(d_b, d_b, dy + i * n, n);
}

void deq_seq_draw_mask(float *mask, size_t n, float dropout, uint64_t seed, uint64_t stream)
{
    for (size_t i = 0; i < n; i++)
        mask[i] = deq_rng_uniform(seed, stream, i) < dropout ? 0.0f : 1.0f / (1.0f - dropout);
}

void deq_seq_apply_mask(const struct deq_seq *s, const float *mask, size_t n, float *y)
{
    const struct deq_kern *k = deq_kern();
    for (size_t i = 0; i < s->n; i++)
        k->mul(y + i * n, y + i * n, mask + i / s->t * n, n);
}
