/* The cell's equations against equilibria that the authors' PyTorch code computed (locuslab/deq post-norm and pre_lnorm, torchdeq deq-lm with three
 * blocks): tests/golden/authors, written by convert.py there. */
#include "core/cell/transformer_seq.h"

#include "core/base/mem.h"
#include "core/data/safetensors.h"
#include "tests/unit/test.h"

static void check_case(const char *name)
{
    char path[256];
    struct deq_err err;
    struct deq_arch a;
    struct deq_weights *w = NULL;
    struct deq_safetensors *g = NULL;
    struct deq_seq *s = NULL;
    snprintf(path, sizeof path, "tests/golden/authors/%s/config.json", name);
    CHECK_MSG(deq_config_load(path, &a, &err) == DEQ_OK, "%s", err.text);
    snprintf(path, sizeof path, "tests/golden/authors/%s/model.safetensors", name);
    CHECK_MSG(deq_weights_load(path, &a, &w, NULL, &err) == DEQ_OK, "%s", err.text);
    snprintf(path, sizeof path, "tests/golden/authors/%s/golden.safetensors", name);
    CHECK_MSG(deq_safetensors_open(path, &g, &err) == DEQ_OK, "%s", err.text);
    const struct deq_tensor *tokens = deq_safetensors_find(g, "tokens"), *z_star = deq_safetensors_find(g, "equilibrium");
    const size_t B = 3, all = 8, T = DEQ_MIN(all, (size_t)a.attn_window), D = a.d_model; /* causal: the first T do not see the rest */
    CHECK(tokens && z_star && tokens->count == B * all && z_star->count == B * all * D);
    float *expected = DEQ_NEW_ARRAY(float, B * all * D), *z = DEQ_NEW_ARRAY(float, B * T * D);
    uint32_t ids[24];
    for (size_t b = 0; b < B; b++)
        for (size_t t = 0; t < T; t++) {
            int64_t id;
            memcpy(&id, (const char *)tokens->data + 8 * (b * all + t), 8);
            ids[b * T + t] = (uint32_t)id;
        }
    CHECK(deq_tensor_to_f32(g, z_star, expected, NULL) == DEQ_OK && deq_seq_new(&a, B, T, 0, 1, false, &s, NULL) == DEQ_OK);
    deq_seq_begin(s, w, ids, 0, 0, 0);
    /* locuslab: contracts slowly (about 0.98 a step), to its only equilibrium; torchdeq: exactly its 12 steps */
    for (unsigned i = 0; i < a.solver.max_iter; i++)
        deq_seq_forward(s, 0, z, z);
    double worst = 0, top = 0;
    for (size_t b = 0; b < B; b++)
        for (size_t i = 0; i < T * D; i++) {
            worst = fmax(worst, fabs((double)z[b * T * D + i] - (double)expected[b * all * D + i]));
            top = fmax(top, fabs((double)expected[b * all * D + i]));
        }
    /* float against float64: rounding of 1e-7 a step, summed over the 1/(1-0.98) steps that a contraction of 0.98 remembers, at |z| near `top` */
    CHECK_MSG(worst < 1e-4 && top > 0.5, "%s: largest error %g at values up to %g", name, worst, top);
    deq_free(expected);
    deq_free(z);
    deq_seq_free(s);
    deq_weights_free(w);
    deq_safetensors_close(g);
}

TEST(golden_locuslab_post) { check_case("locuslab-postln-plain-local"); }
TEST(golden_locuslab_pre) { check_case("locuslab-preln-plain"); }
TEST(golden_torchdeq) { check_case("torchdeq-lm-plain"); }
