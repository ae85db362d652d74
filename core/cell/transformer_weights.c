/* The transformer's kind: the keys of its configuration, the table of its tensors (models/FORMAT.md), positions. */
#include <math.h>

#include "core/base/mem.h"
#include "core/cell/transformer.h"
#include "core/math/elementary.h"
#include "core/math/kern.h"

/* --- Configuration --- */

#define AT(field) offsetof(struct deq_transformer_arch, field)
#define NORMS "post|pre|pre_sub|pre_ln" /* in the order of enum deq_norm */

static const struct deq_opt config[] = {
    {"num_attention_heads", DEQ_OPT_U32, AT(n_head), 1, 1024, NULL, NULL, "attention heads H"},
    {"head_dim", DEQ_OPT_U32, AT(d_head), 1, 1024, NULL, NULL, "width Dh of a head"},
    {"intermediate_size", DEQ_OPT_U32, AT(d_inner), 1, 1 << 18, NULL, NULL,
     "inner width F of the feed-forward network"},
    {"num_blocks", DEQ_OPT_U32, AT(n_block), 1, DEQ_BLOCKS_MAX, "1", NULL, "blocks inside one evaluation"},
    {"attention_window", DEQ_OPT_U32, AT(attn_window), 1, 1 << 16, NULL, NULL,
     "positions a token attends to, itself included"},
    {"norm", DEQ_OPT_ENUM, AT(norm), 0, 0, NULL, NORMS, "where LayerNorm stands"},
    {"norm_affine", DEQ_OPT_BOOL, AT(norm_affine), 0, 1, "true", NULL, "LayerNorms have weight and bias"},
    {"inject_residual", DEQ_OPT_BOOL, AT(inject_residual), 0, 1, "false", NULL,
     "the token is injected beside attention too"},
    {"final_norm", DEQ_OPT_BOOL, AT(final_norm), 0, 1, "false", NULL, "LayerNorm between the equilibrium and the head"},
    {"norm_eps", DEQ_OPT_FLOAT, AT(norm_eps), 1e-12, 0.1, "1e-5", NULL, "LayerNorm's epsilon"},
};

static const struct deq_opt recipe[] = {
    {"model.hidden_size", DEQ_OPT_U32, AT(base.vocab.d_model), 2, 16384, "256", NULL, "Width D of the state."},
    {"model.heads", DEQ_OPT_U32, AT(n_head), 1, 1024, "4", NULL, "Attention heads H."},
    {"model.head_dim", DEQ_OPT_U32, AT(d_head), 1, 1024, "64", NULL, "Width Dh of a head; H*Dh need not equal D."},
    {"model.inner_size", DEQ_OPT_U32, AT(d_inner), 1, 262144, "1024", NULL,
     "Inner width F of the feed-forward network."},
    {"model.blocks", DEQ_OPT_U32, AT(n_block), 1, DEQ_BLOCKS_MAX, "1", NULL, "Blocks L inside one evaluation of f."},
    {"model.attention_window", DEQ_OPT_U32, AT(attn_window), 1, 65536, "256", NULL,
     "Positions a token attends to, itself included."},
    {"model.norm", DEQ_OPT_ENUM, AT(norm), 0, 0, "pre", NORMS, "Where LayerNorm stands; see core/cell/transformer.h."},
    {"model.norm_affine", DEQ_OPT_BOOL, AT(norm_affine), 0, 1, "true", NULL, "LayerNorms have weight and bias."},
    {"model.inject_residual", DEQ_OPT_BOOL, AT(inject_residual), 0, 1, "true", NULL,
     "The token is injected beside attention too, not only into q, k and v."},
    {"model.final_norm", DEQ_OPT_BOOL, AT(final_norm), 0, 1, "true", NULL,
     "LayerNorm between the equilibrium and the head."},
    {"model.norm_eps", DEQ_OPT_FLOAT, AT(norm_eps), 1e-12, 0.1, "1e-5", NULL, "LayerNorm's epsilon."},
};

static enum deq_rc check(const struct deq_arch *a, const char *where, struct deq_err *err)
{
    if (a->vocab.d_model % 2)
        return deq_fail(err, DEQ_EFORMAT, "%s: hidden_size: %u is odd; half of it are sines, half cosines", where,
                        a->vocab.d_model);
    if (a->vocab.d_out && a->vocab.d_out != a->vocab.d_model)
        return deq_fail(err, DEQ_EFORMAT,
                        "%s: output_size: %u is not hidden_size %u, the width of a transformer's state", where,
                        a->vocab.d_out, a->vocab.d_model);
    return DEQ_OK;
}

static uint32_t seq_max(const struct deq_arch *a)
{
    return deq_transformer_arch(a)->attn_window;
}

/* --- Tensors --- */

#define PUT(rows, cols, role, slot, name, l) \
    deq_weights_put(w, &(struct deq_put){slot, role, rows, cols, NULL, NULL, 1}, "blocks.%u." name, l)
#define PUT_PACKED(rows, cols, role, slot, to, name, l) \
    deq_weights_put(w, &(struct deq_put){slot, role, rows, cols, to, NULL, 1}, "blocks.%u." name, l)

