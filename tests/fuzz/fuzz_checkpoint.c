/* Checkpoints of training, of a model of a few numbers: what is taken is the file's, every number of it, finite, and no
 * second moment negative; written it is the same again. Input: the file. */
#include "core/train/checkpoint.h"

#include <math.h>

#include "core/base/mem.h"
#include "core/cell/config.h"
#include "core/data/safetensors.h"
#include "tests/fuzz/mutate.h"

static const char config[] =
    "{\"model_type\": \"deq_trellis\", \"vocab_size\": 3, \"hidden_size\": 2, \"state_size\": 3, "
    "\"deq\": {\"warm_start\": \"zero\"}}";

static struct deq_arch *arch;
static struct deq_weights *w;
static float *m, *v;

static void begin(void)
{
    struct deq_err err;
    if (w)
        return;
    if (deq_config_parse(config, strlen(config), "config", &arch, &err) || deq_weights_new(arch, &w, &err)) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    m = DEQ_NEW_ARRAY(float, w->n);
    v = DEQ_NEW_ARRAY(float, w->n);
    FUZZ_HOLDS(m && v);
}

/* Nothing else is there after a load. */
static void forget(void)
{
    for (size_t i = 0; i < w->n; i++)
        w->data[i] = m[i] = v[i] = NAN;
}

static void check_tensors(const uint8_t *data, size_t n)
{
    static const char *const before[] = {"", "adam.m.", "adam.v."};
    const float *const have[] = {w->data, m, v};
    struct deq_safetensors *f;
    struct deq_err err;
    char name[DEQ_PARAM_NAME + 16];
    FUZZ_HOLDS(!deq_safetensors_parse(data, n, "fuzz", &f, &err));
    FUZZ_HOLDS(deq_safetensors_count(f) == DEQ_COUNT(have) * w->n_params);
    for (size_t i = 0; i < DEQ_COUNT(have) * w->n_params; i++) {
        const struct deq_param *p = &w->params[i / DEQ_COUNT(have)];
        snprintf(name, sizeof name, "%s%s", before[i % DEQ_COUNT(have)], p->name);
        const struct deq_tensor *t = deq_safetensors_find(f, name);
        FUZZ_HOLDS(t && t->dtype == DEQ_F32 && t->count == p->count);
        FUZZ_HOLDS(!memcmp(data + t->offset, have[i % DEQ_COUNT(have)] + p->offset, t->bytes));
    }
    deq_safetensors_close(f);
}

static bool same(const struct deq_progress *x, const struct deq_progress *y)
{
    return x->step == y->step && x->tokens == y->tokens && x->skipped == y->skipped &&
           fabs(x->seconds - y->seconds) <= 0.0005 + 1e-15 * x->seconds &&
           fabs(x->cpu_seconds - y->cpu_seconds) <= 0.0005 + 1e-15 * x->cpu_seconds; /* three digits are written */
}

static void check(const struct deq_progress *p, const char *recipe)
{
    struct deq_progress again;
    struct deq_err err;
    char *recipe_again = NULL;
    FUZZ_HOLDS(p->step <= UINT32_MAX && p->skipped <= p->step && p->seconds >= 0 && p->cpu_seconds >= 0);
    for (size_t i = 0; i < w->n_params; i++)
        for (size_t k = w->params[i].offset; k < w->params[i].offset + w->params[i].count; k++)
            FUZZ_HOLDS(isfinite(w->data[k]) && isfinite(m[k]) && isfinite(v[k]) && v[k] >= 0);
    const char *path = fuzz_file("", 0);
    FUZZ_HOLDS(!deq_checkpoint_save(path, w, m, v, p, recipe, &err));
    FUZZ_HOLDS(!deq_checkpoint_load(path, w, m, v, &again, &err) && same(p, &again));
    FUZZ_HOLDS(!deq_checkpoint_recipe(path, &recipe_again, &err));
    FUZZ_HOLDS(!recipe == !recipe_again && (!recipe || !strcmp(recipe, recipe_again)));
    deq_free(recipe_again);
}

FUZZ(checkpoint)
{
    struct deq_progress p;
    struct deq_err err;
    char *recipe = NULL;
    begin();
    const char *path = fuzz_file(data, n);
    const enum deq_rc rc_recipe = deq_checkpoint_recipe(path, &recipe, &err);
    if (rc_recipe)
        fuzz_check_err(rc_recipe, &err);
    forget();
    const enum deq_rc rc = deq_checkpoint_load(path, w, m, v, &p, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
    } else {
        check_tensors(data, n);
        check(&p, recipe);
    }
    deq_free(recipe);
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
/* One that a run leaves. */
static size_t begin_with(uint8_t *data, size_t max)
{
    const struct deq_progress p = {.step = 7, .tokens = 1000, .seconds = 1.5, .cpu_seconds = 2.5, .skipped = 1};
    struct deq_err err;
    begin();
    const char *path = fuzz_file("", 0);
    memset(w->data, 0, w->n * sizeof *v);
    memset(m, 0, w->n * sizeof *m);
    memset(v, 0, w->n * sizeof *v);
    FUZZ_HOLDS(!deq_checkpoint_save(path, w, m, v, &p, "train:\n  steps: 10\n", &err));
    FILE *f = fopen(path, "r");
    FUZZ_HOLDS(f);
    const size_t n = fread(data, 1, max, f);
    fclose(f);
    return n;
}

FUZZ_MUTATOR
{
    uint64_t random = seed ^ 0xc4;
    if (n < 64 || fuzz_next(&random) % 8 == 0)
        n = begin_with(data, max);
    return fuzz_mutate_safetensors(data, n, max, seed, false);
}
#endif
