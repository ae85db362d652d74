/* Training while memory, files and threads fail: it ends with the reason; what it leaves is a checkpoint that goes on
 * to the same weights, or none, and no directory that looks trained and is not. */
#include <stdlib.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "tests/fault/walk.h"
#include "tests/unit/scratch.h"
#include "tests/unit/training.h"

struct run {
    struct deq_recipe *recipe;
    struct deq_train_opts opts; /* out_dir: the walked run's */
    char *model;                /* of an undisturbed run */
    size_t n;
};

static bool model_is_good(const struct run *r)
{
    char path[512], *data = NULL;
    size_t n = 0;
    deq_io_join(path, sizeof path, r->opts.out_dir, "model.safetensors");
    if (deq_io_read(path, 1 << 26, &data, &n, NULL))
        return false;
    const bool ok = n == r->n && !memcmp(data, r->model, n);
    deq_free(data);
    return ok;
}

static bool has(const struct run *r, const char *name)
{
    char path[512];
    deq_io_join(path, sizeof path, r->opts.out_dir, name);
    return deq_io_exists(path);
}

static bool train(void *ctx)
{
    const struct run *r = ctx;
    struct deq_err err = {0};
    const struct deq_train_hooks none = {0};
    struct deq_train_opts o = r->opts;
    walk_arm();
    const enum deq_rc rc = deq_train_run(r->recipe, &o, &none, &err);
    walk_disarm();
    CHECK_MSG(!rc || walk_expects(rc), "%d %s", rc, err.text);
    CHECK(!has(r, "model.safetensors") || model_is_good(r));
    CHECK(!rc || !has(r, "config.json") || model_is_good(r));
    if (rc) { /* by hand, as somebody would who has read the message */
        o.resume = has(r, "checkpoint.safetensors");
        CHECK_MSG(!deq_train_run(r->recipe, &o, &none, &err), "after a fault: %s", err.text);
    }
    CHECK(model_is_good(r));
    o.resume = true;
    CHECK_MSG(!deq_train_run(r->recipe, &o, &none, &err), "the last checkpoint: %s", err.text);
    remove_tree(o.out_dir);
    return !rc;
}

/* Of a run that was stopped behind its first step. */
static bool resume(void *ctx)
{
    struct run *r = ctx;
    struct deq_err err = {0};
    const struct deq_train_hooks none = {0};
    struct deq_train_opts o = r->opts;
    const uint32_t steps = r->recipe->steps;
    r->recipe->steps = 1;
    CHECK(!deq_train_run(r->recipe, &o, &none, &err));
    r->recipe->steps = steps;
    o.resume = true;
    walk_arm();
    const enum deq_rc rc = deq_train_run(r->recipe, &o, &none, &err);
    walk_disarm();
    CHECK_MSG(!rc || walk_expects(rc), "%d %s", rc, err.text);
    if (rc)
        CHECK_MSG(!deq_train_run(r->recipe, &o, &none, &err), "after a fault: %s", err.text);
    CHECK(model_is_good(r));
    remove_tree(o.out_dir);
    return !rc;
}

TEST(fault_training)
{
    char out[300];
    REQUIRE(scratch_begin());
    write_sample(scratch_dir(), 600);
    snprintf(out, sizeof out, "%s", scratch_path("out"));
    struct run r = {.recipe = plain_recipe(2),
                    .opts = {.data_dir = scratch_dir(), .out_dir = out, .threads = 2}};
    static const char *const smaller[] = {"data.vocab_size=264", "train.shallow_steps=1", "train.checkpoint_every=1",
                                          "model.hidden_size=16", "model.head_dim=8", "model.inner_size=16",
                                          "train.seq_len=16", "train.batch=2", "train.micro_batch=1"};
    for (size_t i = 0; i < DEQ_COUNT(smaller); i++)
        assign_recipe(r.recipe, smaller[i]);
    struct deq_err err = {0};
    const struct deq_train_hooks none = {0};
    CHECK_MSG(!deq_train_run(r.recipe, &r.opts, &none, &err), "%s", err.text);
    r.model = read_in(out, "model.safetensors", &r.n);
    remove_tree(out);
    walk("train", WALK_ALLOC | WALK_FILES | WALK_THREAD, train, &r);
    walk("resume training", WALK_ALLOC | WALK_FILES | WALK_THREAD, resume, &r);
    deq_free(r.model);
    deq_recipe_free(r.recipe);
    scratch_end("sample.txt", NULL);
}
