/* The cell on rows (packed weights, paged cache) against the cell on whole sequences (OpenBLAS), for every variant: one evaluation from random states. */
#include "core/cell/transformer.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/cell/transformer_seq.h"
#include "core/math/kern.h"
#include "tests/unit/test.h"

static void check_variant(struct deq_arch a)
{
    enum { T = 21 };
    struct deq_weights *w = NULL;
    struct deq_transformer *tf = NULL;
    struct deq_cell *cell = NULL;
    struct deq_pool *pool = NULL;
    struct deq_seq *s = NULL;
    uint32_t pages[(T + 15) / 16] = {1, 0}; /* any order */
    const struct deq_ring ring = {pages, DEQ_COUNT(pages)};
    a.vocab.size = 31;
    a.attn_window = T;
    a.final_norm = true;
    a.norm_eps = 1e-5f;
    a.vocab.eos_id = -1;
    a.serving.row_window = 4;
    a.predictor_hidden = 18;
    a.serving.solver = deq_solver_defaults();
    CHECK(deq_weights_new(&a, &w, NULL) == DEQ_OK);
    for (size_t i = 0; i < w->n_params; i++)
        for (size_t j = 0; j < w->params[i].count; j++)
            w->data[w->params[i].offset + j] =
                (float)(deq_rng_normal(9, i, j) / (w->params[i].rows ? sqrt((double)w->params[i].cols) : 3) + (!w->params[i].rows && strstr(w->params[i].name, "norm.weight")));
    const size_t D = a.vocab.d_model, U = deq_inject_dim(&a) * a.n_block, V = a.vocab.size;
    float *z = DEQ_NEW_ARRAY(float, T * D), *fz = DEQ_NEW_ARRAY(float, T * D), *expected = DEQ_NEW_ARRAY(float, T * D);
    float *u = DEQ_NEW_ARRAY(float, T * U), *logits = DEQ_NEW_ARRAY(float, T * V), *nll = DEQ_NEW_ARRAY(float, T);
    uint32_t tokens[T];
    for (size_t i = 0; i < T; i++)
        tokens[i] = (uint32_t)deq_rng_below(2, 0, i, V);
    for (size_t i = 0; i < T * D; i++)
        z[i] = (float)deq_rng_normal(2, 1, i);
    CHECK(deq_seq_new(&a, 1, T, 0, 1, false, &s, NULL) == DEQ_OK);
    deq_seq_begin(s, w, tokens, 0, 0, 0);
    deq_seq_forward(s, 0, z, expected);

    CHECK(deq_pool_new(2, &pool, NULL) == DEQ_OK && deq_transformer_new(w, false, &tf, NULL) == DEQ_OK &&
          deq_transformer_open(tf, T, DEQ_COUNT(pages), pool, &cell, NULL) == DEQ_OK);
    const float *zp[T], *fp_const[T];
    float *fp[T], *up[T], *uo[T];
    size_t position[T];
    const struct deq_ring *rings[T];
    for (size_t i = 0; i < T; i++) {
        const size_t p = (i * 8) % T; /* any order of rows: 8 and 21 share no factor */
        zp[i] = z + p * D;
        fp[i] = fz + p * D;
        fp_const[i] = fz + i * D;
        uo[i] = u + i * U;
        position[i] = p;
        rings[i] = &ring;
        up[i] = u + p * U;
    }
    const struct deq_rows rows = {.n = T, .z = zp, .fz = fp, .u = up, .position = position, .ring = rings};
    const struct deq_rows states = {.n = T, .z = fp_const, .position = position, .ring = rings};
    cell->ops->inject(cell, &rows, tokens, uo);
    cell->ops->step(cell, &rows);
    double worst = 0;
    for (size_t i = 0; i < T * D; i++)
        worst = worse(worst, fabs((double)fz[i] - (double)expected[i]));
    /* two orders of summation over at most 40 terms of size 1, through at most three blocks: about 1e-5 */
    CHECK_MSG(worst < 1e-4, "norm %s, %u blocks: f differs by %g", deq_norm_name(a.norm), a.n_block, worst);
    /* readout: the shortlist (or all there is), then every further cluster, against the head on sequences */
    float *to[T], *tails[T], tail_mem[T * DEQ_CUTOFFS_MAX];
    float *logprobs = DEQ_NEW_ARRAY(float, T * V);
    double *targets_nll = DEQ_NEW_ARRAY(double, T), mass_error = 0;
    for (size_t i = 0; i < T; i++) {
        to[i] = logits + (i * 8) % T * V; /* any order */
        tails[i] = tail_mem + i * DEQ_CUTOFFS_MAX;
    }
    cell->ops->readout(cell, &states, to, tails);
    for (size_t i = 0; i < T && a.vocab.n_cutoffs; i++) {
        double mass = 0;
        for (size_t v = 0; v < deq_cluster_size(&a.vocab, 0); v++)
            mass += exp((double)to[i][v]);
        for (unsigned c = 0; c < a.vocab.n_cutoffs; c++)
            mass += exp((double)tails[i][c]);
        mass_error = worse(mass_error, fabs(mass - 1));
    }
    CHECK(mass_error < 1e-5); /* 31 exponentials in float */
    for (unsigned c = 1; c <= a.vocab.n_cutoffs; c++)
        cell->ops->readout_tail(cell, c, &states, to, (const float *const *)tails);
    CHECK(deq_seq_logprobs(s, fz, T, logprobs, NULL) == DEQ_OK);
    deq_seq_nll(s, fz, tokens, T, targets_nll);
    for (size_t i = 0; i < T; i++) {
        const double norm = a.vocab.n_cutoffs ? 0 : (double)logprobs[i * V] - (double)to[i][0]; /* of one cluster the logits are raw */
        worst = 0;
        for (size_t v = 0; v < V; v++)
            worst = worse(worst, fabs((double)to[i][v] + norm - (double)logprobs[i * V + v]));
        CHECK_MSG(worst < 1e-4 && fabs(targets_nll[i] + (double)logprobs[i * V + tokens[i]]) < 1e-4, "%u clusters: log-probabilities differ by %g",
                  deq_clusters(&a.vocab), worst);
    }
    if (!a.vocab.n_cutoffs && !a.vocab.head_bias && !deq_projects(&a.vocab) && !a.vocab.head_untied) { /* the head that training knows */
        deq_seq_loss(s, fz, tokens, T, NULL, NULL, nll);
        for (size_t i = 0; i < T; i++)
            CHECK(fabs((double)nll[i] - targets_nll[i]) < 1e-4);
    }
    deq_free(logprobs);
    deq_free(targets_nll);
    /* predictor, by hand in double */
    float *z0 = DEQ_NEW_ARRAY(float, D), *z0p[1] = {z0};
    const float *prev[1] = {z};
    float e[128];
    deq_seq_embed(w, tokens[0], e);
    cell->ops->predict(cell, 1, tokens, prev, z0p);
    for (size_t d = 0; d < D; d++) {
        double sum = (double)w->pred_out_b[d];
        for (size_t h = 0; h < a.predictor_hidden; h++) {
            double x = (double)w->pred_b[h];
            for (size_t k = 0; k < D; k++)
                x += (double)w->pred_tok_w[h * D + k] * (double)e[k] * sqrt((double)D) + (double)w->pred_state_w[h * D + k] * (double)z[k];
            sum += (double)w->pred_out_w[d * a.predictor_hidden + h] * fmax(x, 0);
        }
        CHECK(fabs(sum - (double)z0[d]) < 1e-4);
    }
    deq_free(z0);
    cell->ops->free(cell);
    deq_pool_free(pool);
    deq_transformer_free(tf);
    deq_weights_free(w);
    deq_seq_free(s);
    deq_free(z);
    deq_free(fz);
    deq_free(expected);
    deq_free(u);
    deq_free(logits);
    deq_free(nll);
}

