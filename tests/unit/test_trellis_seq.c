/* The trellis network on sequences: its VJP, its history, and what the head reads. */
#include "core/cell/trellis_seq.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "tests/unit/seq_checks.h"
#include "tests/unit/test.h"

static struct deq_trellis_arch tiny(uint32_t taps, uint32_t dilation, bool levels)
{
    return (struct deq_trellis_arch){.base = {.kind = &deq_trellis_kind,
                                              .vocab = {.size = 37, .d_model = 12, .eos_id = 0},
                                              .serving = {.solver = deq_solver_defaults(), .row_window = 4}},
                                     .state_size = 20,
                                     .kernel_size = taps,
                                     .dilation = dilation,
                                     .embed_scale = true,
                                     .levels = levels};
}

static void check_tiny(struct deq_trellis_arch a, size_t b, size_t t, const struct deq_dropout *d)
{
    check_seq(&a.base, b, t, d);
}

TEST(trellis_seq_vjp) { check_tiny(tiny(2, 1, false), 2, 12, NULL); }
TEST(trellis_seq_vjp_three_taps_apart) { check_tiny(tiny(3, 2, false), 2, 12, NULL); }
TEST(trellis_seq_vjp_of_levels) { check_tiny(tiny(2, 1, true), 2, 12, NULL); }
TEST(trellis_seq_vjp_dropout)
{
    const struct deq_dropout d = {.units = 0.2f, .weights = 0.3f, .seed = 5, .stream = 9};
    check_tiny(tiny(2, 1, false), 2, 12, &d);
}

TEST(trellis_seq_vjp_of_a_narrow_adaptive_head)
{
    struct deq_trellis_arch a = tiny(2, 1, false);
    a.base.vocab.d_out = 8;
    a.base.vocab.head_untied = a.base.vocab.head_bias = true;
    a.base.vocab.n_cutoffs = 1;
    a.base.vocab.cutoffs[0] = 20;
    const struct deq_dropout d = {.units = 0.2f, .seed = 5, .stream = 9};
    check_tiny(a, 2, 12, &d);
}

/* One segment of 12 and three of 4, each with what came before, have the same states. Embeddings before a segment are
 * zeros, by the authors' rule, so the taps on tokens are taken away here; by their rule too the last state stands at
 * every tap before a segment, so that there are but two taps, side by side. */
static void check_history(bool levels)
{
    enum { B = 2, T = 12, PIECE = 4, H = 20, ROUNDS = 40 };
    const struct deq_trellis_arch a = tiny(2, 1, levels);
    const size_t S = deq_trellis_state(&a);
    struct deq_weights *w = random_weights(&a.base, 1);
    struct deq_seq *whole = NULL, *pieces = NULL;
    uint32_t tok[B * T], part[B * PIECE];
    float z[B * T * 2 * H] = {0}, p[B * PIECE * 2 * H], shown[B * T * 2 * H], piece[B * PIECE * 2 * H];
    CHECK(w && !deq_seq_new(&a.base, &(struct deq_seq_shape){.b = B, .t = T, .n_tapes = 1}, &whole, NULL));
    REQUIRE(!deq_seq_new(&a.base, &(struct deq_seq_shape){.b = B, .t = PIECE, .n_tapes = 1}, &pieces, NULL));
    if (w)
        memset(deq_trellis_weights(w)->inject_w[0], 0, 4 * H * 12 * sizeof(float));
    for (size_t i = 0; i < B * T; i++)
        tok[i] = (uint32_t)deq_rng_below(3, 0, i, 37);
    whole->ops->begin(whole, w, tok, NULL);
    for (int i = 0; i < ROUNDS; i++)
        whole->ops->forward(whole, 0, z, z);
    whole->ops->remember(whole, z, shown);
    for (size_t at = 0; at < T; at += PIECE) {
        memset(p, 0, sizeof p);
        for (size_t b = 0; b < B; b++)
            memcpy(part + b * PIECE, tok + b * T + at, PIECE * sizeof *part);
        pieces->ops->begin(pieces, w, part, NULL);
        for (int i = 0; i < ROUNDS; i++)
            pieces->ops->forward(pieces, 0, p, p);
        pieces->ops->remember(pieces, p, piece);
        for (size_t n = 0; n < B * PIECE; n++) {
            const float *x = piece + n * 2 * H, *y = shown + (n / PIECE * T + at + n % PIECE) * 2 * H;
            /* iterated until float32 stands still; sums of another order differ by some units in the last place */
            for (size_t d = 0; d < 2 * H; d++)
                CHECK_MSG(fabsf(x[d] - y[d]) < 2e-5f, "position %zu: %g and %g", at + n % PIECE, (double)x[d],
                          (double)y[d]);
        }
    }
    CHECK(whole->shown_dim == 2 * H && whole->state_dim == S);
    deq_seq_free(whole);
    deq_seq_free(pieces);
    deq_weights_free(w);
}

TEST(trellis_seq_history) { check_history(false); }
TEST(trellis_seq_history_of_levels) { check_history(true); }
