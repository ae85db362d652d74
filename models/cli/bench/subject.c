#include "models/cli/bench/subject.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/cell/config.h"
#include "core/cell/transformer.h"
#include "core/text/wordlevel.h"
#include "models/cli/bench/scratch.h"

enum { WINDOW = 2048, SEED = 1 };

static const struct shape {
    const char *name;
    uint32_t vocab, d_model, n_head, d_head, d_inner;
    bool clusters;
} shapes[] = {
    {"S", 4096, 256, 8, 32, 1024, false},
    {"M", 8192, 512, 8, 64, 2048, false},
    {"W", 267735, 700, 10, 70, 48000, true},
};

/* --- Shapes --- */

static struct deq_arch *architecture(const struct shape *s)
{
    struct deq_arch *a = deq_arch_new(&deq_transformer_kind);
    if (!a)
        return NULL;
    struct deq_transformer_arch *t = (struct deq_transformer_arch *)a;
    a->vocab = (struct deq_vocab){.size = s->vocab, .d_model = s->d_model, .eos_id = -1, .head_bias = true};
    if (s->clusters) {
        const uint32_t cutoffs[] = {20000, 40000, 200000};
        a->vocab.n_cutoffs = DEQ_COUNT(cutoffs);
        memcpy(a->vocab.cutoffs, cutoffs, sizeof cutoffs);
        a->vocab.d_embed = s->d_model;
        a->vocab.div_val = 4;
        a->vocab.proj_untied[0] = true;
    }
    a->serving.solver.tol = 1e-3f;
    t->n_head = s->n_head;
    t->d_head = s->d_head;
    t->d_inner = s->d_inner;
    t->n_block = 1;
    t->attn_window = WINDOW;
    t->norm = DEQ_NORM_POST;
    t->norm_affine = true;
    return a;
}

/* Uniform numbers; a matrix of fan-in n and mean square s^2 / n gives outputs of s times its inputs' size. The cell's
 * own part is small beside the token's, which makes f a contraction. */
static void fill(struct deq_weights *w)
{
    static const double size[] = {[DEQ_ROLE_EMBED] = 1, [DEQ_ROLE_MATRIX] = 0.3, [DEQ_ROLE_RESIDUAL_OUT] = 0.5,
                                  [DEQ_ROLE_BIAS] = 0.1};
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        float *x = w->data + p->offset;
        const double top = sqrt(3) * size[p->role] / (deq_role_is_matrix(p->role) ? sqrt((double)p->cols) : 1);
        for (size_t j = 0; j < p->count; j++)
            x[j] = p->role == DEQ_ROLE_GAIN ? 1 : (float)(top * (2 * deq_rng_uniform(SEED, i, j) - 1));
    }
}

/* Writes the directory of an architecture with random weights. */
static enum deq_rc make(struct bench_subject *s, struct deq_err *err)
{
    char path[BENCH_SCRATCH_PATH];
    struct deq_weights *w = NULL;
    enum deq_rc rc = deq_arch_check(s->arch, s->name, err);
    if (!rc)
        rc = bench_scratch_open(s->dir, err);
    if (!rc)
        rc = deq_weights_new(s->arch, &w, err);
    if (!rc) {
        fill(w);
        bench_scratch_path(path, s->dir, "model.safetensors");
        rc = deq_weights_save(path, w, false, err);
    }
    bench_scratch_path(path, s->dir, "config.json");
    if (!rc)
        rc = deq_config_save(path, s->arch, NULL, err);
    bench_scratch_path(path, s->dir, "tokenizer.json");
    if (!rc)
        rc = deq_wordlevel_placeholder(s->arch->vocab.size, path, err);
    deq_weights_free(w);
    return rc;
}

/* --- Opening --- */

static const struct shape *find_shape(const char *name)
{
    for (size_t i = 0; i < DEQ_COUNT(shapes); i++)
        if (!strcmp(name, shapes[i].name))
            return &shapes[i];
    return NULL;
}

enum deq_rc bench_subject_find(const char *name, struct deq_err *err)
{
    if (find_shape(name) || deq_io_is_dir(name))
        return DEQ_OK;
    return deq_fail(err, DEQ_ENOTFOUND, "%s: neither a shape (S, M, W) nor a model directory", *name ? name : "\"\"");
}

static enum deq_rc open_shape(const struct shape *shape, int numeric, struct bench_subject *s, struct deq_err *err)
{
    s->shape = true;
    s->arch = architecture(shape);
    if (!s->arch)
        return deq_fail(err, DEQ_ENOMEM, "no memory for shape %s", shape->name);
    s->arch->serving.numeric = numeric == BENCH_CLASS_OWN ? DEQ_CLASS_FLOAT32 : (enum deq_class)numeric;
    return make(s, err);
}

static enum deq_rc open_dir(int numeric, struct bench_subject *s, struct deq_err *err)
{
    char config[sizeof s->dir + 32];
    if (snprintf(s->dir, sizeof s->dir, "%s", s->name) >= (int)sizeof s->dir)
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", s->name);
    deq_io_join(config, sizeof config, s->dir, "config.json");
    const enum deq_rc rc = deq_config_load(config, &s->arch, err);
    if (!rc && numeric != BENCH_CLASS_OWN)
        s->arch->serving.numeric = (enum deq_class)numeric;
    return rc;
}

enum deq_rc bench_subject_open(const char *name, int numeric, struct bench_subject *ret, struct deq_err *err)
{
    struct bench_subject s = {.name = name};
    char weights[sizeof s.dir + 32];
    const struct shape *shape = find_shape(name);
    enum deq_rc rc = shape ? open_shape(shape, numeric, &s, err) : open_dir(numeric, &s, err);
    if (!rc) {
        deq_io_join(weights, sizeof weights, s.dir, "model.safetensors");
        rc = deq_weights_load(weights, s.arch, true, &s.weights, err);
    }
    if (rc)
        bench_subject_close(&s);
    else
        *ret = s;
    return rc;
}

void bench_subject_close(struct bench_subject *s)
{
    deq_weights_free(s->weights);
    deq_free(s->arch);
    if (s->shape)
        bench_scratch_close(s->dir);
    *s = (struct bench_subject){0};
}

const char *bench_format_name(enum deq_format f)
{
    static const char *const names[DEQ_FORMAT_COUNT] = {[DEQ_FORMAT_F32] = "f32", [DEQ_FORMAT_BF16] = "bf16",
                                                        [DEQ_FORMAT_I16] = "i16", [DEQ_FORMAT_I8] = "i8"};
    return names[f];
}
