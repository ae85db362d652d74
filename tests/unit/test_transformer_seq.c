/* Every VJP of the transformer on sequences: what every kind must show. */
#include "core/cell/transformer_seq.h"

#include "tests/unit/seq_checks.h"
#include "tests/unit/test.h"

static struct deq_transformer_arch tiny(enum deq_norm norm, bool affine, unsigned blocks, uint32_t d, uint32_t h,
                                        uint32_t dh)
{
    return (struct deq_transformer_arch){
        .base = {.kind = &deq_transformer_kind, .vocab = {.size = 37, .d_model = d, .eos_id = 0},
                 .serving = {.solver = deq_solver_defaults(), .row_window = 4}},
        .n_head = h, .d_head = dh, .d_inner = 40, .n_block = blocks, .attn_window = 96,
        .norm = norm, .norm_affine = affine, .final_norm = true, .norm_eps = 1e-5f};
}

static void check_arch(struct deq_transformer_arch a, size_t b, size_t t, float dropout)
{
    const struct deq_dropout d = {.units = dropout, .seed = 5, .stream = 9};
    check_seq(&a.base, b, t, &d);
}

TEST(seq_vjp_pre) { check_arch(tiny(DEQ_NORM_PRE, true, 1, 32, 2, 16), 2, 70, 0); }
TEST(seq_vjp_pre_plain_odd) { check_arch(tiny(DEQ_NORM_PRE, false, 1, 24, 3, 10), 1, 9, 0); }
TEST(seq_vjp_post) { check_arch(tiny(DEQ_NORM_POST, true, 1, 32, 4, 8), 2, 12, 0); }
TEST(seq_vjp_post_plain) { check_arch(tiny(DEQ_NORM_POST, false, 1, 32, 4, 8), 2, 12, 0); }
TEST(seq_vjp_pre_ln) { check_arch(tiny(DEQ_NORM_PRE_LN, true, 2, 32, 2, 12), 2, 12, 0); }
TEST(seq_vjp_pre_sub) { check_arch(tiny(DEQ_NORM_PRE_SUB, true, 1, 32, 2, 12), 2, 12, 0); }
TEST(seq_vjp_two_blocks) { check_arch(tiny(DEQ_NORM_PRE, true, 2, 32, 2, 16), 2, 12, 0); }
TEST(seq_vjp_dropout) { check_arch(tiny(DEQ_NORM_PRE, true, 1, 32, 2, 16), 2, 12, 0.3f); }