TEST(rows_pre) { check_variant((struct deq_arch){.vocab.d_model = 32, .n_head = 2, .d_head = 16, .d_inner = 40, .n_block = 1, .norm = DEQ_NORM_PRE, .norm_affine = true}); }
TEST(rows_pre_inject_residual)
{
    check_variant((struct deq_arch){.vocab.d_model = 32, .n_head = 2, .d_head = 16, .d_inner = 40, .n_block = 2, .norm = DEQ_NORM_PRE, .norm_affine = true, .inject_residual = true});
}
TEST(rows_pre_plain_odd) { check_variant((struct deq_arch){.vocab.d_model = 22, .n_head = 3, .d_head = 10, .d_inner = 37, .n_block = 1, .norm = DEQ_NORM_PRE}); }
TEST(rows_pre_ln) { check_variant((struct deq_arch){.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40, .n_block = 2, .norm = DEQ_NORM_PRE_LN, .norm_affine = true}); }
TEST(rows_post) { check_variant((struct deq_arch){.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40, .n_block = 1, .norm = DEQ_NORM_POST, .norm_affine = true}); }
TEST(rows_post_plain) { check_variant((struct deq_arch){.vocab.d_model = 70, .n_head = 1, .d_head = 70, .d_inner = 40, .n_block = 1, .norm = DEQ_NORM_POST}); }
/* the vocabulary of 31 in three clusters, and in one with each thing that a head may have */
TEST(rows_adaptive)
{
    check_variant((struct deq_arch){.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40, .n_block = 1, .norm = DEQ_NORM_POST, .vocab.n_cutoffs = 2,
                                    .vocab.cutoffs = {7, 19}, .vocab.div_val = 4, .vocab.head_bias = true, .vocab.proj_untied = {true, false, true}});
}
TEST(rows_adaptive_of_one_width)
{
    check_variant((struct deq_arch){.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40, .n_block = 1, .norm = DEQ_NORM_PRE, .vocab.n_cutoffs = 3,
                                    .vocab.cutoffs = {1, 2, 30}, .vocab.head_untied = true});
}
TEST(rows_projected) { check_variant((struct deq_arch){.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40, .n_block = 1, .norm = DEQ_NORM_PRE, .vocab.d_embed = 10}); }
TEST(rows_projected_down) /* embeddings wider than the model */
{
    check_variant((struct deq_arch){.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40, .n_block = 1, .norm = DEQ_NORM_PRE, .vocab.d_embed = 512, .vocab.n_cutoffs = 2,
                                    .vocab.cutoffs = {7, 19}, .vocab.div_val = 2});
}
TEST(rows_untied) { check_variant((struct deq_arch){.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40, .n_block = 1, .norm = DEQ_NORM_PRE, .vocab.head_untied = true, .vocab.head_bias = true}); }
TEST(rows_pre_sub_three)
{
    check_variant((struct deq_arch){.vocab.d_model = 32, .n_head = 2, .d_head = 12, .d_inner = 40, .n_block = 3, .norm = DEQ_NORM_PRE_SUB, .norm_affine = true});
}
