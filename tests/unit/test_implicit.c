/* core/train/implicit.c: implicit gradients against full unrolling, those of losses at early iterates against finite
 * differences; memory does not grow with the number of
 * iterations. */
#include "core/train/implicit.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/cell/trellis.h"
#include "core/math/kern.h"
#include "tests/unit/looped_reference.h"
#include "tests/unit/seq_checks.h"
#include "tests/unit/test.h"
#include "tests/unit/training.h"

/* dL/dtheta by theorem 1 against differentiating 60 recorded evaluations from zero: the same number in the limit. */
TEST(train_implicit_equals_unrolled)
{
    enum { B = 2, T = 10, N = B * T, DEPTH = 60 };
    struct deq_weights *w = contractive_weights(), *gi = zero_weights(), *gu = zero_weights();
    uint32_t tokens[N], targets[N];
    random_batch(tokens, targets, N);
    for (int method = 0; method < DEQ_SOLVER_COUNT; method++) {
        struct deq_grad_opts o = {.mode = DEQ_GRAD_IMPLICIT, .forward = deq_solver_defaults()};
        o.forward.method = (enum deq_solver_method)method;
        o.forward.tol = 1e-7f; /* as tight as floats allow; max_iter ends it */
        o.forward.max_iter = 100;
        o.forward.memory = 5;
        o.adjoint = o.forward;
        struct deq_grad_work work;
        struct deq_grad_report ri, ru;
        const struct deq_grad_opts both[2] = {o, {.mode = DEQ_GRAD_EXPLICIT, .depth = DEPTH}};
        CHECK(deq_grad_work_new(&training_arch.base, B, T, both, 2, &work, NULL) == DEQ_OK);
        memset(gi->data, 0, gi->n * sizeof(float));
        memset(gu->data, 0, gu->n * sizeof(float));
        deq_grad_shard(&work, &o, w, tokens, targets, N, 1, 0, 0, gi, &ri);
        deq_grad_shard(&work, &both[1], w, tokens, targets, N, 1, 0, 0, gu, &ru);
        CHECK_MSG(fabs(ri.loss - ru.loss) < 1e-4, "loss %g and %g", ri.loss, ru.loss);
        for (size_t i = 0; i < w->n_params; i++) {
            const struct deq_param *p = &w->params[i];
            if (p->offset >= w->n_main)
                continue;
            double diff = sqrt((double)deq_kern()->diff_sumsq(gi->data + p->offset, gu->data + p->offset, p->count));
            double size = sqrt((double)deq_kern()->dot(gu->data + p->offset, gu->data + p->offset, p->count));
            CHECK_MSG(size > 0 && diff <= 1e-3 * size, "%s, %s: relative error %g",
                      deq_solver_name((enum deq_solver_method)method), p->name,
                      diff / size);
        }
        deq_grad_work_free(&work);
    }
    deq_weights_free(w);
    deq_weights_free(gi);
    deq_weights_free(gu);
}

/* The solve's last evaluation is recorded where it was at the iterate that is returned, and made again where that is an
 * older one: both give what a solve and evaluations made by hand give, bit for bit. */
