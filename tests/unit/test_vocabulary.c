/* core/cell/vocabulary.c: embeddings and heads, packed and by clusters, against their equations in double. */
#include "core/cell/vocabulary.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/cell/transformer.h"
#include "tests/unit/seq_checks.h"
#include "tests/unit/test.h"

enum { V = 37, D = 12, N = 3, WIDEST = 32 };

/* y of cluster c's head: x by the projection, or x itself. */
static void project(const struct deq_vocabulary *v, unsigned c, const float *x, double *y)
{
    const float *proj = v->head_proj[c] ? v->head_proj[c] : v->embed_proj[c];
    const size_t E = deq_cluster_head(&v->shape, c), out = deq_vocab_out(&v->shape);
    for (size_t k = 0; k < E; k++) {
        y[k] = proj ? 0 : (double)x[k];
        for (size_t d = 0; proj && d < out; d++)
            y[k] += (double)x[d] * (double)proj[d * E + k];
    }
}

static double dot(const float *row, const double *y, size_t n)
{
    double s = 0;
    for (size_t k = 0; k < n; k++)
        s += (double)row[k] * y[k];
    return s;
}

static void log_softmax(double *l, size_t n)
{
    double top = l[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        top = fmax(top, l[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp(l[i] - top);
    for (size_t i = 0; i < n; i++)
        l[i] -= top + log(sum);
}

/* Raw logits of one cluster, log-probabilities of several: out [V], tails [n_cutoffs]. */
static void by_definition(const struct deq_vocabulary *v, const float *x, double *out, double *tails)
{
    const struct deq_vocab *s = &v->shape;
    double y[WIDEST], head[V + DEQ_CUTOFFS_MAX];
    for (unsigned c = 0; c < deq_clusters(s); c++) {
        const uint32_t begin = deq_cluster_begin(s, c), n = deq_cluster_size(s, c);
        const size_t E = deq_cluster_head(s, c);
        const float *rows = v->head[c] ? v->head[c] : v->embed[c];
        project(v, c, x, y);
        for (uint32_t i = 0; i < n; i++)
            out[begin + i] = dot(rows + i * E, y, E) + (v->head_bias ? (double)v->head_bias[begin + i] : 0);
        if (s->n_cutoffs && c) {
            log_softmax(out + begin, n);
            for (uint32_t i = 0; i < n; i++)
                out[begin + i] += tails[c - 1];
        } else if (s->n_cutoffs) {
            memcpy(head, out, n * sizeof *head);
            for (uint32_t k = 0; k < s->n_cutoffs; k++)
                head[n + k] = dot(v->tails_w + k * E, y, E) + (double)v->tails_b[k];
            log_softmax(head, n + s->n_cutoffs);
            memcpy(out, head, n * sizeof *head);
            memcpy(tails, head + n, s->n_cutoffs * sizeof *head);
        }
    }
}

static void check(const struct deq_vocabulary *plain, const struct deq_vocabulary *packed, struct deq_pool *pool)
{
    const struct deq_vocab *s = &plain->shape;
    struct deq_readout r = {0};
    struct deq_layout l = {0};
    float x[N * WIDEST], logits[N][V], tails[N][DEQ_CUTOFFS_MAX], work[WIDEST], e[D];
    float *to[N], *to_tails[N];
    const float *known[N];
    deq_readout_lay_out(&r, s, DEQ_CLASS_FLOAT32, N, &l);
    void *memory = deq_alloc(l.bytes);
    REQUIRE(memory);
    l = (struct deq_layout){.base = memory};
    deq_readout_lay_out(&r, s, DEQ_CLASS_FLOAT32, N, &l);
    deq_readout_init(&r, packed, pool);
    for (size_t i = 0; i < N; i++) {
        for (size_t d = 0; d < deq_vocab_out(s); d++)
            x[i * deq_vocab_out(s) + d] = (float)deq_rng_normal(5, i, d); /* [N, out], close together */
        to[i] = logits[i];
        known[i] = to_tails[i] = tails[i];
    }
    deq_vocabulary_head(&r, N, x, to, s->n_cutoffs ? to_tails : NULL);
    for (unsigned c = 1; c < deq_clusters(s); c++)
        deq_vocabulary_tail(&r, c, N, x, to, known);
    double worst = 0, worst_e = 0, total_error = 0;
    for (size_t i = 0; i < N; i++) {
        double want[V], want_tails[DEQ_CUTOFFS_MAX] = {0}, total = 0;
        by_definition(plain, x + i * deq_vocab_out(s), want, want_tails);
        for (size_t k = 0; k < V; k++) {
            worst = worse(worst, fabs((double)logits[i][k] - want[k]));
            total += exp((double)logits[i][k]);
        }
        total_error = s->n_cutoffs ? worse(total_error, fabs(total - 1)) : 0;
    }
    for (uint32_t token = 0; token < V; token++) {
        const unsigned c = deq_cluster_of(s, token);
        const size_t E = deq_cluster_embed(s, c);
        const float *row = plain->embed[c] + (token - deq_cluster_begin(s, c)) * E;
        deq_vocabulary_embed(packed, token, work, e);
        for (size_t d = 0; d < D; d++) {
            double want = plain->embed_proj[c] ? 0 : (double)row[d];
            for (size_t k = 0; plain->embed_proj[c] && k < E; k++)
                want += (double)plain->embed_proj[c][d * E + k] * (double)row[k];
            worst_e = worse(worst_e, fabs((double)e[d] - want));
        }
    }
    /* sums of at most 32 float products of size 1, twice with a projection: some 1e-6 */
    CHECK_MSG(worst < 1e-5 && worst_e < 1e-5 && total_error < 1e-5, "%u clusters, E %u: %g, %g, %g", deq_clusters(s),
              s->d_embed, worst, worst_e, total_error);
    deq_free(memory);
}

/* Every form of both ends, with an id in every cluster. */
static const struct deq_vocab shapes[] = {
    {.size = V, .d_model = D, .eos_id = -1},
    {.size = V, .d_model = D, .eos_id = -1, .head_untied = true, .head_bias = true},
    {.size = V, .d_model = D, .eos_id = -1, .d_embed = 20},
    {.size = V, .d_model = D, .eos_id = -1, .n_cutoffs = 2, .cutoffs = {10, 30}},
    {.size = V, .d_model = D, .eos_id = -1, .n_cutoffs = 2, .cutoffs = {10, 30}, .d_embed = 16, .div_val = 2,
     .head_bias = true},
    {.size = V, .d_model = D, .eos_id = -1, .n_cutoffs = 1, .cutoffs = {20}, .div_val = 3, .head_untied = true,
     .proj_untied = {true, false}},
};

static struct deq_transformer_arch arch_of(struct deq_vocab v)
{
    return (struct deq_transformer_arch){
        .base = {.kind = &deq_transformer_kind, .vocab = v,
                 .serving = {.solver = deq_solver_defaults(), .row_window = 4}},
        .n_head = 2, .d_head = 6, .d_inner = 16, .n_block = 1, .attn_window = 8, .norm_eps = 1e-5f};
}

TEST(vocabulary_of_every_shape)
{
    struct deq_pool *pool = NULL;
    REQUIRE(!deq_pool_new(2, &pool, NULL));
    for (size_t i = 0; i < DEQ_COUNT(shapes); i++) {
        const struct deq_transformer_arch a = arch_of(shapes[i]);
        struct deq_weights *w = random_weights(&a.base, i), *packed = NULL;
        struct deq_err err = {0};
        CHECK_MSG(w && !deq_weights_packed(&a.base, w, false, &packed, &err), "shape %zu: %s", i, err.text);
        if (packed)
            check(&deq_transformer_weights(w)->vocabulary, &deq_transformer_weights(packed)->vocabulary, pool);
        deq_weights_free(w);
        deq_weights_free(packed);
    }
    deq_pool_free(pool);
}

/* All that is served is trained: gradients through embeddings, projections, clusters and biases. */
TEST(vocabulary_vjp_of_every_shape)
{
    for (size_t i = 0; i < DEQ_COUNT(shapes); i++) {
        const struct deq_transformer_arch a = arch_of(shapes[i]);
        check_seq(&a.base, 4, 8, NULL);
    }
}
