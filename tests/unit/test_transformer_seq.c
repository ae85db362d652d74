/* Every VJP of the cell on sequences: finite differences per parameter tensor, the adjoint (dot-product) identity, causality. */
#include "core/cell/transformer_seq.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/math/kern.h"
#include "tests/unit/test.h"

static struct deq_arch tiny(enum deq_norm norm, bool affine, unsigned blocks, uint32_t d, uint32_t h, uint32_t dh)
{
    return (struct deq_arch){.vocab.size = 37, .vocab.d_model = d, .n_head = h, .d_head = dh, .d_inner = 40, .n_block = blocks,
                             .attn_window = 96, .norm = norm, .norm_affine = affine, .final_norm = true, .norm_eps = 1e-5f,
                             .vocab.eos_id = 0, .serving.solver = deq_solver_defaults(), .serving.row_window = 4};
}

static struct deq_weights *random_weights(const struct deq_arch *a, uint64_t seed)
{
    struct deq_weights *w = NULL;
    if (deq_weights_new(a, &w, NULL))
        return NULL;
    for (size_t i = 0; i < w->n_params; i++) {
        struct deq_param *p = &w->params[i];
        for (size_t j = 0; j < p->count; j++) {
            double x = deq_rng_normal(seed, i, j);
            bool gain = !p->rows && strstr(p->name, "norm.weight");
            w->data[p->offset + j] = (float)(gain ? 1 + 0.2 * x : p->rows ? x / sqrt((double)p->cols) : 0.2 * x);
        }
    }
    return w;
}

/* loss after `steps` evaluations from z0 */
static double loss_of(struct deq_seq *s, const struct deq_weights *w, const uint32_t *tok, const uint32_t *tgt, const float *z0, float *z,
                      unsigned steps, float dropout)
{
    deq_seq_begin(s, w, tok, dropout, 5, 9);
    memcpy(z, z0, s->n * s->arch.vocab.d_model * sizeof(float));
    for (unsigned i = 0; i < steps; i++)
        deq_seq_forward(s, i, z, z);
    return deq_seq_loss(s, z, tgt, s->n, NULL, NULL, NULL);
}

