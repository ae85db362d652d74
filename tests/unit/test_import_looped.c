/* core/import/import_looped.c, import_looped_weights.c: what configurations mean, entries by name; refusals. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/import/import.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#define AUTHORS "tests/golden/authors/"

/* Scratch file config.json: that of a committed checkpoint with one key set, or taken away (value NULL). */
static void edited(const char *folder, const char *key, const char *value)
{
    char path[256];
    snprintf(path, sizeof path, AUTHORS "%s/config.json", folder);
    json_t *root = json_load_file(path, 0, NULL);
    CHECK(root);
    if (value)
        json_object_set_new(root, key, json_loads(value, JSON_DECODE_ANY, NULL));
    else
        json_object_del(root, key);
    char *text = json_dumps(root, 0);
    scratch_put("config.json", text);
    free(text);
    json_decref(root);
}

static enum deq_rc import_edited(const char *folder, struct deq_import_report *r, struct deq_err *err)
{
    char path[256];
    snprintf(path, sizeof path, AUTHORS "%s", folder);
    const struct deq_import_opts o = {.checkpoint = path, .config = scratch_path("config.json"),
                                      .out_dir = scratch_path("model")};
    return deq_import(&o, r, err);
}

TEST(import_looped_refuses_switches)
{
    static const struct {
        const char *folder, *key, *value, *says;
    } cases[] = {
        {"attractor-small", "bias", "true", "bias: true is not supported, only false"},
        {"attractor-small", "qk_bias", "true", "qk_bias: true is not supported, only false"},
        {"attractor-small", "clip_qkv", "8.0", "clip_qkv: 8.0 is not supported, only null"},
        {"attractor-small", "causal", "false", "causal: false is not supported, only true"},
        {"attractor-small", "mlp_class_name", "\"GatedMLP\"", "mlp_class_name: GatedMLP is not supported"},
        {"attractor-small", "norm_class_name", "\"LayerNorm\"", "norm_class_name: LayerNorm is not supported"},
        {"attractor-small", "norm_class_name", NULL, "norm_class_name: missing"},
        {"attractor-small", "use_fused_head", "\"full-triton\"", "use_fused_head: full-triton is not supported"},
        {"attractor-small", "num_key_value_heads", "1", "num_key_value_heads: 1 is not supported, only 2"},
        {"attractor-small", "init_strategy", "\"mine\"", "init_strategy: mine is not known"},
        {"attractor-small", "rope_settings", "{\"use_rope\": false}", "rope_settings.use_rope: false is not supported"},
        {"attractor-small", "rope_settings", "{\"yarn\": 4}", "rope_settings.yarn: unknown key"},
        {"attractor-small", "solver", "\"newton\"", "solver: newton is not one of anderson, fpi"},
        {"attractor-small", "sliding_window", "512", "sliding_window: 512: not an argument"},
        {"attractor-small", "_class_name", "\"GPTConfig\"", "_class_name: GPTConfig is not of attractor"},
        {"attractor-small", "n_embd", "33", "num_attention_heads: 2 heads do not divide n_embd 33"},
        {"attractor-small", "padded_vocab_size", "96", "has shape [80, 32], expected [96, 32]"},
        {"attractor-small", "layer_scale_init", "null", "core_block.0.raw_gamma_attn: not part of"},
        {"attractor-small", "n_backbone_layers", "3", "transformer.prelude.2.norm_1.weight: missing"},
        {"attractor-small", "block_size", "32", "freqs_cis: has shape [1, 64, 1, 8, 2], expected [1, 32, 1, 8, 2]"},
        {"parcae-diagonal", "injection_type", "\"gated\"", "injection_type: gated is not one of diagonal, linear, add"},
        {"parcae-diagonal", "injection_type", "\"linear\"", "transformer.adapter.adapter.weight: missing"},
        {"parcae-diagonal", "mean_recurrence", NULL, "mean_recurrence: missing"},
        {"parcae-diagonal", "recurrent_num_attention_heads", "4", "32 in 4 heads is not supported, only heads of 16"},
        {"parcae-diagonal", "prelude_norm", "false", "transformer.ln_prelude.weight: not part of"},
        {"parcae-diagonal", "_is_recurrent_block_config", "true", "_is_recurrent_block_config: true is not supported"},
        {"huginn-zero", "injection_type", "\"add\"", "injection_type: add is not supported, only linear"},
        {"huginn-zero", "test_time_noise", "0.1", "test_time_noise: 0.1 is not supported, only 0"},
        {"huginn-zero", "nonlin_name", "\"GELU\"", "nonlin_name: GELU is not supported, only SiLU"},
        {"huginn-zero", "qk_bias", "false", "attn.qk_bias: not part of"},
        {"huginn-zero", "n_heads", "3", "num_key_value_heads: 2 is not supported, only 3"},
        {"huginn-zero", "attention_sinks", "4", "attention_sinks: 4: not an argument"},
    };
    CHECK(scratch_begin());
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        struct deq_err err = {0};
        struct deq_import_report r;
        edited(cases[i].folder, cases[i].key, cases[i].value);
        CHECK_EQ(import_edited(cases[i].folder, &r, &err), DEQ_EFORMAT);
        CHECK_MSG(strstr(err.text, cases[i].says), "%s", err.text);
        CHECK(!deq_io_exists(scratch_path("model")));
    }
    scratch_end("config.json", NULL);
}
