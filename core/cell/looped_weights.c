/* The looped kind: the keys of its configuration, the table of its tensors (models/FORMAT.md), positions. */
#include <stdio.h>

#include "core/base/mem.h"
#include "core/cell/looped.h"
#include "core/math/elementary.h"

/* --- Configuration --- */

#define AT(field) offsetof(struct deq_looped_arch, field)
#define NORMS "pre|sandwich"                        /* in the orders of the enums */
#define FFNS "relu2|swiglu"
#define INJECTIONS "proposal|add|diagonal|linear"
#define PAIRS "neighbours|halves"

static const struct deq_opt config[] = {
    {"num_attention_heads", DEQ_OPT_U32, AT(n_head), 1, 1024, NULL, NULL, "attention heads H"},
    {"num_key_value_heads", DEQ_OPT_U32, AT(n_kv_head), 0, 1024, "0", NULL,
     "heads Hkv of keys and values, which divide H; 0: H"},
    {"head_dim", DEQ_OPT_U32, AT(d_head), 2, 1024, NULL, NULL, "width of a head"},
    {"intermediate_size", DEQ_OPT_U32, AT(d_inner), 1, 1 << 18, NULL, NULL,
     "inner width F of the feed-forward network"},
    {"core_size", DEQ_OPT_U32, AT(core_size), 0, 1 << 14, "0", NULL, "width S of the state; 0: hidden_size"},
    {"core_attention_heads", DEQ_OPT_U32, AT(core_head), 0, 1024, "0", NULL, "the core's own; 0: num_attention_heads"},
    {"core_intermediate_size", DEQ_OPT_U32, AT(core_inner), 0, 1 << 18, "0", NULL,
     "the core's own; 0: intermediate_size"},
    {"num_prelude_layers", DEQ_OPT_U32, AT(n_layer[DEQ_PRELUDE]), 0, DEQ_LAYERS_MAX, NULL, NULL,
     "layers before the loop"},
    {"num_core_layers", DEQ_OPT_U32, AT(n_layer[DEQ_CORE]), 1, DEQ_LAYERS_MAX, NULL, NULL,
     "layers of one evaluation of the core"},
    {"num_coda_layers", DEQ_OPT_U32, AT(n_layer[DEQ_CODA]), 0, DEQ_LAYERS_MAX, "0", NULL, "layers behind the loop"},
    {"max_position_embeddings", DEQ_OPT_U32, AT(max_positions), 1, 1 << 20, NULL, NULL, "positions of a text at most"},
    {"norm", DEQ_OPT_ENUM, AT(norm), 0, 0, "pre", NORMS, "where RMSNorm stands"},
    {"ffn", DEQ_OPT_ENUM, AT(ffn), 0, 0, "relu2", FFNS, "the feed-forward network's nonlinearity"},
    {"injection", DEQ_OPT_ENUM, AT(injection), 0, 0, "proposal", INJECTIONS,
     "how the prelude's output enters the loop"},
    {"qk_norm", DEQ_OPT_BOOL, AT(qk_norm), 0, 1, "false", NULL, "queries and keys are normed by head"},
    {"qk_bias", DEQ_OPT_BOOL, AT(qk_bias), 0, 1, "false", NULL, "queries and keys have a bias"},
    {"core_gates", DEQ_OPT_BOOL, AT(core_gates), 0, 1, "false", NULL, "branches of the core have gates"},
    {"gamma_max", DEQ_OPT_FLOAT, AT(gamma_max), 1e-6, 1e3, "1", NULL, "gates are gamma_max * sigmoid(raw)"},
    {"prelude_norm", DEQ_OPT_BOOL, AT(prelude_norm), 0, 1, "false", NULL, "RMSNorm between the prelude and the loop"},
    {"core_output", DEQ_OPT_BOOL, AT(core_output), 0, 1, "false", NULL, "a matrix between the loop and the coda"},
    {"core_norm", DEQ_OPT_BOOL, AT(core_norm), 0, 1, "false", NULL, "the final norm stands behind the loop too"},
    {"prelude_value_embeddings", DEQ_OPT_U32, AT(value_embeds[DEQ_PRELUDE]), 0, UINT32_MAX, "0", NULL,
     "layers with value embeddings: bit i for layer i"},
    {"core_value_embeddings", DEQ_OPT_U32, AT(value_embeds[DEQ_CORE]), 0, UINT32_MAX, "0", NULL,
     "the same of the core"},
    {"coda_value_embeddings", DEQ_OPT_U32, AT(value_embeds[DEQ_CODA]), 0, UINT32_MAX, "0", NULL,
     "the same of the coda"},
    {"embed_scale", DEQ_OPT_FLOAT, AT(embed_scale), 1e-6, 1e6, "1", NULL, "embeddings are multiplied by it"},
    {"logit_scale", DEQ_OPT_FLOAT, AT(logit_scale), 1e-6, 1e6, "1", NULL, "logits are multiplied by it"},
    {"logit_softcap", DEQ_OPT_FLOAT, AT(logit_softcap), 0, 1e6, "0", NULL, "logits x become c * tanh of x / c; 0: not"},
    {"norm_eps", DEQ_OPT_FLOAT, AT(norm_eps), 1e-12, 0.1, "1e-5", NULL, "RMSNorm's epsilon"},
    {"qk_norm_eps", DEQ_OPT_FLOAT, AT(qk_norm_eps), 1e-12, 0.1, "1.1920929e-7", NULL, "that of queries and keys"},
    {"rope_pairs", DEQ_OPT_ENUM, AT(rope_pairs), 0, 0, "neighbours", PAIRS,
     "which two numbers of a head turn together"},
    {"rope_base", DEQ_OPT_FLOAT, AT(rope_base), 1, 1e9, "50000", NULL, "base of the turns' frequencies"},
};