static void check_arch(struct deq_arch a, size_t b, size_t t, float dropout)
{
    enum { STEPS = 2 };
    struct deq_seq *s = NULL;
    struct deq_weights *w = random_weights(&a, 1), *g = NULL;
    CHECK(deq_seq_new(&a, b, t, 0, STEPS, true, &s, NULL) == DEQ_OK && deq_weights_new(&a, &g, NULL) == DEQ_OK);
    const size_t N = b * t, nd = N * a.vocab.d_model;
    uint32_t tok[512], tgt[512];
    float *z0 = DEQ_NEW_ARRAY(float, nd), *z = DEQ_NEW_ARRAY(float, nd), *d = DEQ_NEW_ARRAY(float, nd), *v = DEQ_NEW_ARRAY(float, nd);
    for (size_t i = 0; i < N; i++) {
        tok[i] = (uint32_t)deq_rng_below(3, 0, i, a.vocab.size);
        tgt[i] = (uint32_t)deq_rng_below(3, 1, i, a.vocab.size);
    }
    tgt[1] = UINT32_MAX; /* left out of the loss */
    for (size_t i = 0; i < nd; i++)
        z0[i] = (float)deq_rng_normal(4, 0, i);

    loss_of(s, w, tok, tgt, z0, z, STEPS, dropout);
    deq_seq_loss(s, z, tgt, N, d, g, NULL);
    for (unsigned i = STEPS; i-- > 0;)
        deq_seq_vjp(s, i, d, d, g);
    deq_seq_end(s, g);

    /* Per tensor, along its own gradient direction mixed with noise: (L(+h) - L(-h)) / 2h against <grad, dir>. f32 losses near 3.6 have an
     * error near 1e-6, h is chosen so that the difference is near 4e-3: relative error 1e-3 and the h^2 term of about 1e-3; ReLU kinks add the rest. */
    for (size_t i = 0; i < w->n_params; i++) {
        struct deq_param *p = &w->params[i];
        float *x = w->data + p->offset, *gr = g->data + p->offset;
        double norm = sqrt((double)deq_kern()->dot(gr, gr, p->count));
        CHECK_MSG(norm > 0, "%s has no gradient", p->name);
        double h = 2e-3 / (norm + 1e-9), slope = 0;
        h = DEQ_MIN(h, 0.05);
        float *keep = DEQ_NEW_ARRAY(float, p->count), *dir = DEQ_NEW_ARRAY(float, p->count);
        memcpy(keep, x, p->count * sizeof(float));
        for (size_t j = 0; j < p->count; j++) {
            dir[j] = (float)(gr[j] / norm + 0.3 * deq_rng_normal(6, i, j) / sqrt((double)p->count));
            slope += (double)dir[j] * gr[j];
        }
        for (size_t j = 0; j < p->count; j++)
            x[j] = keep[j] + (float)h * dir[j];
        double up = loss_of(s, w, tok, tgt, z0, z, STEPS, dropout);
        for (size_t j = 0; j < p->count; j++)
            x[j] = keep[j] - (float)h * dir[j];
        double down = loss_of(s, w, tok, tgt, z0, z, STEPS, dropout);
        memcpy(x, keep, p->count * sizeof(float));
        double fd = (up - down) / (2 * h);
        CHECK_MSG(fabs(fd - slope) < 0.03 * fabs(slope) + 2e-5, "%s (norm %s): finite difference %g, gradient %g", p->name,
                  deq_norm_name(a.norm), fd, slope);
        deq_free(keep);
        deq_free(dir);
    }
    /* adjoint: <d, J v> = <J' d, v>, J v by a central difference in z */
    float *up = DEQ_NEW_ARRAY(float, nd), *down = DEQ_NEW_ARRAY(float, nd);
    double left = 0, right = 0, size = 0;
    const float h = 1e-3f;
    for (size_t i = 0; i < nd; i++) {
        v[i] = (float)deq_rng_normal(7, 0, i);
        d[i] = (float)deq_rng_normal(7, 1, i);
        up[i] = z0[i] + h * v[i];
        down[i] = z0[i] - h * v[i];
    }
    deq_seq_begin(s, w, tok, 0, 0, 0);
    deq_seq_forward(s, 0, up, up);
    deq_seq_forward(s, 0, down, down);
    for (size_t i = 0; i < nd; i++) {
        left += d[i] * ((double)up[i] - down[i]) / (2 * h);
        size += fabs(d[i] * ((double)up[i] - down[i]) / (2 * h));
    }
    deq_seq_forward(s, 0, z0, z);
    deq_seq_vjp(s, 0, d, d, NULL);
    for (size_t i = 0; i < nd; i++)
        right += (double)d[i] * v[i];
    /* f32 rounding of f is 1e-7 * |f| / h = 1e-4 an element; the sum of absolute terms bounds what may cancel */
    CHECK_MSG(fabs(left - right) < 2e-3 * size, "norm %s: <d, Jv> %g, <J'd, v> %g", deq_norm_name(a.norm), left, right);
    /* causality: a change at position p leaves the positions before it bitwise alone */
    const size_t p = t / 2;
    memcpy(up, z0, nd * sizeof(float));
    for (size_t c = 0; c < a.vocab.d_model; c++)
        up[p * a.vocab.d_model + c] += 1.0f;
    deq_seq_forward(s, 0, z0, z);
    deq_seq_forward(s, 1, up, down);
    CHECK(!memcmp(z, down, p * a.vocab.d_model * sizeof(float)));
    CHECK(memcmp(z + p * a.vocab.d_model, down + p * a.vocab.d_model, a.vocab.d_model * sizeof(float)));
    deq_free(up);
    deq_free(down);
    deq_free(z0);
    deq_free(z);
    deq_free(d);
    deq_free(v);
    deq_weights_free(w);
    deq_weights_free(g);
    deq_seq_free(s);
}

TEST(seq_vjp_pre) { check_arch(tiny(DEQ_NORM_PRE, true, 1, 32, 2, 16), 2, 70, 0); }
TEST(seq_vjp_pre_plain_odd) { check_arch(tiny(DEQ_NORM_PRE, false, 1, 24, 3, 10), 1, 9, 0); }
TEST(seq_vjp_post) { check_arch(tiny(DEQ_NORM_POST, true, 1, 32, 4, 8), 2, 12, 0); }
TEST(seq_vjp_post_plain) { check_arch(tiny(DEQ_NORM_POST, false, 1, 32, 4, 8), 2, 12, 0); }
TEST(seq_vjp_pre_ln) { check_arch(tiny(DEQ_NORM_PRE_LN, true, 2, 32, 2, 12), 2, 12, 0); }
TEST(seq_vjp_pre_sub) { check_arch(tiny(DEQ_NORM_PRE_SUB, true, 1, 32, 2, 12), 2, 12, 0); }
TEST(seq_vjp_two_blocks) { check_arch(tiny(DEQ_NORM_PRE, true, 2, 32, 2, 16), 2, 12, 0); }
TEST(seq_vjp_dropout) { check_arch(tiny(DEQ_NORM_PRE, true, 1, 32, 2, 16), 2, 12, 0.3f); }