TEST(train_records_the_last_evaluation_once)
{
    enum { B = 2, T = 8, N = B * T };
    struct deq_weights *w = contractive_weights(), *g = zero_weights(), *by_hand = zero_weights();
    uint32_t tokens[N], targets[N];
    random_batch(tokens, targets, N);
    bool seen[2] = {false};
    for (unsigned max_iter = 1; max_iter <= 40; max_iter += 3) { /* at the limit of floats residuals go up and down */
        struct deq_grad_opts o = {.mode = DEQ_GRAD_UNROLL, .depth = 2, .forward = deq_solver_defaults(),
                                  .adjoint = deq_solver_defaults()};
        o.forward.tol = 1e-9f;
        o.forward.max_iter = max_iter;
        struct deq_grad_work work;
        struct deq_grad_report r;
        struct deq_solve_report solve;
        REQUIRE(!deq_grad_work_new(&training_arch.base, B, T, &o, 1, &work, NULL));
        memset(g->data, 0, g->n * sizeof(float));
        memset(by_hand->data, 0, g->n * sizeof(float));
        deq_grad_shard(&work, &o, w, tokens, targets, N, 1, 0, 0, g, &r);
        struct deq_seq *s = work.seq;
        s->ops->begin(s, w, tokens, NULL);
        deq_grad_solve(&work, &o.forward, &solve);
        seen[solve.newest] = true;
        CHECK(r.evaluations == solve.evaluations + (solve.newest ? 1 : 2));
        s->ops->forward(s, 0, work.z, work.y);
        CHECK(!memcmp(work.y, work.f, N * s->state_dim * sizeof(float)));
        s->ops->forward(s, 1, work.y, work.y);
        CHECK((float)deq_seq_loss(s, work.y, targets, 1.0f / N, work.d, by_hand, NULL) == (float)r.loss);
        s->ops->vjp(s, 1, work.d, work.d, by_hand);
        s->ops->vjp(s, 0, work.d, work.d, by_hand);
        s->ops->end(s, by_hand);
        CHECK(!memcmp(g->data, by_hand->data, g->n * sizeof(float)));
        deq_grad_work_free(&work);
    }
    CHECK(seen[false] && seen[true]);
    deq_weights_free(w);
    deq_weights_free(g);
    deq_weights_free(by_hand);
}

/* The penalty's gradient against a finite difference of the penalty itself, z* and the probe held fixed (as the
 * gradient does). */
TEST(train_jacobian_penalty)
{
    enum { B = 1, T = 8, N = 8 };
    struct deq_weights *w = contractive_weights(), *g = zero_weights(), *g0 = zero_weights();
    uint32_t tokens[N], targets[N];
    random_batch(tokens, targets, N);
    struct deq_grad_opts o = {.mode = DEQ_GRAD_UNROLL, .depth = 1, .forward = deq_solver_defaults(),
                              .adjoint = deq_solver_defaults(), .jac_step = 1e-2f};
    o.forward.tol = 1e-6f;
    o.forward.max_iter = 80;
    struct deq_grad_work work;
    struct deq_grad_report r;
    const struct deq_grad_opts without = o;
    o.jac_weight = 1000; /* far above the loss, so that its gradient is what is left after subtraction */
    CHECK(deq_grad_work_new(&training_arch.base, B, T, &o, 1, &work, NULL) == DEQ_OK);
    deq_grad_shard(&work, &without, w, tokens, targets, N, 1, 0, 0, g0, &r);
    deq_grad_shard(&work, &o, w, tokens, targets, N, 1, 0, 0, g, &r);
    const double base = r.jac;
    CHECK(base > 0);
    /* f is linear in W_down: scaling it by (1 + h) changes v in proportion, so the slope along W_down itself is
     * computable by difference */
    float *down_w = deq_transformer_weights(w)->block[0].down_w;
    const float *d = deq_weights_at(g, w, down_w), *d0 = deq_weights_at(g0, w, down_w);
    const size_t n = (size_t)training_arch.base.vocab.d_model * training_arch.d_inner;
    double slope = 0;
    for (size_t i = 0; i < n; i++)
        slope += (double)(d[i] - d0[i]) * (double)down_w[i];
    struct deq_solve_report sr;
    double value[2];
    for (int side = 0; side < 2; side++) {
        const float h = side ? 1e-2f : -1e-2f;
        struct deq_seq *s = work.seq;
        const size_t nd = N * s->state_dim;
        float *f0 = DEQ_NEW_ARRAY(float, nd), *f1 = DEQ_NEW_ARRAY(float, nd), *pz = DEQ_NEW_ARRAY(float, nd);
        s->ops->begin(s, w, tokens, NULL);
        deq_grad_solve(&work, &o.forward, &sr); /* z* of the unchanged weights */
        const float step = o.jac_step * sqrtf(deq_kern()->dot(work.z, work.z, nd) / (float)nd) + 1e-8f;
        for (size_t i = 0; i < nd; i++)
            pz[i] = work.z[i] + step * (float)deq_rng_normal(1, 202 + (0 << 8), i);
        deq_kern()->scale(down_w, 1 + h, n);
        s->ops->begin(s, w, tokens, NULL);
        s->ops->forward(s, 0, work.z, f0);
        s->ops->forward(s, 0, pz, f1);
        deq_kern()->scale(down_w, 1 / (1 + h), n);
        value[side] = (double)deq_kern()->diff_sumsq(f1, f0, nd) / ((double)step * step) / (double)nd;
        deq_free(f0);
        deq_free(f1);
        deq_free(pz);
    }
    const double fd = o.jac_weight * (value[1] - value[0]) / 2e-2;
    /* second differences of f in float: 1e-7 / (1e-2)^2 leaves three digits */
    CHECK_MSG(fabs(fd - slope) < 0.02 * fabs(slope), "finite difference %g, gradient %g, penalty %g", fd, slope, base);
    deq_grad_work_free(&work);
    deq_weights_free(w);
    deq_weights_free(g);
    deq_weights_free(g0);
}

