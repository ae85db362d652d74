/* core/cell/predictor.c: starts of rows against the equation in double; rows do not know each other. */
#include "core/cell/predictor.h"

#include "core/cell/transformer.h"
#include "tests/unit/seq_checks.h"
#include "tests/unit/test.h"

enum { V = 29, D = 24, HIDDEN = 20, N = 4 };

TEST(predictor_rows)
{
    static const struct deq_transformer_arch a = {
        .base = {.kind = &deq_transformer_kind, .vocab = {.size = V, .d_model = D, .eos_id = -1},
                 .predictor_hidden = HIDDEN, .serving = {.row_window = 4}},
        .n_head = 2, .d_head = 12, .d_inner = 32, .n_block = 1, .attn_window = 16, .norm_eps = 1e-5f};
    const uint32_t token[N] = {3, 28, 3, 0};
    float before[N][D], z0[N][D], alone[D], *to[N], *to_alone[1] = {alone};
    const float *from[N];
    struct deq_pool *pool = NULL;
    struct deq_cell *cell = NULL;
    struct deq_weights *w = random_weights(&a.base, 1), *packed = NULL;
    REQUIRE(w && !deq_weights_packed(&a.base, w, false, &packed, NULL) && !deq_pool_new(2, &pool, NULL) &&
            !deq_transformer_open(packed, N, 1, pool, &cell, NULL));
    const struct deq_predictor *p = &deq_transformer_weights(w)->predictor;
    const float *embed = deq_transformer_weights(w)->vocabulary.embed[0];
    for (size_t i = 0; i < N; i++) {
        from[i] = before[i];
        to[i] = z0[i];
        for (size_t d = 0; d < D; d++)
            before[i][d] = (float)i - 0.1f * (float)d;
    }
    cell->ops->predict(cell, N, token, from, to);
    double worst = 0;
    for (size_t i = 0; i < N; i++) {
        double hidden[HIDDEN];
        for (size_t h = 0; h < HIDDEN; h++) {
            hidden[h] = (double)p->b[h];
            for (size_t d = 0; d < D; d++)
                hidden[h] += (double)p->tok_w[h * D + d] * (double)embed[token[i] * D + d] * (double)p->scale +
                             (double)p->state_w[h * D + d] * (double)before[i][d];
            hidden[h] = fmax(hidden[h], 0);
        }
        for (size_t d = 0; d < D; d++) {
            double want = (double)p->out_b[d];
            for (size_t h = 0; h < HIDDEN; h++)
                want += (double)p->out_w[d * HIDDEN + h] * hidden[h];
            worst = worse(worst, fabs((double)z0[i][d] - want));
        }
    }
    CHECK_MSG(worst < 1e-4, "%g", worst); /* floats: sums of 48 products of size 10, then of 20 */
    cell->ops->predict(cell, 1, &token[2], &from[2], to_alone);
    CHECK(!memcmp(alone, z0[2], sizeof alone));
    cell->ops->free(cell);
    deq_pool_free(pool);
    deq_weights_free(w);
    deq_weights_free(packed);
}