static const struct deq_opt recipe[] = {
    {"model.hidden_size", DEQ_OPT_U32, AT(base.vocab.d_model), 2, 16384, "256", NULL, "Width D of the state."},
    {"model.heads", DEQ_OPT_U32, AT(n_head), 1, 1024, "4", NULL, "Attention heads H."},
    {"model.kv_heads", DEQ_OPT_U32, AT(n_kv_head), 0, 1024, "0", NULL, "Heads of keys and values; 0: H."},
    {"model.head_dim", DEQ_OPT_U32, AT(d_head), 2, 1024, "64", NULL, "Width of a head, even."},
    {"model.inner_size", DEQ_OPT_U32, AT(d_inner), 1, 262144, "1024", NULL,
     "Inner width F of the feed-forward network."},
    {"model.prelude_layers", DEQ_OPT_U32, AT(n_layer[DEQ_PRELUDE]), 0, DEQ_LAYERS_MAX, "2", NULL,
     "Layers that make the proposal."},
    {"model.core_layers", DEQ_OPT_U32, AT(n_layer[DEQ_CORE]), 1, DEQ_LAYERS_MAX, "1", NULL,
     "Layers of one evaluation of the core."},
    {"model.coda_layers", DEQ_OPT_U32, AT(n_layer[DEQ_CODA]), 0, DEQ_LAYERS_MAX, "0", NULL, "Layers behind the loop."},
    {"model.core_size", DEQ_OPT_U32, AT(core_size), 0, 1 << 14, "0", NULL,
     "Width of the core's state; 0: hidden_size."},
    {"model.core_heads", DEQ_OPT_U32, AT(core_head), 0, 1024, "0", NULL, "The core's own heads; 0: heads."},
    {"model.core_inner_size", DEQ_OPT_U32, AT(core_inner), 0, 1 << 18, "0", NULL,
     "The core's own inner width; 0: inner_size."},
    {"model.max_positions", DEQ_OPT_U32, AT(max_positions), 1, 65536, "1024", NULL, "Positions of a text at most."},
    {"model.norm", DEQ_OPT_ENUM, AT(norm), 0, 0, "pre", NORMS, "Where RMSNorm stands; see core/cell/looped.h."},
    {"model.injection", DEQ_OPT_ENUM, AT(injection), 0, 0, "proposal", INJECTIONS,
     "How the prelude's output enters the loop; see core/cell/looped.h."},
    {"model.prelude_norm", DEQ_OPT_BOOL, AT(prelude_norm), 0, 1, "false", NULL, "RMSNorm between prelude and loop."},
    {"model.core_output", DEQ_OPT_BOOL, AT(core_output), 0, 1, "false", NULL, "A matrix between loop and coda."},
    {"model.core_norm", DEQ_OPT_BOOL, AT(core_norm), 0, 1, "false", NULL, "The final norm stands behind the loop too."},
    {"model.ffn", DEQ_OPT_ENUM, AT(ffn), 0, 0, "relu2", FFNS, "The feed-forward network's nonlinearity."},
    {"model.qk_norm", DEQ_OPT_BOOL, AT(qk_norm), 0, 1, "true", NULL, "Queries and keys are normed by head."},
    {"model.qk_norm_eps", DEQ_OPT_FLOAT, AT(qk_norm_eps), 1e-12, 0.1, "1.1920929e-7", NULL, "Epsilon of that."},
    {"model.qk_bias", DEQ_OPT_BOOL, AT(qk_bias), 0, 1, "false", NULL, "Queries and keys have a bias."},
    {"model.core_gates", DEQ_OPT_BOOL, AT(core_gates), 0, 1, "true", NULL, "Branches of the core have gates."},
    {"model.gamma_max", DEQ_OPT_FLOAT, AT(gamma_max), 1e-6, 1e3, "0.75", NULL, "Gates are gamma_max * sigmoid(raw)."},
    {"model.prelude_value_embeddings", DEQ_OPT_U32, AT(value_embeds[DEQ_PRELUDE]), 0, UINT32_MAX, "0", NULL,
     "Layers of the prelude with value embeddings: bit i for layer i."},
    {"model.core_value_embeddings", DEQ_OPT_U32, AT(value_embeds[DEQ_CORE]), 0, UINT32_MAX, "0", NULL,
     "The same of the core."},
    {"model.coda_value_embeddings", DEQ_OPT_U32, AT(value_embeds[DEQ_CODA]), 0, UINT32_MAX, "0", NULL,
     "The same of the coda."},
    {"model.embed_scale", DEQ_OPT_FLOAT, AT(embed_scale), 1e-6, 1e6, "1", NULL, "Embeddings are multiplied by it."},
    {"model.logit_scale", DEQ_OPT_FLOAT, AT(logit_scale), 1e-6, 1e6, "1", NULL, "Logits are multiplied by it."},
    {"model.logit_softcap", DEQ_OPT_FLOAT, AT(logit_softcap), 0, 1e6, "0", NULL,
     "Logits x become c * tanh of x / c; 0: they do not."},
    {"model.norm_eps", DEQ_OPT_FLOAT, AT(norm_eps), 1e-12, 0.1, "1e-5", NULL, "RMSNorm's epsilon."},
    {"model.rope_pairs", DEQ_OPT_ENUM, AT(rope_pairs), 0, 0, "neighbours", PAIRS,
     "Which two numbers of a head turn together."},
    {"model.rope_base", DEQ_OPT_FLOAT, AT(rope_base), 1, 1e9, "50000", NULL,
     "Base of the turns' frequencies; a model that the run starts from keeps its own turns."},
};