/* --- Losses at early iterates --- */

static void small_batch(const struct deq_arch *a, uint32_t *tokens, uint32_t *targets, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        tokens[i] = (uint32_t)deq_rng_below(8, 0, i, a->vocab.size);
        targets[i] = (uint32_t)deq_rng_below(8, 1, i, a->vocab.size);
    }
}

enum { EARLY_B = 2, EARLY_T = 6, EARLY_N = EARLY_B * EARLY_T, EARLY_MOST = 4 };

/* A solve of EARLY_MOST plain evaluations with losses on its way, all as deq_grad_shard makes them. */
struct early {
    struct deq_grad_opts o;
    struct deq_grad_work work;
    struct deq_weights *w;
    uint32_t tokens[EARLY_N], targets[EARLY_N];
    float *z[EARLY_MOST]; /* [N, S] what evaluation k + 1 began from, with the weights as they were */
};

/* The sum that is differentiated: what evaluations began from is held, but for where iterates begin. */
static double early_loss(struct early *e)
{
    struct deq_seq *s = e->work.seq;
    double sum = 0;
    unsigned behind = 0;
    s->ops->begin(s, e->w, e->tokens, NULL);
    for (unsigned k = EARLY_MOST + 1; k-- > 0;) {
        if (k != EARLY_MOST && !(e->o.indexing >> k & 1))
            continue;
        if (k < 2)
            deq_seq_start(s, e->work.f);
        else
            memcpy(e->work.f, e->z[k - 1], EARLY_N * s->state_dim * sizeof(float));
        if (k)
            s->ops->forward(s, 0, e->work.f, e->work.f);
        sum += pow((double)e->o.gamma, behind++) *
               deq_seq_loss(s, e->work.f, e->targets, 1.0f / EARLY_N, NULL, NULL, NULL);
    }
    return sum;
}

/* (L(+h) - L(-h)) / 2h along the gradient's own direction; h and tolerance as in seq_checks.c, where a loss of 3.6 has
 * an error of 1e-6: here three such are added. */
static void check_early_tensor(struct early *e, const struct deq_param *p, const float *grad)
{
    float *x = e->w->data + p->offset, *keep = DEQ_NEW_ARRAY(float, p->count);
    const double norm = sqrt((double)deq_kern()->dot(grad, grad, p->count)), h = DEQ_MIN(2e-3 / (norm + 1e-9), 0.05);
    double loss[2];
    memcpy(keep, x, p->count * sizeof(float));
    for (int k = 0; k < 2 && norm > 0; k++) {
        for (size_t j = 0; j < p->count; j++)
            x[j] = keep[j] + (float)((k ? -h : h) * (double)grad[j] / norm);
        loss[k] = early_loss(e);
    }
    memcpy(x, keep, p->count * sizeof(float));
    deq_free(keep);
    if (norm > 0) {
        const double difference = (loss[0] - loss[1]) / (2 * h);
        CHECK_MSG(fabs(difference - norm) < 0.03 * norm + 6e-5, "%s: finite difference %g, gradient %g", p->name,
                  difference, norm);
    }
}

