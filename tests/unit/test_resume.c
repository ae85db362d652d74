/* core/train/resume.c: a run that goes on says what its recipe has changed, and does not become another one unasked. */
#include "core/train/train_impl.h"

#include <stdlib.h>

#include "core/base/mem.h"
#include "tests/unit/training.h"

struct told {
    char text[2000];
};

static void on_event(void *ctx, const struct deq_train_event *e)
{
    struct told *t = ctx;
    if (e->kind == DEQ_TRAIN_NOTE && strlen(t->text) + strlen(e->note) + 2 < sizeof t->text)
        strcat(strcat(t->text, e->note), "\n");
}

TEST(resume_names_changed_keys)
{
    char dir[] = "/tmp/deq-test-XXXXXX", out[64];
    REQUIRE(mkdtemp(dir) != NULL);
    snprintf(out, sizeof out, "%s/out", dir);
    write_sample(dir, 2000);
    struct deq_recipe *r = plain_recipe(2);
    assign_recipe(r, "train.shallow_steps=1");
    struct deq_err err;
    struct told told = {""};
    const struct deq_train_hooks hooks = {on_event, NULL, &told};
    struct deq_train_opts o = {.data_dir = dir, .out_dir = out, .threads = 1};
    CHECK_MSG(!deq_train_run(r, &o, &hooks, &err), "%s", err.text);
    o.resume = true;
    CHECK_MSG(!deq_train_run(r, &o, &hooks, &err), "%s", err.text);
    CHECK_MSG(!strstr(told.text, "changed recipe"), "%s", told.text);
    /* a run goes further, and is served otherwise */
    assign_recipe(r, "train.steps=3");
    assign_recipe(r, "train.checkpoint_every=2");
    assign_recipe(r, "serve.tol=0.125");
    CHECK_MSG(!deq_train_run(r, &o, &hooks, &err), "%s", err.text);
    CHECK_MSG(strstr(told.text, "goes on with a changed recipe: train.steps was 2, is 3; train.checkpoint_every was 0, "
                                "is 2; serve.tol was 0.01, is 0.125"), "%s", told.text);
    /* but is not solved otherwise, unless that is wanted */
    assign_recipe(r, "train.steps=4");
    assign_recipe(r, "solver.max_iter=12");
    assign_recipe(r, "train.lr=0.5");
    CHECK_EQ(deq_train_run(r, &o, &hooks, &err), DEQ_EINVAL);
    CHECK_MSG(strstr(err.text, "/out/checkpoint.safetensors began with another recipe: train.lr was 0.001, is 0.5; "
                               "solver.max_iter was 10, is 12. --new-recipe"), "%s", err.text);
    o.new_recipe = true;
    CHECK_MSG(!deq_train_run(r, &o, &hooks, &err), "%s", err.text);
    CHECK_MSG(strstr(told.text, "goes on as another run than it began: train.lr was 0.001, is 0.5; "), "%s", told.text);
    o.new_recipe = false; /* it is that run from now on */
    CHECK_MSG(!deq_train_run(r, &o, &hooks, &err), "%s", err.text);
    deq_recipe_free(r);
    remove_tree(dir);
}