static const char *const part_name[DEQ_PARTS] = {"prelude", "core", "coda"};

struct deq_layer_shape deq_looped_layer(const struct deq_looped_arch *a, enum deq_part part)
{
    const bool own = part == DEQ_CORE && a->core_head;
    return (struct deq_layer_shape){
        .width = part == DEQ_CORE ? deq_looped_state(a) : a->base.vocab.d_model,
        .n_head = own ? a->core_head : a->n_head,
        .n_kv_head = own ? a->core_head : a->n_kv_head ? a->n_kv_head : a->n_head,
        .d_head = a->d_head,
        .d_inner = part == DEQ_CORE && a->core_inner ? a->core_inner : a->d_inner,
        .gates = part == DEQ_CORE && a->core_gates};
}

static enum deq_rc check(const struct deq_arch *arch, const char *where, struct deq_err *err)
{
    const struct deq_looped_arch *a = deq_looped_arch(arch);
    const uint32_t D = arch->vocab.d_model, S = (uint32_t)deq_looped_state(a);
    const bool adds = a->injection == DEQ_INJECT_PROPOSAL || a->injection == DEQ_INJECT_ADD;
    if (a->d_head % 2)
        return deq_fail(err, DEQ_EFORMAT, "%s: head_dim: %u is odd; its numbers turn in pairs", where, a->d_head);
    if (a->n_kv_head && a->n_head % a->n_kv_head)
        return deq_fail(err, DEQ_EFORMAT, "%s: num_key_value_heads: %u does not divide the %u heads", where,
                        a->n_kv_head, a->n_head);
    if (arch->vocab.d_out && arch->vocab.d_out != D)
        return deq_fail(err, DEQ_EFORMAT, "%s: output_size: %u is not hidden_size %u, which the head reads", where,
                        arch->vocab.d_out, D);
    if (S != D && (adds || !a->core_output))
        return deq_fail(err, DEQ_EFORMAT, "%s: core_size: %u is not hidden_size %u, which needs injection diagonal or "
                        "linear and core_output", where, S, D);
    if (a->logit_softcap > 0 && arch->vocab.n_cutoffs)
        return deq_fail(err, DEQ_EFORMAT, "%s: logit_softcap: %g does not go with a vocabulary in clusters, whose "
                        "logits are normed one by one", where, (double)a->logit_softcap);
    for (unsigned p = 0; p < DEQ_PARTS; p++)
        if ((uint64_t)a->value_embeds[p] >> DEQ_MIN(a->n_layer[p], 32u))
            return deq_fail(err, DEQ_EFORMAT, "%s: %s_value_embeddings: %u has bits beyond its %u layers", where,
                            part_name[p], a->value_embeds[p], a->n_layer[p]);
    for (unsigned p = 0; p < DEQ_PARTS; p++)
        if (a->value_embeds[p] && deq_looped_layer(a, p).width < DEQ_VALUE_GATE_IN)
            return deq_fail(err, DEQ_EFORMAT, "%s: %s_value_embeddings: a width of %zu is less than the %d numbers "
                            "that their gates read", where, part_name[p], deq_looped_layer(a, p).width,
                            DEQ_VALUE_GATE_IN);
    return DEQ_OK;
}

