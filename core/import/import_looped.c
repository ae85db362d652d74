/* Looped models: Attractor (github.com/jacobfa/Attractor, attractor/models/attractor), Parcae
 * (github.com/SandyResearch/parcae) and Huginn (github.com/seal-rg/recurrent-pretraining,
 * recpre/raven_modeling_minimal.py). What their configurations mean; core/cell/looped.h has the equations.
 *
 * A configuration is all of a Python dataclass, so most of its keys tell of training. Those that could change what is
 * computed are listed with the values that mean the equations here. */
#include "core/import/import_looped.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- What the families share --- */

static const struct deq_switch rope_switches[] = {
    {.key = "use_rope", .values = "true"}, {.key = "rope_condense_ratio", .values = "1"}, {0}};

static void read_rope(struct deq_import_job *j, struct deq_fields *f, struct deq_looped_arch *a)
{
    struct deq_fields rope;
    if (!deq_fields_open(f, "rope_settings", "rope_settings.", &rope))
        return;
    deq_source_switches(j, &rope, rope_switches);
    deq_fields_float(&rope, "rope_base", 1, 1e9f, &a->rope_base);
    deq_fields_close(f, &rope);
}

/* What both ends multiply by follows from the way that the model was initialised (attractor/utils/init.py). */
static void read_scales(struct deq_fields *f, struct deq_looped_arch *a)
{
    static const struct {
        const char *strategy;
        bool embed;    /* embeddings times sqrt(D) */
        double logits; /* logits times this / sqrt(D); 0: not */
    } table[] = {
        {"scaled-zero", 0, 0}, {"scaled", 0, 0}, {"scaled-geiping", 0, 0}, {"scaled-stuck", 0, 0},
        {"scaled-large-embed", 0, 0}, {"scaled-and-logit-scale", 0, 1}, {"takase", 1, 0},
        {"takase-scaled", 1, 0.63245553203367588 /* sqrt(2 / 5) */}, {"mitchell", 0, 0}, {"normal", 0, 0},
        {"llama", 0, 0}, {"llama-by-dim", 0, 0}, {"llama-by-dim-ls", 0, 1}, {"kaiming", 0, 0}, {"bert", 0, 0},
        {"megatron", 0, 0}, {"megatron2", 0, 0}, {"small", 0, 0}, {"wang", 0, 0}, {"deepnorm-straight", 0, 0},
        {"deepnorm-subln", 0, 0}, {"noci-anagnostidis", 0, 1}, {"shaped", 0, 1}, {"deep-scale-simple", 0, 1},
        {"deep-scale-full", 0, 1}, {"bernstein", 0, 0}, {"illiterate", 0, 0},
    };
    char name[64] = "scaled";
    const double root = sqrt((double)a->base.vocab.d_model);
    deq_fields_text(f, "init_strategy", false, name, sizeof name);
    for (size_t i = 0; i < DEQ_COUNT(table) && !f->rc; i++) {
        if (strcmp(table[i].strategy, name))
            continue;
        a->embed_scale = table[i].embed ? (float)root : 1;
        a->logit_scale = table[i].logits > 0 ? (float)(table[i].logits / root) : 1;
        return;
    }
    if (!f->rc)
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: init_strategy: %s is not known; scales of embeddings and logits "
                         "follow from it", f->file, name);
}

/* heads: the key of their number. */
static void read_shape(struct deq_fields *f, const char *heads, struct deq_looped_arch *a)
{
    struct deq_vocab *v = &a->base.vocab;
    uint32_t kv = 0, padded = 0, multiple = 1;
    deq_fields_u32(f, "block_size", true, 1, 1 << 20, &a->max_positions);
    deq_fields_u32(f, "n_embd", true, 2, 1 << 14, &v->d_model);
    deq_fields_u32(f, heads, true, 1, 1024, &a->n_head);
    deq_fields_u32(f, "num_key_value_heads", false, 1, 1024, &kv);
    a->d_inner = 4 * v->d_model;
    deq_fields_u32(f, "intermediate_size", false, 1, 1 << 18, &a->d_inner);
    deq_fields_u32(f, "vocab_size", true, 2, 1 << 22, &v->size);
    deq_fields_u32(f, "padding_multiple", false, 1, 1 << 20, &multiple);
    deq_fields_u32(f, "padded_vocab_size", false, 2, 1 << 22, &padded);
    v->size = padded ? padded : (uint32_t)DEQ_ROUND_UP(v->size, (size_t)multiple);
    deq_fields_float(f, "norm_eps", 1e-12f, 0.1f, &a->norm_eps);
    if (f->rc)
        return;
    a->d_head = v->d_model / a->n_head;
    if (v->d_model % a->n_head)
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s: %u heads do not divide n_embd %u", f->file, heads, a->n_head,
                         v->d_model);
    else if (kv && kv != a->n_head)
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: num_key_value_heads: %u is not supported, only %u, as many as "
                         "queries have", f->file, kv, a->n_head);
}