static void check_early(const struct deq_arch *a, uint32_t indexing)
{
    struct early e = {.o = {.mode = DEQ_GRAD_UNROLL, .depth = 1, .forward = deq_solver_defaults(), .gamma = 0.7f},
                      .w = random_weights(a, 1)};
    struct deq_weights *g, *without;
    struct deq_grad_report r[2];
    e.o.forward.method = DEQ_PICARD;
    e.o.forward.tol = 0;
    e.o.forward.max_iter = EARLY_MOST;
    REQUIRE(e.w && !deq_weights_new(a, &g, NULL) && !deq_weights_new(a, &without, NULL) &&
            !deq_grad_work_new(a, EARLY_B, EARLY_T, &e.o, 1, &e.work, NULL));
    const uint64_t bytes = e.work.activation_bytes;
    small_batch(a, e.tokens, e.targets, EARLY_N);
    deq_grad_shard(&e.work, &e.o, e.w, e.tokens, e.targets, EARLY_N, 1, 0, 0, without, &r[0]);
    deq_grad_work_free(&e.work);
    e.o.indexing = indexing;
    REQUIRE(!deq_grad_work_new(a, EARLY_B, EARLY_T, &e.o, 1, &e.work, NULL));
    CHECK_EQ(e.work.activation_bytes, bytes); /* no more memory for it */
    deq_grad_shard(&e.work, &e.o, e.w, e.tokens, e.targets, EARLY_N, 1, 0, 0, g, &r[1]);
    CHECK(r[1].finite && r[1].loss == r[0].loss && r[1].evaluations == r[0].evaluations);
    CHECK(memcmp(g->data, without->data, g->n * sizeof(float)));
    struct deq_seq *s = e.work.seq;
    const size_t nd = EARLY_N * s->state_dim;
    s->ops->begin(s, e.w, e.tokens, NULL);
    for (unsigned k = 0; k < EARLY_MOST; k++) {
        REQUIRE((e.z[k] = DEQ_NEW_ARRAY(float, nd)) != NULL);
        if (k)
            s->ops->forward(s, 0, e.z[k - 1], e.z[k]);
        else
            deq_seq_start(s, e.z[k]);
    }
    for (size_t i = 0; i < e.w->n_params; i++)
        if (e.w->params[i].offset < e.w->n_main && e.w->params[i].role != DEQ_ROLE_FIXED)
            check_early_tensor(&e, &e.w->params[i], g->data + e.w->params[i].offset);
    for (unsigned k = 0; k < EARLY_MOST; k++)
        deq_free(e.z[k]);
    deq_grad_work_free(&e.work);
    deq_weights_free(e.w);
    deq_weights_free(g);
    deq_weights_free(without);
}

TEST(train_losses_at_early_iterates)
{
    check_early(&training_arch.base, 1u << 1 | 1u << 3);
    for (int i = 0; i < LOOPED_VARIANTS; i++) { /* from a proposal their gradient goes on */
        struct deq_looped_arch *looped = looped_variant(i);
        check_early(&looped->base, 1u << 1 | 1u << 2 | (deq_arch_proposes(&looped->base) ? 1u : 0));
        deq_free(looped);
    }
}

