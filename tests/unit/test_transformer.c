/* The cell on rows (packed weights, paged cache) against the cell on whole sequences (OpenBLAS), for every variant: one
 * evaluation from random states. */
#include "core/cell/transformer.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/cell/kv_layout.h"
#include "core/cell/transformer_seq.h"
#include "core/math/kern.h"
#include "tests/unit/test.h"

enum { T = 21, PAGES = (T + DEQ_KV_PAGE_TOK - 1) / DEQ_KV_PAGE_TOK };

/* One variant in both forms, with random weights, states and tokens. */
struct fixture {
    struct deq_transformer_arch a;
    struct deq_weights *w, *packed;
    struct deq_seq *s;
    struct deq_pool *pool;
    struct deq_cell *cell;
    uint32_t tokens[T];
    float *z, *fz; /* [T, D] */
    size_t position[T]; /* of each row: any order */
    uint32_t pages[PAGES];
    struct deq_ring ring;
    const struct deq_ring *rings[T];
    size_t D, V;
};

static void random_weights(struct deq_weights *w)
{
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        const double size = p->rows ? sqrt((double)p->cols) : 3, mean = p->role == DEQ_ROLE_GAIN;
        for (size_t j = 0; j < p->count; j++)
            w->data[p->offset + j] = (float)(deq_rng_normal(9, i, j) / size + mean);
    }
}

static bool set_up(struct fixture *x, const struct deq_transformer_arch *variant)
{
    *x = (struct fixture){.a = *variant, .pages = {1, 0} /* any order */, .ring = {x->pages, PAGES}};
    struct deq_arch *a = &x->a.base;
    x->a.attn_window = T;
    x->a.final_norm = true;
    x->a.norm_eps = 1e-5f;
    a->kind = &deq_transformer_kind;
    a->vocab.size = 31;
    a->vocab.eos_id = -1;
    a->serving = (struct deq_serving){.solver = deq_solver_defaults(), .row_window = 4};
    a->predictor_hidden = 18;
    const struct deq_seq_shape shape = {.b = 1, .t = T, .n_tapes = 1};
    if (deq_weights_new(a, &x->w, NULL))
        return false;
    random_weights(x->w);
    x->D = a->vocab.d_model;
    x->V = a->vocab.size;
    x->z = DEQ_NEW_ARRAY(float, T * x->D);
    x->fz = DEQ_NEW_ARRAY(float, T * x->D);
    for (size_t i = 0; i < T; i++) {
        x->tokens[i] = (uint32_t)deq_rng_below(2, 0, i, x->V);
        x->position[i] = (i * 8) % T; /* 8 and 21 share no factor */
        x->rings[i] = &x->ring;
    }
    for (size_t i = 0; i < T * x->D; i++)
        x->z[i] = (float)deq_rng_normal(2, 1, i);
    return !deq_seq_new(a, &shape, &x->s, NULL) && !deq_pool_new(2, &x->pool, NULL) &&
           !deq_weights_packed(a, x->w, false, &x->packed, NULL) &&
           !deq_transformer_open(x->packed, T, PAGES, x->pool, &x->cell, NULL);
}

static void tear_down(struct fixture *x)
{
    if (x->cell)
        x->cell->ops->free(x->cell);
    deq_pool_free(x->pool);
    deq_weights_free(x->packed);
    deq_weights_free(x->w);
    deq_seq_free(x->s);
    deq_free(x->z);
    deq_free(x->fz);
}

static void check_evaluation(struct fixture *x)
{
    const size_t D = x->D, U = x->cell->inject_dim;
    float *expected = DEQ_NEW_ARRAY(float, T * D), *u = DEQ_NEW_ARRAY(float, T * U), *fz[T], *u_to[T];
    const float *z[T];
    uint32_t tokens[T];
    x->s->ops->begin(x->s, x->w, x->tokens, NULL);
    x->s->ops->forward(x->s, 0, x->z, expected);
    for (size_t i = 0; i < T; i++) {
        const size_t p = x->position[i];
        tokens[i] = x->tokens[p];
        z[i] = x->z + p * D;
        fz[i] = x->fz + p * D;
        u_to[i] = u + i * U;
    }
    const struct deq_rows rows = {.n = T, .z = z, .fz = fz, .u = u_to, .position = x->position, .ring = x->rings};
    x->cell->ops->inject(x->cell, &rows, tokens, u_to);
    x->cell->ops->step(x->cell, &rows);
    double worst = 0;
    for (size_t i = 0; i < T * D; i++)
        worst = worse(worst, fabs((double)x->fz[i] - (double)expected[i]));
    /* two orders of summation over at most 40 terms of size 1, through at most three blocks: about 1e-5 */
    CHECK_MSG(worst < 1e-4, "norm %d, %u blocks: f differs by %g", (int)x->a.norm, x->a.n_block, worst);
    deq_free(expected);
    deq_free(u);
}

