#include "tests/unit/training.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/rng.h"

const struct deq_transformer_arch training_arch = {
    .base = {.kind = &deq_transformer_kind, .vocab = {.size = 29, .d_model = 24, .eos_id = 0}, .predictor_hidden = 20,
             .serving = {.row_window = 4}},
    .n_head = 2, .d_head = 12, .d_inner = 32, .n_block = 1, .attn_window = 16,
    .norm = DEQ_NORM_PRE, .norm_affine = true, .inject_residual = true, .final_norm = true, .norm_eps = 1e-5f};

struct deq_weights *zero_weights(void)
{
    struct deq_weights *w = NULL;
    CHECK(deq_weights_new(&training_arch.base, &w, NULL) == DEQ_OK);
    return w;
}

struct deq_weights *contractive_weights(void)
{
    struct deq_weights *w = zero_weights();
    deq_train_init(w, 0, 3);
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        const bool shrink = p->role == DEQ_ROLE_RESIDUAL_OUT || strstr(p->name, "ffn_norm.weight");
        for (size_t j = 0; j < p->count; j++) {
            if (shrink)
                w->data[p->offset + j] *= 0.5f;
            else if (!p->rows && p->role == DEQ_ROLE_BIAS)
                w->data[p->offset + j] = 0.1f * (float)deq_rng_normal(4, i, j); /* biases that are not zero */
        }
    }
    return w;
}

void random_batch(uint32_t *tokens, uint32_t *targets, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        tokens[i] = (uint32_t)deq_rng_below(8, 0, i, training_arch.base.vocab.size);
        targets[i] = (uint32_t)deq_rng_below(8, 1, i, training_arch.base.vocab.size);
    }
}

void assign_recipe(struct deq_recipe *r, const char *text)
{
    struct deq_err err;
    CHECK_MSG(!deq_opt_assign(&r->table, r, text, &err), "%s", err.text);
}

struct deq_recipe *small_recipe(uint32_t steps)
{
    static const char *const options[] = {
        "model.hidden_size=32", "model.heads=2", "model.head_dim=16", "model.inner_size=48",
            "model.attention_window=32",
        "data.train=sample.txt", "data.valid=sample.txt", "data.vocab_size=300",
        "train.seq_len=32", "train.batch=4", "train.micro_batch=2", "train.optimizer=muon", "train.dropout=0.1",
            "train.warmup=2",
        "train.shallow_steps=4", "train.shallow_depth=2", "train.eval_every=0", "train.checkpoint_every=0",
        "predictor.hidden_size=16", "predictor.steps=3"};
    struct deq_recipe *r = NULL;
    CHECK(deq_recipe_new(&deq_transformer_kind, &r, NULL) == DEQ_OK);
    for (size_t i = 0; i < DEQ_COUNT(options); i++)
        assign_recipe(r, options[i]);
    r->steps = steps;
    return r;
}

struct deq_recipe *plain_recipe(uint32_t steps)
{
    struct deq_recipe *r = small_recipe(steps);
    r->predictor_hidden = r->predictor_steps = 0;
    r->serve_warm = DEQ_WARM_PREVIOUS;
    return r;
}

char *read_in(const char *dir, const char *name, size_t *len)
{
    char path[512], *data = NULL;
    deq_io_join(path, sizeof path, dir, name);
    CHECK(deq_io_read(path, 1 << 28, &data, len, NULL) == DEQ_OK);
    return data;
}

void remove_tree(const char *dir)
{
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    CHECK(system(cmd) == 0);
}

void write_sample(const char *dir, size_t n)
{
    char path[512];
    size_t len = 0;
    char *text = read_in("tests/golden/tokenizer", "sample.txt", &len);
    deq_io_join(path, sizeof path, dir, "sample.txt");
    REQUIRE(len > n);
    CHECK(!deq_io_replace(path, &(struct deq_part){text, n}, 1, NULL));
    deq_free(text);
}