#define TRAINED \
    "name", "hf_config", "padding_multiple", "init_orthogonal", "skip_initialization", "activation_checkpoint_impl", \
    "strategy", "architecture_class_name", "init"

/* Of Config, which Attractor's and Parcae's both extend. */
#define BLOCK_SWITCHES \
    {.key = "block_class_name", .values = "TransformerPreNormBlock"}, \
    {.key = "norm_class_name", .values = "RMSNorm", .required = true}, \
    {.key = "mlp_class_name", .values = "BaseMLP"}, {.key = "nonlin_name", .values = "ReLU2", .required = true}, \
    {.key = "bias", .values = "false"}, {.key = "qk_bias", .values = "false"}, {.key = "clip_qkv", .values = ""}, \
    {.key = "use_fused_head", .values = "pytorch"}, {.key = "causal", .values = "true"}, \
    {.key = "attn_impl", .values = "flash|sdpa"}, {.key = "randomize_positions_from", .values = ""}, \
    {.key = "mup_model_scaling_factor", .values = "1"}, \
    {.key = "use_abacus", .values = "false", .idle = true}, \
    {.key = "debias_attention", .values = "false", .idle = true}, \
    {.key = "center_attention", .values = "false", .idle = true}, \
    {.key = "simple_ops", .values = "false", .idle = true}

static void read_config(struct deq_import_job *j, struct deq_fields *f, struct deq_looped_arch *a)
{
    read_shape(f, "num_attention_heads", a);
    read_rope(j, f, a);
    read_scales(f, a);
    deq_fields_bool(f, "qk_norm", &a->qk_norm);
    deq_fields_float(f, "logit_softcap", 0, 1e6f, &a->logit_softcap);
    deq_fields_bool(f, "tie_embeddings", &j->tie_weights);
    a->base.vocab.head_untied = !j->tie_weights;
}

/* --- Attractor --- */

static const char *const attractor_classes[] = {"AttractorConfig", "Attractor", "EQLMConfig", "EQLM", NULL};
static const char *const attractor_others[] = {
    TRAINED, "max_iter", "min_iter", "tol", "backward_type", "backward_max_iter", "backward_min_iter", "backward_tol",
    "adjoint_grad_clip", "fp_lr_scale", "fp_wd", "recurrent_embedding_dimension", NULL};
static const struct deq_switch attractor_switches[] = {BLOCK_SWITCHES, {0}};

static void attractor_arguments(struct deq_import_job *j, struct deq_fields *f)
{
    struct deq_looped_arch *a = (struct deq_looped_arch *)j->arch;
    struct deq_solver_opts *solver = &a->base.serving.solver;
    uint32_t memory = 5;
    int method = 0;
    j->tie_weights = true;
    read_config(j, f, a);
    a->n_layer[DEQ_PRELUDE] = 6;
    a->n_layer[DEQ_CORE] = 1;
    deq_fields_u32(f, "n_backbone_layers", false, 0, DEQ_LAYERS_MAX, &a->n_layer[DEQ_PRELUDE]);
    deq_fields_u32(f, "n_fp_blocks", false, 1, DEQ_LAYERS_MAX, &a->n_layer[DEQ_CORE]);
    (void)deq_fields_take(f, "layer_scale_init", false); /* whence the gates began; null: there are none */
    a->core_gates = !json_is_null(json_object_get(f->obj, "layer_scale_init"));
    deq_fields_float(f, "gamma_max", 1e-6f, 1e3f, &a->gamma_max);
    a->injection = DEQ_INJECT_PROPOSAL;
    deq_source_serve_equilibrium(&a->base);
    a->base.kind->serving(&a->base, &a->base.serving);
    solver->tol = 1e-4f; /* with 64 evaluations at most, what its authors evaluate by */
    deq_fields_enum(f, "solver", false, "anderson|fpi", &method);
    solver->method = method ? DEQ_PICARD : DEQ_ANDERSON;
    deq_fields_u32(f, "anderson_m", false, 1, 1 << 16, &memory);
    solver->memory = DEQ_MIN(memory, (uint32_t)DEQ_SOLVER_MEMORY_MAX);
    deq_fields_float(f, "anderson_beta", 1e-3f, 1, &solver->beta);
}

