/* core/train/train_step.c: the learning rate of a step. */
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