static uint32_t seq_max(const struct deq_arch *a)
{
    return deq_looped_arch(a)->max_positions;
}

static bool proposes(const struct deq_arch *a)
{
    return deq_looped_arch(a)->injection == DEQ_INJECT_PROPOSAL;
}

/* A guess costs its layers before the loop once, and those behind it, with the head, at every evaluation that renews
 * it: where there are any, windows of one row (measured: tests/bench/README.md). A prompt's tokens are no guesses: only
 * layers behind the loop, whose models count loops, keep its window at one row too. */
static void serving(const struct deq_arch *arch, struct deq_serving *s)
{
    const struct deq_looped_arch *a = deq_looped_arch(arch);
    const bool before = a->n_layer[DEQ_PRELUDE] > 0, behind = a->n_layer[DEQ_CODA] > 0;
    s->warm = proposes(arch) ? DEQ_WARM_PROPOSAL : DEQ_WARM_ZERO;
    s->row_window = before || behind ? 1 : s->row_window;
    s->prefill_window = before && !behind ? 16 : 0;
}

/* --- Tensors --- */

#define PUT(rows, cols, role, slot, to, ...) \
    deq_weights_put(w, &(struct deq_put){slot, role, rows, cols, to, NULL, 1}, __VA_ARGS__)

static void walk_layer(struct deq_weights *w, const struct deq_looped_arch *a, struct deq_layer_weights *l,
                       enum deq_part part, unsigned i)
{
    const struct deq_layer_shape s = deq_looped_layer(a, part);
    const size_t D = s.width, Q = s.n_head * s.d_head, K = s.n_kv_head * s.d_head, F = s.d_inner,
                 V = a->base.vocab.size;
    const char *const of = part_name[part];
    for (unsigned n = 0; n < (a->norm == DEQ_LAYER_SANDWICH ? 4 : 2); n++)
        PUT(0, D, DEQ_ROLE_GAIN, &l->norm[n], NULL, "%s.%u.norm.%u.weight", of, i, n + 1);
    /* stacked matrices are told apart where they are of one size */
    const unsigned stacked = Q == K ? 3 : 1;
    deq_weights_put(w, &(struct deq_put){&l->qkv_w, DEQ_ROLE_MATRIX, Q + 2 * K, D, &l->packed.qkv, NULL, stacked},
                    "%s.%u.attn.qkv.weight", of, i);
    if (a->qk_bias)
        PUT(0, Q + K, DEQ_ROLE_BIAS, &l->qk_bias, NULL, "%s.%u.attn.qk_bias", of, i);
    PUT(D, Q, DEQ_ROLE_RESIDUAL_OUT, &l->out_w, &l->packed.out, "%s.%u.attn.out.weight", of, i);
    const unsigned halves = a->ffn == DEQ_FFN_SWIGLU ? 2 : 1;
    deq_weights_put(w, &(struct deq_put){&l->up_w, DEQ_ROLE_MATRIX, halves * F, D, &l->packed.up, NULL, halves},
                    "%s.%u.ffn.up.weight", of, i);
    PUT(D, F, DEQ_ROLE_RESIDUAL_OUT, &l->down_w, &l->packed.down, "%s.%u.ffn.down.weight", of, i);
    if (s.gates) {
        PUT(0, D, DEQ_ROLE_BIAS, &l->gate_attn, NULL, "%s.%u.attn.gate", of, i);
        PUT(0, D, DEQ_ROLE_BIAS, &l->gate_ffn, NULL, "%s.%u.ffn.gate", of, i);
    }
    if (i < 32 && a->value_embeds[part] >> i & 1) {
        PUT(s.n_kv_head, DEQ_VALUE_GATE_IN, DEQ_ROLE_EMBED, &l->value_gate, NULL,
            "%s.%u.attn.value_gate.weight", of, i);
        w->putting = DEQ_SHARE_WORDS;
        PUT(V, K, DEQ_ROLE_EMBED, &l->value_embed, &l->packed.value_embed, "%s.%u.attn.value_embed.weight", of, i);
        w->putting = DEQ_SHARE_CELL;
    }
}

