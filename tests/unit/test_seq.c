/* core/cell/seq.c: what all kinds of cells on sequences have: masks, biases, lengths. */
#include "core/cell/seq.h"

#include "core/cell/transformer.h"
#include "tests/unit/seq_checks.h"
#include "tests/unit/test.h"

TEST(seq_masks_keep_the_mean)
{
    enum { DIM = 4000, B = 2, T = 3 };
    static float mask[DIM], again[DIM], y[B * T * 2];
    unsigned kept = 0, other = 0;
    deq_seq_draw_mask(mask, DIM, 0.2f, 5, 6);
    deq_seq_draw_mask(again, DIM, 0.2f, 5, 6);
    CHECK(!memcmp(mask, again, sizeof mask));
    deq_seq_draw_mask(again, DIM, 0.2f, 5, 7);
    CHECK(memcmp(mask, again, sizeof mask));
    for (size_t i = 0; i < DIM; i++) {
        kept += mask[i] == 1 / (1 - 0.2f);
        other += mask[i] != 0 && mask[i] != 1 / (1 - 0.2f);
    }
    /* 0.8 within five standard deviations of 4000 draws, which are fixed */
    CHECK_MSG(!other && fabs(kept / (double)DIM - 0.8) < 5 * sqrt(0.16 / DIM), "%u kept", kept);
    /* one mask a sequence, the same at every position */
    const struct deq_seq s = {.b = B, .t = T, .n = B * T};
    const float masks[B * 2] = {0, 2, 3, 0};
    for (size_t i = 0; i < B * T * 2; i++)
        y[i] = 1;
    deq_seq_apply_mask(&s, masks, 2, y);
    for (size_t i = 0; i < B * T; i++)
        CHECK(y[2 * i] == masks[i / T * 2] && y[2 * i + 1] == masks[i / T * 2 + 1]);
}

TEST(seq_biases)
{
    float y[3][5] = {{1, 2, 3, 4, 5}, {0}, {-1, -2, -3, -4, -5}}, d_b[5] = {10, 10, 10, 10, 10};
    static const float b[5] = {0.5f, 1, 2, 4, 8};
    deq_seq_add_bias(y[0], b, 3, 5);
    for (int i = 0; i < 5; i++)
        CHECK(y[0][i] == (float)(i + 1) + b[i] && y[1][i] == b[i] && y[2][i] == b[i] - (float)(i + 1));
    deq_seq_sum_rows(y[0], 3, 5, d_b);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(d_b[i], 10 + 3 * b[i]); /* added to what is there */
}

TEST(seq_lengths)
{
    static const struct deq_transformer_arch a = {
        .base = {.kind = &deq_transformer_kind, .vocab = {.size = 11, .d_model = 8, .eos_id = -1},
                 .serving = {.row_window = 4}},
        .n_head = 2, .d_head = 4, .d_inner = 16, .n_block = 1, .attn_window = 16, .norm_eps = 1e-5f};
    struct deq_seq *s = NULL;
    struct deq_weights *w = random_weights(&a.base, 2);
    static const uint32_t tokens[6] = {1, 2, 3, 4, 5, 6};
    float z[6 * 8] = {0}, whole[6 * 8], part[6 * 8];
    REQUIRE(w && !deq_seq_new(&a.base, &(struct deq_seq_shape){.b = 1, .t = 6, .n_tapes = 1}, &s, NULL));
    CHECK(s->n == 6 && s->t_max == 6 && s->state_dim == 8);
    s->ops->begin(s, w, tokens, NULL);
    s->ops->forward(s, 0, z, whole);
    deq_seq_length(s, 4); /* causal: what is not there was not looked at */
    CHECK(s->n == 4 && s->t_max == 6);
    s->ops->begin(s, w, tokens, NULL);
    s->ops->forward(s, 0, z, part);
    double worst = 0;
    for (int i = 0; i < 4 * 8; i++)
        worst = worse(worst, fabs((double)whole[i] - (double)part[i]));
    CHECK_MSG(worst < 1e-5, "%g", worst); /* OpenBLAS may sum in another order for another number of rows */
    deq_seq_free(s);
    deq_seq_free(NULL);
    deq_weights_free(w);
}
