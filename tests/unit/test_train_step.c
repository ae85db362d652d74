/* core/train/train_step.c: learning rate and tolerance of a step. */
#include "core/train/train.h"

#include "tests/unit/test.h"
#include "tests/unit/training.h"

TEST(train_schedule)
{
    struct deq_recipe *r;
    CHECK(deq_recipe_new(&deq_transformer_kind, &r, NULL) == DEQ_OK);
    r->lr = 1;
    r->lr_min = 0.1f;
    r->warmup = 10;
    r->steps = 110;
    CHECK(fabs((double)deq_train_lr(r, 0) - 0.1) < 1e-6 && fabs((double)deq_train_lr(r, 9) - 1) < 1e-6);
    CHECK(fabs((double)deq_train_lr(r, 60) - 0.55) < 1e-6 && fabs((double)deq_train_lr(r, 110) - 0.1) < 1e-6);
    r->schedule = DEQ_RECIPE_WSD;
    r->decay_share = 0.5f;
    CHECK((double)deq_train_lr(r, 54) == 1 && fabs((double)deq_train_lr(r, 110) - 0.1) < 1e-6);
    deq_recipe_free(r);
}

/* From tol_start at the first step through the equilibrium to tol at the last, as far again in every step. */
TEST(train_tolerance_schedule)
{
    struct deq_recipe *r;
    REQUIRE(!deq_recipe_new(&deq_transformer_kind, &r, NULL));
    r->steps = 25;
    r->shallow_steps = 4;
    r->tol = 1e-3f;
    for (uint64_t step = 0; step < 25; step++)
        CHECK_EQ(deq_train_widening(r, step), 1.0f);
    r->tol_start = 0.1f;
    /* floats: 1e-7 in the ratio, to the power of at most 1 */
    CHECK(fabs((double)deq_train_widening(r, 0) - 100) < 1e-4 && fabs((double)deq_train_widening(r, 4) - 100) < 1e-4);
    CHECK(fabs((double)deq_train_widening(r, 14) - 10) < 1e-5 && deq_train_widening(r, 24) == 1);
    r->steps = r->shallow_steps = 1; /* none goes through it */
    CHECK(isfinite(deq_train_widening(r, 0)));
    deq_recipe_free(r);
}
