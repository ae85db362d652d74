/* core/cell/looped_seq.c, layer_seq.c: every VJP of the looped kind on sequences, by what every kind must show. */
#include "core/cell/looped_seq.h"

#include "core/base/mem.h"
#include "tests/unit/seq_checks.h"
#include "tests/unit/test.h"

/* As Attractor: a proposal, gates, normed queries and keys. */
static struct deq_looped_arch attractor(void)
{
    struct deq_arch *a = deq_arch_new(&deq_looped_kind);
    struct deq_looped_arch x = *deq_looped_arch(a);
    deq_free(a);
    x.base.vocab = (struct deq_vocab){.size = 37, .d_model = 36, .eos_id = 0};
    x.n_head = 2;
    x.d_head = 10;
    x.d_inner = 40;
    x.n_layer[DEQ_PRELUDE] = 2;
    x.n_layer[DEQ_CORE] = 1;
    x.max_positions = 80;
    x.qk_norm = x.core_gates = true;
    x.gamma_max = 4; /* branches count, so that gradients by the start are seen */
    return x;
}

/* As Parcae: a decay, value embeddings, a core of another width. */
static struct deq_looped_arch parcae(void)
{
    struct deq_looped_arch x = attractor();
    x.core_gates = false;
    x.injection = DEQ_INJECT_DIAGONAL;
    x.n_layer[DEQ_CORE] = 2;
    x.n_layer[DEQ_CODA] = 1;
    x.core_size = 40;
    x.core_head = 3;
    x.core_inner = 24;
    x.prelude_norm = x.core_output = true;
    x.value_embeds[DEQ_PRELUDE] = 2;
    x.value_embeds[DEQ_CORE] = 1;
    x.value_embeds[DEQ_CODA] = 1;
    return x;
}

/* As Huginn: norms around branches, SwiGLU, biases, a matrix on the state. */
static struct deq_looped_arch huginn(void)
{
    struct deq_looped_arch x = attractor();
    x.core_gates = x.qk_norm = false;
    x.qk_bias = x.core_norm = true;
    x.norm = DEQ_LAYER_SANDWICH;
    x.ffn = DEQ_FFN_SWIGLU;
    x.injection = DEQ_INJECT_LINEAR;
    x.n_layer[DEQ_CODA] = 2;
    x.embed_scale = 3;
    return x;
}

static void check_arch(struct deq_looped_arch a, size_t b, size_t t, float dropout)
{
    const struct deq_dropout d = {.units = dropout, .seed = 5, .stream = 9};
    struct deq_err err;
    CHECK_MSG(deq_arch_check(&a.base, "arch", &err) == DEQ_OK, "%s", err.text);
    check_seq(&a.base, b, t, &d);
}

TEST(looped_seq_vjp_proposal) { check_arch(attractor(), 2, 12, 0); }
TEST(looped_seq_vjp_long) { check_arch(attractor(), 1, 70, 0); }
TEST(looped_seq_vjp_diagonal) { check_arch(parcae(), 2, 12, 0); }
TEST(looped_seq_vjp_linear) { check_arch(huginn(), 2, 12, 0); }
TEST(looped_seq_vjp_dropout) { check_arch(parcae(), 2, 12, 0.3f); }

TEST(looped_seq_vjp_groups_halves_add)
{
    struct deq_looped_arch a = attractor();
    a.n_head = 4;
    a.n_kv_head = 2;
    a.rope_pairs = DEQ_ROPE_HALVES;
    a.injection = DEQ_INJECT_ADD;
    a.n_layer[DEQ_PRELUDE] = 0;
    a.logit_scale = 0.4f;
    check_arch(a, 2, 12, 0);
}

TEST(looped_seq_vjp_of_a_capped_head)
{
    struct deq_looped_arch a = attractor();
    a.base.vocab.head_untied = a.base.vocab.head_bias = true;
    a.logit_softcap = 2; /* logits of size 1 are bent by it */
    check_arch(a, 2, 12, 0);
}

TEST(looped_seq_past_its_table_of_turns_is_refused)
{
    const struct deq_looped_arch a = attractor();
    struct deq_seq *s = NULL;
    struct deq_err err;
    const struct deq_seq_shape shape = {.b = 1, .t = 81, .n_tapes = 1};
    CHECK(deq_seq_new(&a.base, &shape, &s, &err) == DEQ_EINVAL && strstr(err.text, "max_position_embeddings"));
}
