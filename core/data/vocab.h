/* What a language model's two ends are: how many tokens, in which clusters, embedded and read out
 * at what width. Pure data. */
#ifndef DEQ_DATA_VOCAB_H
#define DEQ_DATA_VOCAB_H

#include "core/base/base.h"
#include "core/base/err.h"

enum { DEQ_CUTOFFS_MAX = 7 };

/* Adaptive embedding and softmax (Grave et al., "Efficient softmax approximation for GPUs", 2017; Baevski and Auli,
 * "Adaptive input representations", 2019): the ids are cut into clusters 0 (the shortlist) .. n_cutoffs (the
 * rarest), cluster c has embeddings of width E / div_val^c. n_cutoffs, d_embed and div_val all zero: one cluster,
 * E = D, the plain embedding. */
struct deq_vocab {
    uint32_t size;             /* V */
    uint32_t d_model;          /* D: width that tokens are embedded to */
    uint32_t d_out;            /* width that states are read out from; 0 means D. Another one needs a head of
                                * its own, and no projections */
    int64_t eos_id;            /* end of text; -1 = none */
    bool has_bos;              /* a text that begins a sequence has bos_id before it */
    uint32_t bos_id;
    uint32_t n_cutoffs, cutoffs[DEQ_CUTOFFS_MAX]; /* first id of clusters 1, 2, ... */
    uint32_t d_embed;          /* E; 0 means D */
    uint32_t div_val;          /* 0 means 1 */
    bool head_untied;          /* the head has weights of its own, not the embedding's */
    bool proj_untied[DEQ_CUTOFFS_MAX + 1]; /* and so has its projection, by cluster */
    bool head_bias;
};

/* Ranges, order; the message names the field of config.json. */
enum deq_rc deq_vocab_check(const struct deq_vocab *v, const char *where, struct deq_err *err);

static inline int64_t deq_vocab_bos(const struct deq_vocab *v) /* -1: none */
{
    return v->has_bos ? (int64_t)v->bos_id : -1;
}
static inline unsigned deq_clusters(const struct deq_vocab *v)
{
    return v->n_cutoffs + 1;
}
/* Cluster c holds ids begin(c) .. begin(c + 1) - 1. */
static inline uint32_t deq_cluster_begin(const struct deq_vocab *v, unsigned c)
{
    return !c ? 0 : c > v->n_cutoffs ? v->size : v->cutoffs[c - 1];
}
static inline uint32_t deq_cluster_size(const struct deq_vocab *v, unsigned c)
{
    return deq_cluster_begin(v, c + 1) - deq_cluster_begin(v, c);
}
static inline unsigned deq_cluster_of(const struct deq_vocab *v, uint32_t token)
{
    unsigned c = 0;
    while (c < v->n_cutoffs && token >= v->cutoffs[c])
        c++;
    return c;
}
/* E_c, the width of cluster c's embeddings */
static inline size_t deq_cluster_embed(const struct deq_vocab *v, unsigned c)
{
    size_t e = v->d_embed ? v->d_embed : v->d_model;
    while (c-- && v->div_val > 1)
        e /= v->div_val;
    return e;
}
/* Width of what the head reads. */
static inline size_t deq_vocab_out(const struct deq_vocab *v)
{
    return v->d_out ? v->d_out : v->d_model;
}
/* Width of cluster c's rows in the head. */
static inline size_t deq_cluster_head(const struct deq_vocab *v, unsigned c)
{
    return v->d_out && v->d_out != v->d_model ? v->d_out : deq_cluster_embed(v, c);
}
/* Embeddings reach the model's width by a projection [D, E_c] (always where div_val is above 1, also if
 * E_0 = D: Transformer-XL's rule). */
static inline bool deq_projects(const struct deq_vocab *v)
{
    return v->div_val > 1 || (v->d_embed && v->d_embed != v->d_model);
}
/* One cluster, whose words are multiplied with states as they are read. */
static inline bool deq_head_is_plain(const struct deq_vocab *v)
{
    return !v->n_cutoffs && !deq_projects(v);
}

#endif