static void walk(struct deq_weights *w)
{
    struct deq_looped_weights *t = deq_looped_weights(w);
    const struct deq_looped_arch *a = &t->arch;
    const size_t D = a->base.vocab.d_model, S = deq_looped_state(a);
    deq_vocabulary_walk(w, &t->vocabulary);
    PUT(a->max_positions, a->d_head, DEQ_ROLE_FIXED, &t->rope, NULL, "rope");
    for (unsigned p = 0; p < DEQ_PARTS; p++)
        for (unsigned i = 0; i < a->n_layer[p]; i++)
            walk_layer(w, a, &t->layer[p][i], p, i);
    if (a->prelude_norm)
        PUT(0, D, DEQ_ROLE_GAIN, &t->prelude_norm, NULL, "prelude_norm.weight");
    if (a->injection == DEQ_INJECT_DIAGONAL) {
        PUT(0, S, DEQ_ROLE_BIAS, &t->decay_log, NULL, "inject.decay_log");
        PUT(0, S, DEQ_ROLE_BIAS, &t->step_bias, NULL, "inject.step_bias");
    }
    if (a->injection == DEQ_INJECT_LINEAR)
        PUT(S, S, DEQ_ROLE_MATRIX, &t->state_w, &t->packed.state, "inject.state.weight");
    if (a->injection == DEQ_INJECT_DIAGONAL || a->injection == DEQ_INJECT_LINEAR)
        PUT(S, D, DEQ_ROLE_MATRIX, &t->inject_w, &t->packed.inject, "inject.weight");
    if (a->core_output)
        PUT(D, S, DEQ_ROLE_MATRIX, &t->core_out_w, &t->packed.core_out, "core_output.weight");
    PUT(0, D, DEQ_ROLE_GAIN, &t->final_norm, NULL, "final_norm.weight");
    deq_predictor_walk(w, &t->predictor, &a->base.vocab);
}

