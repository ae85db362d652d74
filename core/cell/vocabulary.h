/* Both ends of a language model on rows: token -> embedding and state -> log-probabilities, over
 * packed weights, exact path only.
 *
 *     one cluster:  e = E[token];                     logits = E x (+ b)
 *     clusters:     e = P_c E_c[token - begin(c)];    head = log softmax([E_0; T] Q_0' x + b)
 *         T: a logit for every tail cluster           log p(token) = head[token],                            c = 0
 *                                                       head[c] + log softmax(E_c Q_c' x + b)[token - begin(c)],  c > 0
 *
 * E, P of the head are the embedding's where the architecture ties them (Grave et al. 2017; Baevski and Auli 2019; the
 * projections are those of Transformer-XL). So a tail cluster's words are known without the other clusters', and none
 * of them is needed to know how probable a cluster is: deq_vocabulary_head gives the shortlist and the clusters,
 * deq_vocabulary_tail one cluster's words. Where the two are tied, the head's matrix is the only one, and the embedding
 * of a token is read from it. Immutable after loading; any thread. */
#ifndef DEQ_CELL_VOCABULARY_H
#define DEQ_CELL_VOCABULARY_H

#include "core/base/layout.h"
#include "core/base/pool.h"
#include "core/data/vocab.h"
#include "core/data/weights.h"
#include "core/math/gemm.h"

/* The weights of both ends, by cluster c: V_c ids, embedded at width E_c. Part of the weights of a kind. */
struct deq_vocabulary {
    struct deq_vocab shape;
    float *embed[DEQ_CUTOFFS_MAX + 1];      /* [V_c, E_c] */
    float *embed_proj[DEQ_CUTOFFS_MAX + 1]; /* [D, E_c], NULL where deq_projects() is false */
    float *head[DEQ_CUTOFFS_MAX + 1];       /* [V_c, deq_cluster_head()], NULL: the embedding's */
    float *head_proj[DEQ_CUTOFFS_MAX + 1];  /* [D, E_c], NULL: the embedding's */
    float *head_bias;                       /* [V] or NULL */
    float *tails_w, *tails_b;               /* [n_cutoffs, deq_cluster_head(0)], [n_cutoffs]: the shortlist's
                                             * logit of cluster c at row c-1 */
    struct {
        struct deq_packed head[DEQ_CUTOFFS_MAX + 1];
        struct deq_packed head_proj[DEQ_CUTOFFS_MAX + 1];  /* [E_c, D]: the projection transposed; data NULL: none */
        struct deq_packed embed[DEQ_CUTOFFS_MAX + 1];      /* data NULL: the head's */
        struct deq_packed embed_proj[DEQ_CUTOFFS_MAX + 1];
        struct deq_packed tails;
        struct deq_packed rounded; /* the head in bytes, where near.h has a use for it; data NULL: none */
    } packed;
};

/* Puts the tensors of v, whose shape is set: part of a kind's walk. */
void deq_vocabulary_walk(struct deq_weights *w, struct deq_vocabulary *v);

/* Scratch of one caller for at most `rows` rows, in a block of the caller's. */
struct deq_readout {
    const struct deq_vocabulary *v;
    struct deq_pool *pool; /* borrowed */
    float *hidden;         /* [rows, max E_c] */
    char *operand;         /* [rows] prepared for the next product, of a model in integers */
    float **to;            /* [rows] where a product's rows go */
    /* the call under way */
    size_t n;
    const float *x;
    float *const *logits;
    float *const *tails;
    const float *const *known_tails;
    unsigned cluster;
};

/* Counts or cuts the scratch (core/base/layout.h); then deq_readout_init. */
void deq_readout_lay_out(struct deq_readout *r, const struct deq_vocab *v, enum deq_class c, size_t rows,
                         struct deq_layout *l);
void deq_readout_init(struct deq_readout *r, const struct deq_vocabulary *v, struct deq_pool *pool);

/* Multiply-adds of a row in deq_vocabulary_head. */
uint64_t deq_vocabulary_madds(const struct deq_vocab *v);
/* Floats of scratch that embedding a token takes. */
size_t deq_vocabulary_work(const struct deq_vocab *v);
/* Packed form: e [D] = the token's embedding, not scaled. */
void deq_vocabulary_embed(const struct deq_vocabulary *v, uint32_t token, float *work, float *e);
/* x [n, deq_vocab_out()]: what is read of the final states. One cluster: logits[i] [V] are raw. Clusters:
 * logits[i][0 .. begin(1)) receives log-probabilities of the shortlist, tails[i] [n_cutoffs] those of the tail
 * clusters; the other logits are not touched. */
void deq_vocabulary_head(struct deq_readout *r, size_t n, const float *x, float *const *logits, float *const *tails);
/* logits[i][begin(cluster) .. begin(cluster + 1)) receives that cluster's log-probabilities;
 * tails: as the head gave them. */
void deq_vocabulary_tail(struct deq_readout *r, unsigned cluster, size_t n, const float *x, float *const *logits,
                         const float *const *tails);

#endif