static const char *attractor_variant(const struct deq_import_job *j)
{
    (void)j;
    return "Attractor";
}

/* --- Parcae --- */

static const char *const parcae_classes[] = {"ParcaeConfig", "Parcae", NULL};
static const char *const parcae_others[] = {
    TRAINED, "sampling_scheme", "lockstep_n", "lockstep_k", "curriculum_target", "recurrent_iteration_method", NULL};
static const struct deq_switch parcae_switches[] = {
    BLOCK_SWITCHES, {.key = "_is_recurrent_block_config", .values = "false"}, {0}};

/* Where value embeddings are: a table at every second place of prelude, core, coda, the last among them; a gate at
 * every second of the layers as training counts them, which repeats the core. Both are needed. */
static void place_value_embeddings(struct deq_import_job *j, uint32_t loops, uint32_t backprop)
{
    struct deq_looped_arch *a = (struct deq_looped_arch *)j->arch;
    const uint32_t P = a->n_layer[DEQ_PRELUDE], R = a->n_layer[DEQ_CORE], C = a->n_layer[DEQ_CODA];
    const uint32_t place[DEQ_PARTS] = {0, P, P + R}, id[DEQ_PARTS] = {0, P, P + R * loops};
    for (unsigned p = 0; p < DEQ_PARTS; p++) {
        for (uint32_t i = 0; i < a->n_layer[p]; i++) {
            j->value_tables[p] |= (uint32_t)((place[p] + i + P + R + C - 1) % 2 == 0) << i;
            j->value_gates[p] |= (uint32_t)((id[p] + i + R * backprop - 1) % 2 == 0) << i;
        }
        a->value_embeds[p] = j->value_tables[p] & j->value_gates[p];
    }
}

static void read_core(struct deq_fields *f, struct deq_looped_arch *a)
{
    uint32_t S = a->base.vocab.d_model, heads = a->n_head;
    a->core_inner = a->d_inner;
    deq_fields_u32(f, "recurrent_embedding_dimension", true, 2, 1 << 14, &S);
    deq_fields_u32(f, "recurrent_intermediation_embedding_dimension", true, 1, 1 << 18, &a->core_inner);
    deq_fields_u32(f, "recurrent_num_attention_heads", false, 1, 1024, &heads);
    if (!f->rc && (S % heads || S / heads != a->d_head))
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: recurrent_embedding_dimension: %u in %u heads is not supported, "
                         "only heads of %u, which turn by the same angles as the other layers'", f->file, S, heads,
                         a->d_head);
    a->core_size = S == a->base.vocab.d_model ? 0 : S;
    a->core_head = heads == a->n_head ? 0 : heads;
    a->core_inner = a->core_inner == a->d_inner ? 0 : a->core_inner;
}

static void parcae_arguments(struct deq_import_job *j, struct deq_fields *f)
{
    enum { LAYERS = 32 /* bits of a mask */ };
    static const enum deq_injection injections[] = {DEQ_INJECT_DIAGONAL, DEQ_INJECT_LINEAR, DEQ_INJECT_ADD};
    struct deq_looped_arch *a = (struct deq_looped_arch *)j->arch;
    uint32_t loops = 32, backprop = 8;
    int injection = 0;
    char start[32] = "like-init";
    read_config(j, f, a);
    read_core(f, a);
    deq_fields_u32(f, "n_layers_in_prelude", true, 0, LAYERS, &a->n_layer[DEQ_PRELUDE]);
    deq_fields_u32(f, "n_layers_in_recurrent_block", true, 1, LAYERS, &a->n_layer[DEQ_CORE]);
    deq_fields_u32(f, "n_layers_in_coda", true, 0, LAYERS, &a->n_layer[DEQ_CODA]);
    deq_fields_enum(f, "injection_type", false, "diagonal|linear|add", &injection);
    deq_fields_bool(f, "prelude_norm", &a->prelude_norm);
    deq_fields_u32(f, "mean_recurrence", true, 1, 1 << 16, &loops);
    deq_fields_u32(f, "mean_backprop_depth", true, 1, 1 << 16, &backprop);
    deq_fields_text(f, "state_init", false, start, sizeof start);
    a->injection = injections[injection];
    a->core_output = true;
    place_value_embeddings(j, loops, backprop);
    deq_source_serve_loops(&a->base, loops);
    if (!f->rc && strcmp(start, "zero"))
        deq_entries_note(&j->entries, "note: state_init: %s: states begin at zero here, not at noise", start);
}