/* A solve that would have converged before it is not done before the last of them. */
TEST(train_early_losses_are_all_taken)
{
    enum { B = 1, T = 6, N = B * T };
    struct deq_weights *w = contractive_weights(), *g = zero_weights();
    uint32_t tokens[N], targets[N];
    random_batch(tokens, targets, N);
    struct deq_grad_opts o = {.mode = DEQ_GRAD_IMPLICIT, .forward = deq_solver_defaults(),
                              .adjoint = deq_solver_defaults(), .gamma = 1};
    o.forward.tol = 2; /* there after one: no residual from zero exceeds 1 */
    struct deq_grad_report r;
    for (unsigned k = 0; k < 8; k += 7) {
        struct deq_grad_work work;
        o.indexing = k ? 1u << k : 0;
        REQUIRE(!deq_grad_work_new(&training_arch.base, B, T, &o, 1, &work, NULL));
        deq_grad_shard(&work, &o, w, tokens, targets, N, 1, 0, 0, g, &r);
        CHECK_EQ(r.evaluations, k + 1);
        deq_grad_work_free(&work);
    }
    deq_weights_free(w);
    deq_weights_free(g);
}

/* Bytes that implicit steps with `iterations` forward and adjoint evaluations hold at their peak, beyond weights and
 * gradient. */
static uint64_t peak_bytes(unsigned iterations)
{
    enum { B = 2, T = 16, N = B * T };
    struct deq_weights *w = contractive_weights(), *g = zero_weights();
    struct deq_grad_opts o = {.mode = DEQ_GRAD_IMPLICIT, .forward = deq_solver_defaults()};
    o.forward.tol = 0; /* never reached: all iterations are made */
    o.forward.max_iter = iterations;
    o.adjoint = o.forward;
    struct deq_grad_work work;
    struct deq_grad_report r = {0};
    uint32_t tokens[N], targets[N];
    random_batch(tokens, targets, N);
    deq_mem_peak_restart();
    const uint64_t before = deq_mem_live();
    CHECK(!deq_grad_work_new(&training_arch.base, B, T, &o, 1, &work, NULL));
    for (uint64_t step = 0; step < 4; step++)
        deq_grad_shard(&work, &o, w, tokens, targets, N, 1, step, 0, g, &r);
    CHECK(r.evaluations == iterations && r.adjoint_evaluations == iterations); /* the solve's last one is recorded */
    const uint64_t peak = deq_mem_peak() - before, said = work.activation_bytes + work.seq->logits_bytes;
    CHECK(peak >= said && peak < said + 16384); /* two structs, and what malloc rounds up */
    deq_grad_work_free(&work);
    deq_weights_free(w);
    deq_weights_free(g);
    return peak;
}

/* --- Explicit networks --- */

enum { DEEP = 7 };

/* Gradients of DEEP layers with every k-th evaluation's input kept, for every k, are those with all on tapes. */
static void check_segments(const struct deq_arch *a, bool drops_weights)
{
    enum { B = 2, T = 6, N = B * T };
    struct deq_weights *w = random_weights(a, 1), *want, *got;
    REQUIRE(w && !deq_weights_new(a, &want, NULL) && !deq_weights_new(a, &got, NULL));
    uint32_t tokens[N], targets[N];
    small_batch(a, tokens, targets, N);
    for (unsigned k = 0; k <= DEEP + 1; k++) {
        const struct deq_grad_opts o = {.mode = DEQ_GRAD_EXPLICIT, .depth = DEEP, .segment = k, .dropout = 0.2f,
                                        .weight_dropout = drops_weights ? 0.2f : 0};
        struct deq_weights *g = k ? got : want;
        struct deq_grad_work work;
        struct deq_grad_report r;
        static double loss;
        REQUIRE(!deq_grad_work_new(a, B, T, &o, 1, &work, NULL));
        memset(g->data, 0, g->n * sizeof(float));
        deq_grad_shard(&work, &o, w, tokens, targets, N, 1, 3, 0, g, &r);
        loss = k ? loss : r.loss;
        const unsigned again = k && k < DEEP ? (DEEP - 1) / k * k : 0; /* all segments but the last */
        CHECK_MSG(r.finite && r.evaluations == DEEP + again, "segments of %u: %u evaluations", k, r.evaluations);
        CHECK(r.loss == loss);
        CHECK_MSG(!memcmp(g->data, want->data, g->n * sizeof(float)), "segments of %u", k);
        deq_grad_work_free(&work);
    }
    CHECK(deq_kern()->dot(want->data, want->data, want->n) > 0);
    deq_weights_free(w);
    deq_weights_free(want);
    deq_weights_free(got);
}

