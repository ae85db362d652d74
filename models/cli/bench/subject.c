#include "models/cli/bench/subject.h"

#include <stdio.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/cell/config.h"
#include "models/cli/bench/scratch.h"
#include "models/cli/bench/shape.h"

enum deq_rc bench_subject_find(const char *name, struct deq_err *err)
{
    if (bench_shape_find(name) || deq_io_is_dir(name))
        return DEQ_OK;
    return deq_fail(err, DEQ_ENOTFOUND, "%s: neither a shape (" BENCH_SHAPES ") nor a model directory",
                    *name ? name : "\"\"");
}

static enum deq_rc open_shape(const struct bench_shape *shape, int numeric, struct bench_subject *s,
                              struct deq_err *err)
{
    s->shape = true;
    s->arch = bench_shape_architecture(shape);
    if (!s->arch)
        return deq_fail(err, DEQ_ENOMEM, "no memory for shape %s", s->name);
    if (numeric != BENCH_CLASS_OWN)
        s->arch->serving.numeric = (enum deq_class)numeric;
    enum deq_rc rc = deq_arch_check(s->arch, s->name, err);
    if (!rc)
        rc = bench_scratch_open(s->dir, err);
    return rc ? rc : bench_shape_write(shape, s->arch, s->dir, err);
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
    struct deq_weights *table;
    const struct bench_shape *shape = bench_shape_find(name);
    enum deq_rc rc = shape ? open_shape(shape, numeric, &s, err) : open_dir(numeric, &s, err);
    if (!rc && !(rc = deq_weights_table(s.arch, &table, err))) {
        s.parameters = table->parameters;
        deq_weights_free(table);
    }
    if (rc)
        bench_subject_close(&s);
    else
        *ret = s;
    return rc;
}

enum deq_rc bench_subject_weights(struct bench_subject *s, struct deq_err *err)
{
    char path[sizeof s->dir + 32];
    deq_model_free(s->model);
    s->model = NULL;
    deq_io_join(path, sizeof path, s->dir, "model.safetensors");
    return s->weights ? DEQ_OK : deq_weights_load(path, s->arch, true, &s->weights, err);
}

enum deq_rc bench_subject_model(struct bench_subject *s, struct deq_err *err)
{
    deq_weights_free(s->weights);
    s->weights = NULL;
    return s->model ? DEQ_OK : deq_model_load(s->dir, &s->arch->serving.numeric, &s->model, err);
}

void bench_subject_close(struct bench_subject *s)
{
    deq_weights_free(s->weights);
    deq_model_free(s->model);
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
