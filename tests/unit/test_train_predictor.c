/* core/train/predictor.c: the gradient of the predictor's loss. */
#include "core/train/predictor.h"

#include "core/base/rng.h"
#include "tests/unit/test.h"
#include "tests/unit/training.h"

TEST(train_predictor_vjp)
{
    enum { N = 7 };
    struct deq_weights *w = contractive_weights(), *g = zero_weights();
    const struct deq_predictor *pr = &deq_transformer_weights(w)->predictor;
    const size_t D = training_arch.base.vocab.d_model, Hp = pr->hidden;
    float e[N * 24], z[N * 24], t[N * 24], hidden[N * 20], d_hidden[N * 20], out[N * 24];
    CHECK(D == 24 && pr->state_dim == 24 && Hp == 20);
    for (size_t i = 0; i < N * D; i++) {
        e[i] = (float)deq_rng_normal(1, 0, i);
        z[i] = (float)deq_rng_normal(1, 1, i);
        t[i] = (float)deq_rng_normal(1, 2, i);
    }
    deq_predictor_loss(pr, w, D, N, e, z, t, 1, hidden, d_hidden, out, g);
    for (size_t k = 0; k < w->n_params; k++) {
        const struct deq_param *p = &w->params[k];
        if (p->offset < w->n_main)
            continue;
        for (size_t j = 0; j < p->count; j += 37) {
            float *x = w->data + p->offset + j;
            const float keep = *x, h = 2e-3f;
            *x = keep + h;
            const double up = deq_predictor_loss(pr, w, D, N, e, z, t, 1, hidden, d_hidden, out, NULL);
            *x = keep - h;
            const double down = deq_predictor_loss(pr, w, D, N, e, z, t, 1, hidden, d_hidden, out, NULL);
            *x = keep;
            /* losses near 10 in float: 1e-6 / h = 5e-4 absolute; a ReLU kink inside h adds the relative part */
            const double slope = (up - down) / (2 * h), d = (double)g->data[p->offset + j];
            CHECK_MSG(fabs(slope - d) < 2e-3 + 0.02 * fabs(d), "%s[%zu]: %g and %g", p->name, j, slope, d);
        }
    }
    deq_weights_free(w);
    deq_weights_free(g);
}