/* Logits [T, V] of the states fz: the shortlist (or all there is), then every further cluster. */
static void read_out(struct fixture *x, float *logits)
{
    const struct deq_vocab *v = &x->a.base.vocab;
    const float *z[T];
    float *to[T], *tails[T], tail_mem[T * DEQ_CUTOFFS_MAX];
    double mass_error = 0;
    for (size_t i = 0; i < T; i++) {
        z[i] = x->fz + x->position[i] * x->D;
        to[i] = logits + x->position[i] * x->V;
        tails[i] = tail_mem + i * DEQ_CUTOFFS_MAX;
    }
    const struct deq_rows states = {.n = T, .z = z, .position = x->position, .ring = x->rings};
    x->cell->ops->readout(x->cell, &states, to, tails);
    for (size_t i = 0; i < T && v->n_cutoffs; i++) {
        double mass = 0;
        for (size_t k = 0; k < deq_cluster_size(v, 0); k++)
            mass += exp((double)to[i][k]);
        for (unsigned c = 0; c < v->n_cutoffs; c++)
            mass += exp((double)tails[i][c]);
        mass_error = worse(mass_error, fabs(mass - 1));
    }
    CHECK(mass_error < 1e-5); /* 31 exponentials in float */
    for (unsigned c = 1; c <= v->n_cutoffs; c++)
        x->cell->ops->readout_tail(x->cell, c, &states, to, (const float *const *)tails);
}

/* Against the head on sequences: its whole distribution, and its nats of one target. */
static void check_head(struct fixture *x)
{
    const struct deq_vocab *v = &x->a.base.vocab;
    const size_t V = x->V;
    float *logits = DEQ_NEW_ARRAY(float, T * V), *logprobs = DEQ_NEW_ARRAY(float, T * V);
    double targets_nll[T];
    read_out(x, logits);
    CHECK(deq_seq_logprobs(x->s, x->fz, logprobs, NULL) == DEQ_OK);
    deq_seq_loss(x->s, x->fz, x->tokens, 1, NULL, NULL, targets_nll);
    for (size_t i = 0; i < T; i++) {
        const float *p = logprobs + i * V, *y = logits + i * V;
        const double norm = v->n_cutoffs ? 0 : (double)p[0] - (double)y[0]; /* of one cluster the logits are raw */
        double worst = 0;
        for (size_t k = 0; k < V; k++)
            worst = worse(worst, fabs((double)y[k] + norm - (double)p[k]));
        CHECK_MSG(worst < 1e-4 && fabs(targets_nll[i] + (double)p[x->tokens[i]]) < 1e-4,
                  "%u clusters: log-probabilities differ by %g", deq_clusters(v), worst);
    }
    deq_free(logits);
    deq_free(logprobs);
}

/* The start of the row after position 0, by hand in double; its token is that of position 0. */
static void check_predictor(struct fixture *x)
{
    const struct deq_predictor *p = &deq_transformer_weights(x->w)->predictor;
    const size_t D = x->D;
    float *z0 = DEQ_NEW_ARRAY(float, D), *z0_to[1] = {z0};
    const float *before[1] = {x->z}, *e = x->s->e; /* scaled */
    x->cell->ops->predict(x->cell, 1, x->tokens, before, z0_to);
    for (size_t d = 0; d < D; d++) {
        double sum = (double)p->out_b[d];
        for (size_t h = 0; h < p->hidden; h++) {
            double y = (double)p->b[h];
            for (size_t k = 0; k < D; k++)
                y += (double)p->tok_w[h * D + k] * (double)e[k] + (double)p->state_w[h * D + k] * (double)x->z[k];
            sum += (double)p->out_w[d * p->hidden + h] * fmax(y, 0);
        }
        CHECK(fabs(sum - (double)z0[d]) < 1e-4);
    }
    deq_free(z0);
}