static struct deq_weights *weights(const struct deq_arch *a)
{
    struct deq_looped_weights *t = DEQ_NEW(struct deq_looped_weights);
    if (!t)
        return NULL;
    t->arch = *deq_looped_arch(a);
    t->vocabulary.shape = a->vocab;
    t->predictor = (struct deq_predictor){.hidden = a->predictor_hidden, .state_dim = deq_looped_state(&t->arch),
                                          .scale = t->arch.embed_scale};
    t->base.format = a->kind->model_type;
    t->base.walk = walk;
    return &t->base;
}

static const struct deq_predictor *predictor(const struct deq_weights *w)
{
    return &((const struct deq_looped_weights *)w)->predictor;
}

/* --- Constants that follow from them --- */

void deq_looped_gates(const struct deq_looped_arch *a, const float *raw, size_t n, float *gate)
{
    for (size_t i = 0; i < n; i++)
        gate[i] = (float)((double)a->gamma_max / (1 + deq_exp(-(double)raw[i])));
}

void deq_looped_decay(const float *decay_log, const float *step_bias, size_t n, float *decay, float *step)
{
    for (size_t i = 0; i < n; i++) {
        const double b = (double)step_bias[i], dt = b > 40 ? b : deq_log(1 + deq_exp(b));
        step[i] = (float)dt;
        decay[i] = (float)deq_exp(-dt * deq_exp((double)decay_log[i]));
    }
}

void deq_rope_table(size_t positions, size_t d_head, float base, float *out)
{
    const double ln_base = deq_log((double)base);
    for (size_t i = 0; i < d_head / 2; i++) {
        const float frequency = 1.0f / (float)deq_exp((double)(2.0f * (float)i / (float)d_head) * ln_base);
        for (size_t t = 0; t < positions; t++) {
            double sine, cosine;
            deq_sincos((double)((float)t * frequency), &sine, &cosine);
            out[t * d_head + 2 * i] = (float)cosine;
            out[t * d_head + 2 * i + 1] = (float)sine;
        }
    }
}

static void constants(struct deq_weights *w)
{
    const struct deq_looped_weights *t = deq_looped_weights(w);
    deq_rope_table(t->arch.max_positions, t->arch.d_head, t->arch.rope_base, t->rope);
}

const struct deq_kind deq_looped_kind = {.model_type = "deq_looped",
                                         .title = "looped",
                                         .arch_size = sizeof(struct deq_looped_arch),
                                         .config = {config, DEQ_COUNT(config)},
                                         .recipe = {recipe, DEQ_COUNT(recipe)},
                                         .check = check,
                                         .proposes = proposes,
                                         .serving = serving,
                                         .weights = weights,
                                         .predictor = predictor,
                                         .constants = constants,
                                         .shape = deq_looped_shape,
                                         .open = deq_looped_open,
                                         .seq_max = seq_max};
