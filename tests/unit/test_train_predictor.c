/* core/train/predictor.c: the gradient of the predictor's loss, alone and in a step of the model's. */
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

/* Trained with the model it gets the gradient of its loss on the step's equilibrium, each position's state from the one
 * before in its own sequence; the model's gradient stays what it was, bit for bit. */
TEST(train_predictor_in_a_step)
{
    enum { B = 2, T = 5, N = B * T, S = 24, HP = 20 };
    struct deq_weights *w = contractive_weights(), *alone = zero_weights(), *joint = zero_weights(),
                       *by_hand = zero_weights();
    uint32_t tokens[N], targets[N];
    random_batch(tokens, targets, N);
    struct deq_grad_opts o = {.mode = DEQ_GRAD_IMPLICIT, .forward = deq_solver_defaults(),
                              .adjoint = deq_solver_defaults()};
    struct deq_grad_work work;
    struct deq_grad_report r[2];
    REQUIRE(!deq_grad_work_new(&training_arch.base, B, T, &o, 1, &work, NULL));
    deq_grad_shard(&work, &o, w, tokens, targets, N, 1, 0, 0, alone, &r[0]);
    deq_grad_work_free(&work);
    const struct deq_predictor *pr = o.predictor = &deq_transformer_weights(w)->predictor;
    REQUIRE(!deq_grad_work_new(&training_arch.base, B, T, &o, 1, &work, NULL));
    deq_grad_shard(&work, &o, w, tokens, targets, N, 1, 0, 0, joint, &r[1]);
    CHECK(!memcmp(joint->data, alone->data, w->n_main * sizeof(float)) && r[1].loss == r[0].loss);
    float prev[N * S] = {0}, hidden[N * HP], d_hidden[N * HP], out[N * S];
    for (size_t i = 0; i < N; i++)
        if (i != 0 && i != T)
            memcpy(prev + i * S, work.z + (i - 1) * S, S * sizeof(float));
    const double loss = deq_predictor_loss(pr, w, S, N, work.seq->e, prev, work.z, 1.0f / N, hidden, d_hidden, out,
                                           by_hand) / N;
    /* a share of 1/10 as a float and as a double */
    CHECK_MSG(fabs(r[1].predictor - loss) < 1e-6 * loss && !r[0].predictor, "%g and %g", r[1].predictor, loss);
    CHECK(!memcmp(joint->data + w->n_main, by_hand->data + w->n_main, (w->n - w->n_main) * sizeof(float)));
    deq_grad_work_free(&work);
    deq_weights_free(w);
    deq_weights_free(alone);
    deq_weights_free(joint);
    deq_weights_free(by_hand);
}