static void walk_block(struct deq_weights *w, const struct deq_transformer_arch *a, struct deq_block_weights *b,
                       unsigned l)
{
    const size_t D = a->base.vocab.d_model, H = a->n_head, Dh = a->d_head, HD = H * Dh, F = a->d_inner;
    PUT_PACKED(deq_inject_dim(a), D, DEQ_ROLE_EMBED, &b->inject_w, &b->packed.inject, "inject.weight", l);
    PUT(0, deq_inject_dim(a), DEQ_ROLE_BIAS, &b->inject_b, "inject.bias", l);
    deq_weights_put(w, &(struct deq_put){&b->qkv_w, DEQ_ROLE_MATRIX, 3 * HD, D, &b->packed.qkv, NULL, 3},
                    "blocks.%u.attn.qkv.weight", l);
    PUT(HD, D, DEQ_ROLE_MATRIX, &b->rel_w, "attn.rel.weight", l);
    PUT(H, Dh, DEQ_ROLE_BIAS, &b->r_w, "attn.content_bias", l);
    PUT(H, Dh, DEQ_ROLE_BIAS, &b->r_r, "attn.position_bias", l);
    PUT_PACKED(D, HD, DEQ_ROLE_RESIDUAL_OUT, &b->out_w, &b->packed.out, "attn.out.weight", l);
    PUT(0, D, DEQ_ROLE_BIAS, &b->out_b, "attn.out.bias", l);
    PUT_PACKED(F, D, DEQ_ROLE_MATRIX, &b->up_w, &b->packed.up, "ffn.up.weight", l);
    PUT(0, F, DEQ_ROLE_BIAS, &b->up_b, "ffn.up.bias", l);
    PUT_PACKED(D, F, DEQ_ROLE_RESIDUAL_OUT, &b->down_w, &b->packed.down, "ffn.down.weight", l);
    PUT(0, D, DEQ_ROLE_BIAS, &b->down_b, "ffn.down.bias", l);
    if (!a->norm_affine)
        return;
    PUT(0, D, DEQ_ROLE_GAIN, &b->attn_norm_g, "attn_norm.weight", l);
    PUT(0, D, DEQ_ROLE_BIAS, &b->attn_norm_b, "attn_norm.bias", l);
    if (a->norm == DEQ_NORM_PRE_SUB) {
        PUT(0, HD, DEQ_ROLE_GAIN, &b->sub_norm_g, "sub_norm.weight", l);
        PUT(0, HD, DEQ_ROLE_BIAS, &b->sub_norm_b, "sub_norm.bias", l);
    }
    PUT(0, D, DEQ_ROLE_GAIN, &b->ffn_norm_g, "ffn_norm.weight", l);
    PUT(0, D, DEQ_ROLE_BIAS, &b->ffn_norm_b, "ffn_norm.bias", l);
}

static void walk(struct deq_weights *w)
{
    struct deq_transformer_weights *t = deq_transformer_weights(w);
    const size_t D = t->arch.base.vocab.d_model;
    deq_vocabulary_walk(w, &t->vocabulary);
    for (unsigned l = 0; l < t->arch.n_block; l++)
        walk_block(w, &t->arch, &t->block[l], l);
    if (t->arch.final_norm) {
        deq_weights_put(w, &(struct deq_put){&t->final_norm_g, DEQ_ROLE_GAIN, 0, D, NULL, NULL, 1},
                        "final_norm.weight");
        deq_weights_put(w, &(struct deq_put){&t->final_norm_b, DEQ_ROLE_BIAS, 0, D, NULL, NULL, 1}, "final_norm.bias");
    }
    deq_predictor_walk(w, &t->predictor, &t->arch.base.vocab);
}

static struct deq_weights *weights(const struct deq_arch *a)
{
    struct deq_transformer_weights *t = DEQ_NEW(struct deq_transformer_weights);
    if (!t)
        return NULL;
    t->arch = *deq_transformer_arch(a);
    t->vocabulary.shape = a->vocab;
    t->predictor = (struct deq_predictor){.hidden = a->predictor_hidden, .state_dim = a->vocab.d_model,
                                          .scale = sqrtf((float)a->vocab.d_model)};
    t->base.format = a->kind->model_type;
    t->base.walk = walk;
    return &t->base;
}

static const struct deq_predictor *predictor(const struct deq_weights *w)
{
    return &((const struct deq_transformer_weights *)w)->predictor;
}

const struct deq_kind deq_transformer_kind = {.model_type = "deq_transformer",
                                              .title = "transformer",
                                              .arch_size = sizeof(struct deq_transformer_arch),
                                              .config = {config, DEQ_COUNT(config)},
                                              .recipe = {recipe, DEQ_COUNT(recipe)},
                                              .check = check,
                                              .weights = weights,
                                              .predictor = predictor,
                                              .shape = deq_transformer_shape,
                                              .open = deq_transformer_open,
                                              .seq_max = seq_max};

/* --- Positions --- */

static const double LN_10000 = 9.210340371976184;

void deq_sinusoid(uint32_t d, uint32_t d_model, float *out)
{
    uint32_t half = d_model / 2;
    for (uint32_t i = 0; i < half; i++) {
        double sine, cosine;
        deq_sincos(d * deq_exp(-2.0 * i / d_model * LN_10000), &sine, &cosine);
        out[i] = (float)sine;
        out[half + i] = (float)cosine;
    }
}

void deq_transformer_relative(const struct deq_transformer_weights *w, unsigned block, size_t distance, float *scratch,
                              float *r)
{
    const size_t D = w->arch.base.vocab.d_model, HD = (size_t)w->arch.n_head * w->arch.d_head;
    const float *rel_w = w->block[block].rel_w;
    deq_sinusoid((uint32_t)distance, (uint32_t)D, scratch);
    for (size_t i = 0; i < HD; i++)
        r[i] = deq_kern()->dot(rel_w + i * D, scratch, D);
}