static void check_variant(struct deq_transformer_arch variant)
{
    struct fixture x;
    const bool ready = set_up(&x, &variant);
    CHECK(ready);
    if (ready) {
        check_evaluation(&x);
        check_head(&x);
        check_predictor(&x);
    }
    tear_down(&x);
}

TEST(rows_pre)
{
    check_variant((struct deq_transformer_arch){.base.vocab.d_model = 32, .n_head = 2, .d_head = 16, .d_inner = 40,
                                                .n_block = 1, .norm = DEQ_NORM_PRE, .norm_affine = true});
}
TEST(rows_pre_inject_residual)
{
    check_variant((struct deq_transformer_arch){.base.vocab.d_model = 32, .n_head = 2, .d_head = 16, .d_inner = 40,
                                                .n_block = 2, .norm = DEQ_NORM_PRE, .norm_affine = true,
                                                .inject_residual = true});
}
TEST(rows_pre_plain_odd)
{
    check_variant((struct deq_transformer_arch){.base.vocab.d_model = 22, .n_head = 3, .d_head = 10, .d_inner = 37,
                                                .n_block = 1, .norm = DEQ_NORM_PRE});
}
TEST(rows_pre_ln)
{
    check_variant((struct deq_transformer_arch){.base.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40,
                                                .n_block = 2, .norm = DEQ_NORM_PRE_LN, .norm_affine = true});
}
TEST(rows_post)
{
    check_variant((struct deq_transformer_arch){.base.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40,
                                                .n_block = 1, .norm = DEQ_NORM_POST, .norm_affine = true});
}
TEST(rows_post_plain)
{
    check_variant((struct deq_transformer_arch){.base.vocab.d_model = 70, .n_head = 1, .d_head = 70, .d_inner = 40,
                                                .n_block = 1, .norm = DEQ_NORM_POST});
}
/* the vocabulary of 31 in three clusters, and in one with each thing that a head may have */
TEST(rows_adaptive)
{
    check_variant((struct deq_transformer_arch){.base.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40,
                                                .n_block = 1, .norm = DEQ_NORM_POST, .base.vocab.n_cutoffs = 2,
                                                .base.vocab.cutoffs = {7, 19}, .base.vocab.div_val = 4,
                                                .base.vocab.head_bias = true,
                                                .base.vocab.proj_untied = {true, false, true}});
}
TEST(rows_adaptive_of_one_width)
{
    check_variant((struct deq_transformer_arch){.base.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40,
                                                .n_block = 1, .norm = DEQ_NORM_PRE, .base.vocab.n_cutoffs = 3,
                                                .base.vocab.cutoffs = {1, 2, 30}, .base.vocab.head_untied = true});
}
TEST(rows_projected)
{
    check_variant((struct deq_transformer_arch){.base.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40,
                                                .n_block = 1, .norm = DEQ_NORM_PRE, .base.vocab.d_embed = 10});
}
TEST(rows_projected_down) /* embeddings wider than the model */
{
    check_variant((struct deq_transformer_arch){.base.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40,
                                                .n_block = 1, .norm = DEQ_NORM_PRE, .base.vocab.d_embed = 512,
                                                .base.vocab.n_cutoffs = 2, .base.vocab.cutoffs = {7, 19},
                                                .base.vocab.div_val = 2});
}
TEST(rows_untied)
{
    check_variant((struct deq_transformer_arch){.base.vocab.d_model = 32, .n_head = 4, .d_head = 8, .d_inner = 40,
                                                .n_block = 1, .norm = DEQ_NORM_PRE, .base.vocab.head_untied = true,
                                                .base.vocab.head_bias = true});
}
TEST(rows_pre_sub_three)
{
    check_variant((struct deq_transformer_arch){.base.vocab.d_model = 32, .n_head = 2, .d_head = 12, .d_inner = 40,
                                                .n_block = 3, .norm = DEQ_NORM_PRE_SUB, .norm_affine = true});
}

TEST(transformer_sinusoid)
{
    float p[12], zero[12];
    deq_sinusoid(5, 12, p);
    deq_sinusoid(0, 12, zero);
    for (int i = 0; i < 6; i++) {
        double angle = 5 * exp(-log(10000.0) * i / 6);
        /* rounded once from double; exp/log here and pow there differ by a few 1e-16 of an angle below 5 */
        CHECK(fabs((double)p[i] - sin(angle)) < 1e-7 && fabs((double)p[6 + i] - cos(angle)) < 1e-7);
        CHECK(zero[i] == 0 && zero[6 + i] == 1);
    }
}
