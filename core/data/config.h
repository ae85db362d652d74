/* config.json -> struct deq_arch: what the model is and how it is best solved. models/README.md documents every field.
 * Pure data after loading. */
#ifndef DEQ_DATA_CONFIG_H
#define DEQ_DATA_CONFIG_H

#include "core/base/base.h"
#include "core/base/err.h"
#include "core/data/serving.h"
#include "core/data/vocab.h"

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

/* The transformer cell. */
struct deq_arch {
    struct deq_vocab vocab;
    struct deq_serving serving;
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
    uint32_t predictor_hidden; /* width of the warm-start predictor's hidden layer; 0 = the model has none */
    /* A chat as text: each message with {role} and {content} filled in, then what stands before the answer, and the
     * text that ends it ("": none). Without a message the model has no template of its own. */
    char chat_message[512], chat_reply[256], chat_stop[64];
};

const char *deq_norm_name(enum deq_norm n);

/* Outputs of one block's injection: q, k, v and, with inject_residual, x. */
static inline size_t deq_inject_dim(const struct deq_arch *a)
{
    return 3 * (size_t)a->n_head * a->d_head + (a->inject_residual ? a->vocab.d_model : 0);
}

/* Ranges and products; the message names the field. */
enum deq_rc deq_arch_check(const struct deq_arch *a, const char *where, struct deq_err *err);
enum deq_rc deq_config_load(const char *path, struct deq_arch *ret, struct deq_err *err);
enum deq_rc deq_config_parse(const char *json, size_t len, const char *name, struct deq_arch *ret, struct deq_err *err);
/* Writes config.json. training_json: an object's text that goes under "training" (provenance), or NULL. */
enum deq_rc deq_config_save(const char *path, const struct deq_arch *a, const char *training_json, struct deq_err *err);

#endif
