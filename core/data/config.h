/* config.json -> struct deq_arch: what the model is and how it is best solved. models/README.md documents every field.
 * Pure data after loading. */
#ifndef DEQ_DATA_CONFIG_H
#define DEQ_DATA_CONFIG_H

#include "core/base/base.h"
#include "core/base/err.h"
#include "core/solve/solver.h"

/* Where LayerNorm stands (n1 before attention, n2 after it, n3 after the FFN, n4 before it):
 *   POST     h = n2(z + attn(z));  f = n3(h + ffn(h))                        locuslab/deq
 *   PRE      h = z + attn(n1(z));  x = n4(h);  f = x + ffn(x)                locuslab/deq pre_lnorm: the FFN's residual is normed
 *   PRE_SUB  h = z + W_o n(attn(n1(z)));  f = h + ffn(n4(h))                 torchdeq deq-lm
 *   PRE_LN   h = z + attn(n1(z));  f = h + ffn(n4(h))                        the usual pre-norm; torchdeq deq-seq pre_lnorm   */
enum deq_norm { DEQ_NORM_POST, DEQ_NORM_PRE, DEQ_NORM_PRE_SUB, DEQ_NORM_PRE_LN };
/* The FFN's residual is its input before the norm. */
static inline bool deq_norm_keeps(enum deq_norm n)
{
    return n == DEQ_NORM_PRE_SUB || n == DEQ_NORM_PRE_LN;
}

enum { DEQ_CUTOFFS_MAX = 7 };

struct deq_arch {
    uint32_t vocab_size;       /* V */
    /* Adaptive embedding and softmax (Grave et al., "Efficient softmax approximation for GPUs", 2017; Baevski and Auli, "Adaptive input
     * representations", 2019): the ids are cut into clusters 0 (the shortlist) .. n_cutoffs (the rarest), cluster c has embeddings of width
     * E / div_val^c. All zero: one cluster, E = D, the plain embedding. */
    uint32_t n_cutoffs, cutoffs[DEQ_CUTOFFS_MAX]; /* first id of clusters 1, 2, ... */
    uint32_t d_embed;          /* E; 0 means D */
    uint32_t div_val;          /* 0 means 1 */
    bool head_untied;          /* the head has weights of its own, not the embedding's */
    bool proj_untied[DEQ_CUTOFFS_MAX + 1]; /* and so has its projection, by cluster */
    bool head_bias;
    uint32_t d_model;          /* D */
    uint32_t n_head;           /* H */
    uint32_t d_head;           /* Dh */
    uint32_t d_inner;          /* F */
    uint32_t n_block;          /* L: blocks inside one evaluation of f */
    uint32_t attn_window;      /* W: positions a row attends to, itself included */
    enum deq_norm norm;
    bool norm_affine;          /* LayerNorms have weight and bias */
    bool inject_residual;      /* the token is also injected beside attention: h = n2(z + attn(z) + u_x), u_x = W_x e + b_x */
    bool final_norm;           /* an affine LayerNorm between z* and the head */
    float norm_eps;
    uint32_t segment_len, segment_memory; /* T and M of the segments that its trainer evaluated it by (core/cell/segment.h); 0: it did not */
    int64_t eos_id;            /* end of text, also the start of a document; -1 = none */
    uint32_t predictor_hidden; /* width of the warm-start predictor's hidden layer; 0 = the model has none */
    struct deq_solver_opts solver; /* the model's defaults */
    uint32_t row_window;       /* w: rows solved behind the committed prefix, 1..64 */
    enum deq_warm warm;
};

const char *deq_norm_name(enum deq_norm n);
const char *deq_warm_name(enum deq_warm w);
bool deq_norm_by_name(const char *name, enum deq_norm *ret);
bool deq_warm_by_name(const char *name, enum deq_warm *ret);

/* Outputs of one block's injection: q, k, v and, with inject_residual, x. */
static inline size_t deq_inject_dim(const struct deq_arch *a)
{
    return 3 * (size_t)a->n_head * a->d_head + (a->inject_residual ? a->d_model : 0);
}

static inline unsigned deq_clusters(const struct deq_arch *a)
{
    return a->n_cutoffs + 1;
}
/* Cluster c holds ids begin(c) .. begin(c + 1) - 1. */
static inline uint32_t deq_cluster_begin(const struct deq_arch *a, unsigned c)
{
    return !c ? 0 : c > a->n_cutoffs ? a->vocab_size : a->cutoffs[c - 1];
}
static inline uint32_t deq_cluster_size(const struct deq_arch *a, unsigned c)
{
    return deq_cluster_begin(a, c + 1) - deq_cluster_begin(a, c);
}
static inline unsigned deq_cluster_of(const struct deq_arch *a, uint32_t token)
{
    unsigned c = 0;
    while (c < a->n_cutoffs && token >= a->cutoffs[c])
        c++;
    return c;
}
/* E_c, the width of cluster c's embeddings */
static inline size_t deq_cluster_embed(const struct deq_arch *a, unsigned c)
{
    size_t e = a->d_embed ? a->d_embed : a->d_model;
    while (c-- && a->div_val > 1)
        e /= a->div_val;
    return e;
}
/* Embeddings reach the model's width by a projection [D, E_c] (always where div_val is above 1, also if E_0 = D: Transformer-XL's rule). */
static inline bool deq_projects(const struct deq_arch *a)
{
    return a->div_val > 1 || (a->d_embed && a->d_embed != a->d_model);
}

/* Ranges and products; the message names the field. */
enum deq_rc deq_arch_check(const struct deq_arch *a, const char *where, struct deq_err *err);
enum deq_rc deq_config_load(const char *path, struct deq_arch *ret, struct deq_err *err);
enum deq_rc deq_config_parse(const char *json, size_t len, const char *name, struct deq_arch *ret, struct deq_err *err);
/* Writes config.json. training_json: an object's text that goes under "training" (provenance), or NULL. */
enum deq_rc deq_config_save(const char *path, const struct deq_arch *a, const char *training_json, struct deq_err *err);

#endif
