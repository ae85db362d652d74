/* The parameters of a model: one block of floats, a table that names every tensor in it, and pointers into it.
 * The same layout serves weights, gradients and optimiser moments, so saving, clearing, clipping and updating are loops over one
 * array. models/README.md has the table of names and shapes. Owned by whoever made it; read-only use from any thread. */
#ifndef DEQ_DATA_WEIGHTS_H
#define DEQ_DATA_WEIGHTS_H

#include "core/data/config.h"

enum { DEQ_BLOCKS_MAX = 16, DEQ_PARAM_NAME = 48 };

struct deq_param {
    char name[DEQ_PARAM_NAME];
    size_t rows, cols; /* [rows, cols]; rows 0: a vector [cols] */
    size_t offset;     /* into the block, in floats */
    size_t count;
};

struct deq_block_weights {
    float *inject_w; /* [U, D]   u = W_u e + b_u, U = deq_inject_dim: q, k, v (, x) */
    float *inject_b; /* [U] */
    float *qkv_w;    /* [3*H*Dh, D]   rows: all heads' q, then k, then v */
    float *rel_w;    /* [H*Dh, D]     r_d = W_r p_d */
    float *r_w;      /* [H, Dh]       content bias of the query (Transformer-XL's u) */
    float *r_r;      /* [H, Dh]       position bias of the query (Transformer-XL's v) */
    float *out_w;    /* [D, H*Dh] */
    float *out_b;    /* [D] */
    float *up_w;     /* [F, D] */
    float *up_b;     /* [F] */
    float *down_w;   /* [D, F] */
    float *down_b;   /* [D] */
    /* LayerNorms, NULL when not affine. attn: n1 (pre) or n2 (post), [D]; sub: on the attention vector, [H*Dh] (pre_sub only);
     * ffn: n4 (pre) or n3 (post), [D] */
    float *attn_norm_g, *attn_norm_b, *sub_norm_g, *sub_norm_b, *ffn_norm_g, *ffn_norm_b;
};

struct deq_weights {
    struct deq_arch arch;
    float *embed; /* [V, D], also the head */
    struct deq_block_weights block[DEQ_BLOCKS_MAX];
    float *final_norm_g, *final_norm_b; /* [D] or NULL */
    /* warm-start predictor: z0 = out_w relu(tok_w e_t + state_w z*_{t-1} + b) + out_b; NULL when the model has none */
    float *pred_tok_w;   /* [Hp, D] */
    float *pred_state_w; /* [Hp, D] */
    float *pred_b;       /* [Hp] */
    float *pred_out_w;   /* [D, Hp] */
    float *pred_out_b;   /* [D] */

    float *data; /* [n] the block */
    size_t n;
    size_t n_main; /* parameters before the predictor's, which are fitted apart */
    struct deq_param *params;
    size_t n_params;
};

/* Zeroed parameters for an architecture. Free with deq_weights_free. */
enum deq_rc deq_weights_new(const struct deq_arch *arch, struct deq_weights **ret, struct deq_err *err);
void deq_weights_free(struct deq_weights *w);
/* Every tensor of the file must be here and the other way round, with equal shapes. */
enum deq_rc deq_weights_load(const char *path, const struct deq_arch *arch, struct deq_weights **ret, bool *ret_bf16, struct deq_err *err);
/* The same checks but for the values: only headers are read. *ret_floats: what deq_weights_load would hold. */
enum deq_rc deq_weights_check(const char *path, const struct deq_arch *arch, size_t *ret_floats, bool *ret_bf16, struct deq_err *err);
/* bf16: rounded to nearest even. */
enum deq_rc deq_weights_save(const char *path, const struct deq_weights *w, bool bf16, struct deq_err *err);
/* Sinusoid of relative distance d (Vaswani et al. 2017; order of Transformer-XL: sines, then cosines): out [D]. */
void deq_sinusoid(uint32_t d, uint32_t d_model, float *out);

#endif