static const char *parcae_variant(const struct deq_import_job *j)
{
    static const char *const names[] = {[DEQ_INJECT_DIAGONAL] = "Parcae, diagonal injection",
                                        [DEQ_INJECT_LINEAR] = "Parcae, linear injection",
                                        [DEQ_INJECT_ADD] = "Parcae, additive injection"};
    return names[deq_looped_arch(j->arch)->injection];
}

/* --- Huginn --- */

static const char *const huginn_others[] = {
    "name", "padding_multiple", "init_orthogonal", "activation_checkpoint_impl", "architecture_class_name",
    "architectures", "auto_map", "effective_expected_depth", "init_values", "mean_backprop_depth", "sampling_scheme",
    "n_layers", "head_dim", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "use_cache",
    "bos_token_id", "eos_token_id", "pad_token_id", "test_time_noise_type", "num_attention_heads", "hidden_size",
    "num_hidden_layers", "_attn_implementation_autoset", NULL};
static const struct deq_switch huginn_switches[] = {
    {.key = "block_class_name", .values = "SandwichBlock"},
    {.key = "norm_class_name", .values = "RMSNorm_llama|RMSNorm"},
    {.key = "mlp_class_name", .values = "GatedMLP"}, {.key = "nonlin_name", .values = "SiLU"},
    {.key = "bias", .values = "false"}, {.key = "injection_type", .values = "linear"},
    {.key = "init_strategy", .values = "takase"}, {.key = "test_time_noise", .values = "0|0.0"}, {0}};

static void huginn_arguments(struct deq_import_job *j, struct deq_fields *f)
{
    struct deq_looped_arch *a = (struct deq_looped_arch *)j->arch;
    uint32_t loops = 32;
    bool tied = true;
    char start[32] = "like-init";
    a->norm_eps = 1e-6f;
    a->qk_bias = j->tie_weights = true;
    read_shape(f, "n_heads", a);
    a->embed_scale = (float)sqrt((double)a->base.vocab.d_model);
    a->n_layer[DEQ_PRELUDE] = a->n_layer[DEQ_CODA] = 2;
    a->n_layer[DEQ_CORE] = 4;
    deq_fields_u32(f, "n_layers_in_prelude", false, 0, DEQ_LAYERS_MAX, &a->n_layer[DEQ_PRELUDE]);
    deq_fields_u32(f, "n_layers_in_recurrent_block", false, 1, DEQ_LAYERS_MAX, &a->n_layer[DEQ_CORE]);
    deq_fields_u32(f, "n_layers_in_coda", false, 0, DEQ_LAYERS_MAX, &a->n_layer[DEQ_CODA]);
    deq_fields_bool(f, "qk_bias", &a->qk_bias);
    deq_fields_float(f, "rope_base", 1, 1e9f, &a->rope_base);
    deq_fields_bool(f, "tie_word_embeddings", &tied); /* transformers' name for the same */
    deq_fields_bool(f, "tie_embeddings", &j->tie_weights);
    deq_fields_u32(f, "mean_recurrence", false, 1, 1 << 16, &loops);
    deq_fields_text(f, "state_init", false, start, sizeof start);
    j->tie_weights = j->tie_weights && tied;
    a->base.vocab.head_untied = !j->tie_weights;
    a->norm = DEQ_LAYER_SANDWICH;
    a->ffn = DEQ_FFN_SWIGLU;
    a->injection = DEQ_INJECT_LINEAR;
    a->core_norm = true;
    deq_source_serve_loops(&a->base, loops);
    if (!f->rc && strcmp(start, "zero"))
        deq_entries_note(&j->entries, "note: state_init: %s: states begin at zero here, not at noise", start);
}

static const char *huginn_variant(const struct deq_import_job *j)
{
    (void)j;
    return "Huginn";
}

#define LOOPED \
    .what = "looped language model", .kind = &deq_looped_kind, .anchor = "transformer.wte.weight", .bf16 = true, \
    .ties = deq_import_looped_ties, .weights = deq_import_looped_weights
const struct deq_source deq_source_attractor = {
    .model_type = "attractor", .classes = attractor_classes, .others = attractor_others, .switches = attractor_switches,
    .arguments = attractor_arguments, .variant = attractor_variant, LOOPED};
const struct deq_source deq_source_parcae = {
    .model_type = "parcae", .classes = parcae_classes, .others = parcae_others, .switches = parcae_switches,
    .arguments = parcae_arguments, .variant = parcae_variant, LOOPED};
const struct deq_source deq_source_huginn = {
    .model_type = "huginn_raven", .others = huginn_others, .switches = huginn_switches,
    .arguments = huginn_arguments, .variant = huginn_variant, LOOPED};
