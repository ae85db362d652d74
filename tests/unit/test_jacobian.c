/* core/engine/jacobian.c: the radius that is told is that of the cell, by its closed form or its own vector-Jacobian
 * products; asking for it changes no state, and company changes no bit of it. */
#include <math.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/cell/config.h"
#include "core/cell/seq.h"
#include "core/math/kern.h"
#include "tests/unit/answers.h"
#include "tests/unit/test.h"

enum { PRODUCTS = 32 };

/* What the last PROMPT event told. */
struct told {
    size_t D;
    float z[512];
    float radius, residual;
    uint32_t evaluations;
};

static enum deq_verdict record_told(void *ctx, const struct deq_event *e)
{
    struct told *t = ctx;
    if (e->kind != DEQ_EVENT_PROMPT)
        return DEQ_CONTINUE;
    memcpy(t->z, e->state, t->D * sizeof(float));
    t->radius = e->spectral_radius;
    t->residual = e->residual;
    t->evaluations = e->evaluations;
    return DEQ_CONTINUE;
}

static struct deq_request asking(struct deq_request q, uint32_t products, struct told *t)
{
    q.states = DEQ_STATES_LAST;
    q.products = products;
    q.event = record_told;
    q.ctx = t;
    return q;
}

static void run(struct deq_engine *e, const struct deq_request *q)
{
    CHECK(deq_submit(e, q, NULL, NULL) == DEQ_OK);
    run_all(e);
}

TEST(jacobian_of_the_toy_cell)
{
    static const uint32_t prompt[7] = {1, 5, 9, 2, 2, 23, 7};
    static const float rhos[] = {0, 0.3f, 0.9f};
    for (size_t i = 0; i < DEQ_COUNT(rhos); i++)
        for (uint32_t window = 1; window <= 4; window *= 4) {
            struct answer a = {0};
            struct told plain = {.D = 24}, told = plain;
            struct deq_engine *e =
                toy_engine(&(struct deq_toy){.dim = 24, .rho = rhos[i], .coupling = 0.5f}, 1, 1, NULL);
            REQUIRE(e);
            struct deq_request q = toy_request(prompt, 7, 0, &a);
            q.solve.window = window;
            struct deq_request without = asking(q, 0, &plain), with = asking(q, PRODUCTS, &told);
            run(e, &without);
            const uint64_t rows = deq_engine_stats(e).rows;
            run(e, &with);
            CHECK(isnan(plain.radius));
            /* a step of 2^-9 of the state, whose numbers are rounded by 2^-24 of themselves */
            CHECK_MSG(fabsf(told.radius - rhos[i]) < 1e-4f, "rho %g: %g", (double)rhos[i], (double)told.radius);
            CHECK(!memcmp(plain.z, told.z, sizeof plain.z) && told.evaluations == plain.evaluations &&
                  told.residual == plain.residual);
            CHECK(rhos[i] == 0 || deq_engine_stats(e).rows - rows == rows + PRODUCTS + 2);
            deq_engine_free(e);
        }
}

/* The same by the power method on J', from products with the block of the last position. */
static double radius_by_vjps(const char *dir, const uint32_t *tokens, size_t T)
{
    enum { SOLVED = 400, PRODUCTS_THERE = 400 };
    char path[128];
    struct deq_arch *arch = NULL;
    struct deq_weights *w = NULL;
    struct deq_seq *s = NULL;
    snprintf(path, sizeof path, "%s/config.json", dir);
    CHECK(!deq_config_load(path, &arch, NULL));
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    CHECK(!deq_weights_load(path, arch, false, &w, NULL) &&
          !deq_seq_new(arch, &(struct deq_seq_shape){.b = 1, .t = T, .n_tapes = 1}, &s, NULL));
    const size_t S = s->state_dim, at = (T - 1) * S;
    float *z = DEQ_NEW_ARRAY(float, T * S), *d = DEQ_NEW_ARRAY(float, T * S);
    s->ops->begin(s, w, tokens, NULL);
    deq_seq_start(s, z);
    for (int i = 0; i < SOLVED; i++)
        s->ops->forward(s, 0, z, z);
    for (size_t i = 0; i < S; i++)
        d[at + i] = (float)deq_rng_normal(6, 0, i);
    double log_growth = 0;
    for (int i = 0; i < PRODUCTS_THERE; i++) {
        memset(d, 0, at * sizeof *d);
        const float before = sqrtf(deq_kern()->dot(d + at, d + at, S));
        deq_kern()->scale(d + at, 1 / before, S);
        s->ops->vjp(s, 0, d, d, NULL);
        log_growth += i < PRODUCTS_THERE / 2 ? 0 : log(sqrt((double)deq_kern()->dot(d + at, d + at, S)));
    }
    deq_free(z);
    deq_free(d);
    deq_seq_free(s);
    deq_weights_free(w);
    deq_free(arch);
    return exp(log_growth / (PRODUCTS_THERE / 2));
}

static void against_vjps(const char *dir, enum deq_class numeric)
{
    struct deq_model *m = model_in(dir, numeric);
    REQUIRE(m);
    struct deq_tokens p = encode_text(m, "First Citizen: We are accounted poor citizens");
    struct told told = {.D = deq_model_info(m).state_dim}, again = told;
    struct answer a, beside = {0};
    struct deq_engine *e = tiny_engine(m, 2, 3);
    REQUIRE(e && told.D <= DEQ_COUNT(told.z));
    p.n = DEQ_MIN(p.n, (size_t)20);
    struct deq_request q = asking(tiny_request(m, &p, 0, &a), PRODUCTS, &told);
    struct deq_request other = tiny_request(m, &p, 40, &beside);
    q.solve.tol = numeric == DEQ_CLASS_FLOAT32 ? 1e-5f : 1e-3f;
    q.solve.max_iter = 200;
    run(e, &q);
    const double expected = radius_by_vjps(dir, p.ids, p.n);
    /* 16 steps away from a random vector, and 16 that are measured, with what bends f within a step */
    CHECK_MSG(fabs((double)told.radius - expected) < 0.05 * expected, "%s: %g, by products with J' %g", dir,
              (double)told.radius, expected);
    /* at a state that is found in the step in which what is before it becomes final, which of a trellis network is
     * another than the one that it was found behind */
    struct told loose = told, plain = told;
    struct deq_request wide = q, without;
    wide.ctx = &loose;
    wide.solve.tol = 1e-2f;
    wide.solve.window = 8;
    without = asking(wide, 0, &plain);
    run(e, &wide);
    run(e, &without);
    /* and J has moved with the state */
    CHECK_MSG(fabs((double)loose.radius - expected) < 0.07 * expected, "%s, to 1e-2: %g, by products with J' %g", dir,
              (double)loose.radius, expected);
    CHECK(!memcmp(loose.z, plain.z, sizeof plain.z) && loose.evaluations == plain.evaluations);
    q.ctx = &again;
    CHECK(deq_submit(e, &other, NULL, NULL) == DEQ_OK);
    run(e, &q);
    CHECK(!memcmp(told.z, again.z, sizeof told.z) && told.radius == again.radius);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

TEST(jacobian_of_the_transformer) { against_vjps(TINY, DEQ_CLASS_FLOAT32); }
TEST(jacobian_of_the_trellis_network) { against_vjps(TINY_TRELLIS, DEQ_CLASS_FLOAT32); }
TEST(jacobian_of_the_looped_model) { against_vjps(TINY_LOOPED, DEQ_CLASS_FLOAT32); }
TEST(jacobian_in_integers) { against_vjps(TINY, DEQ_CLASS_INT8); }
