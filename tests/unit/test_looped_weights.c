/* core/cell/looped_weights.c: what goes with what, and the table of turns, which is nobody's to train or to round. */
#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/cell/looped.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

static struct deq_looped_arch *new_arch(void)
{
    struct deq_looped_arch *a = (struct deq_looped_arch *)deq_arch_new(&deq_looped_kind);
    a->base.vocab.size = 17;
    a->base.vocab.d_model = 32;
    a->n_head = 4;
    a->d_head = 8;
    a->d_inner = 24;
    a->n_layer[DEQ_PRELUDE] = 2;
    a->n_layer[DEQ_CORE] = 1;
    a->max_positions = 64;
    return a;
}

static void refused(struct deq_looped_arch *a, const char *field)
{
    struct deq_err err = {.text = ""};
    CHECK(deq_arch_check(&a->base, "config.json", &err) == DEQ_EFORMAT && strstr(err.text, field));
    deq_free(a);
}

TEST(looped_shapes_that_do_not_go_together_are_refused)
{
    struct deq_looped_arch *a = new_arch();
    CHECK(deq_arch_check(&a->base, "config.json", NULL) == DEQ_OK);
    a->d_head = 7;
    refused(a, "head_dim: 7");
    a = new_arch();
    a->n_kv_head = 3;
    refused(a, "num_key_value_heads: 3");
    a = new_arch();
    a->core_size = 48; /* z + e has one width */
    refused(a, "core_size: 48");
    a = new_arch();
    a->core_size = 48;
    a->injection = DEQ_INJECT_LINEAR; /* the head reads 32 */
    refused(a, "core_output");
    a = new_arch();
    a->value_embeds[DEQ_PRELUDE] = 4;
    refused(a, "prelude_value_embeddings: 4");
    a = new_arch();
    a->value_embeds[DEQ_CODA] = 1;
    refused(a, "coda_value_embeddings: 1");
    a = new_arch();
    a->logit_softcap = 30;
    a->base.vocab.n_cutoffs = 1;
    a->base.vocab.cutoffs[0] = 5;
    refused(a, "logit_softcap: 30");
}

TEST(rope_table_is_float32_of_float32_angles)
{
    enum { N = 2048, D = 16 };
    float *x = DEQ_NEW_ARRAY(float, N * D);
    deq_rope_table(N, D, 50000, x);
    for (size_t i = 0; i < D / 2; i++) {
        const float frequency = 1.0f / powf(50000, (float)(2 * i) / D);
        for (size_t t = 0; t < N; t += 89) {
            /* powf and our exp may choose neighbours for a frequency: then the angle is off by t times that */
            const double angle = (double)((float)t * frequency), room = 1e-7 + 1.3e-7 * (double)t * (double)frequency;
            CHECK(fabs((double)x[t * D + 2 * i] - cos(angle)) <= room);
            CHECK(fabs((double)x[t * D + 2 * i + 1] - sin(angle)) <= room);
        }
    }
    deq_free(x);
}

TEST(rope_table_stays_float32_in_a_bf16_file)
{
    struct deq_looped_arch *a = new_arch();
    struct deq_weights *w, *back;
    CHECK(deq_weights_new(&a->base, &w, NULL) == DEQ_OK);
    const struct deq_looped_weights *t = deq_looped_weights(w);
    CHECK(t->rope[0] == 1 && t->rope[a->d_head + 1] == (float)sin(1));
    scratch_begin();
    const char *const path = scratch_path("looped.safetensors");
    CHECK(deq_weights_save(path, w, true, NULL) == DEQ_OK);
    CHECK(deq_weights_load(path, &a->base, true, &back, NULL) == DEQ_OK && back->bf16);
    CHECK(!memcmp(deq_looped_weights(back)->rope, t->rope, a->max_positions * a->d_head * sizeof(float)));
    scratch_end("looped.safetensors", NULL);
    deq_weights_free(back);
    deq_weights_free(w);
    deq_free(a);
}