TEST(train_recomputing_gives_the_same_bits)
{
    struct deq_transformer_arch two = training_arch;
    two.n_block = 2;
    check_segments(&two.base, false);
    struct deq_trellis_arch trellis = {.base = {.kind = &deq_trellis_kind, .vocab = {.size = 29, .d_model = 12}},
                                       .state_size = 20, .kernel_size = 2, .dilation = 1};
    check_segments(&trellis.base, true);
    trellis.levels = true;
    check_segments(&trellis.base, true);
    for (int i = 0; i < LOOPED_VARIANTS; i++) { /* some begin at a proposal, whose gradient goes on */
        struct deq_looped_arch *looped = looped_variant(i);
        check_segments(&looped->base, false);
        deq_free(looped);
    }
}

static uint64_t activation_bytes(unsigned depth, unsigned segment)
{
    const struct deq_grad_opts o = {.mode = DEQ_GRAD_EXPLICIT, .depth = depth, .segment = segment};
    struct deq_grad_work work;
    const uint64_t before = deq_mem_live();
    if (deq_grad_work_new(&training_arch.base, 2, 16, &o, 1, &work, NULL))
        return 0;
    const uint64_t bytes = work.activation_bytes, held = deq_mem_live() - before;
    /* what is said is what is held: besides it the head's rows and two structs, and what malloc rounds up */
    CHECK_MSG(held >= bytes + work.seq->logits_bytes && held < bytes + work.seq->logits_bytes + 16384,
              "%u layers: %llu of %llu", depth, (unsigned long long)bytes, (unsigned long long)held);
    deq_grad_work_free(&work);
    return bytes;
}

/* Memory of an explicit network is so much a layer, and that of segments so much a tape and a state that is kept;
 * what recomputing chooses holds least. */
TEST(train_memory_of_layers)
{
    enum { LAYERS = 24, STATE = 2 * 16 * 24 * 4 };
    const uint64_t one = activation_bytes(1, 0), tape = activation_bytes(2, 0) - one;
    CHECK(tape > 10 * STATE);
    /* the table of tapes itself is rounded up to a cache line */
    const uint64_t all = activation_bytes(LAYERS, 0), rounding = 64;
    CHECK(all + LAYERS * rounding > one + (LAYERS - 1) * tape && all < one + (LAYERS - 1) * tape + LAYERS * rounding);
    unsigned best = 0, by_hand = 1;
    uint64_t least = UINT64_MAX;
    for (unsigned k = 1; k <= LAYERS; k++) {
        const uint64_t bytes = activation_bytes(LAYERS, k),
                       want = one + (k - 1) * tape + (LAYERS - 1) / k * (uint64_t)STATE;
        CHECK_MSG(bytes + k * rounding > want && bytes < want + k * rounding, "segments of %u", k);
        by_hand = bytes < least ? k : by_hand;
        least = DEQ_MIN(least, bytes);
    }
    REQUIRE(!deq_grad_best_segment(&training_arch.base, 2, 16, LAYERS, &best, NULL));
    CHECK_EQ(best, by_hand);
    CHECK(4 * least < all);
}

TEST(train_memory_does_not_grow_with_iterations)
{
    const uint64_t few = peak_bytes(8), many = peak_bytes(64);
    /* one more stored state alone would be 3 KiB an iteration, its tape 100 KiB; malloc may round a block up by 16
     * bytes once and not the next time */
    CHECK_MSG(few > 100000 && many < few + 1024, "8 iterations: %llu bytes, 64: %llu bytes", (unsigned long long)few,
              (unsigned long long)many);
}
