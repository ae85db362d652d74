#include "core/train/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/data/safetensors.h"

enum { KINDS = 3, SQUARES = 2, NAME = DEQ_PARAM_NAME + 16 };
#define FORMAT "deq_checkpoint"
#define COUNT_MAX ((uint64_t)1 << 53)
#define SECONDS_MAX 1e10 /* three centuries */
static const char *const prefix[KINDS] = {"", "adam.m.", "adam.v."};

/* What is not finite could not be read again: it must not take the place of what can. */
static enum deq_rc check_finite(const char *path, const struct deq_weights *w, const float *const data[KINDS],
                                uint64_t step, struct deq_err *err)
{
    for (size_t k = 0; k < KINDS; k++)
        for (size_t i = 0; i < w->n_params; i++) {
            const struct deq_param *p = &w->params[i];
            for (size_t j = 0; j < p->count; j++)
                if (!isfinite(data[k][p->offset + j]))
                    return deq_fail(err, DEQ_ENUMERIC, "%s: not replaced: after step %llu tensor %s%s is not finite",
                                    path, (unsigned long long)step, prefix[k], p->name);
        }
    return DEQ_OK;
}

enum deq_rc deq_checkpoint_save(const char *path, const struct deq_weights *w, const float *m, const float *v,
                                const struct deq_progress *p, const char *recipe, struct deq_err *err)
{
    const size_t n = w->n_params;
    struct deq_tensor_out *out = DEQ_NEW_ARRAY(struct deq_tensor_out, KINDS * n);
    char(*names)[NAME] = deq_alloc_array(KINDS * n, NAME);
    const float *const data[KINDS] = {w->data, m, v};
    enum deq_rc rc = check_finite(path, w, data, p->step, err);
    if (!rc && (!out || !names))
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to write it", path);
    if (rc)
        goto out;
    for (size_t k = 0; k < KINDS; k++)
        for (size_t i = 0; i < n; i++) {
            const struct deq_param *q = &w->params[i];
            snprintf(names[k * n + i], NAME, "%s%s", prefix[k], q->name);
            out[k * n + i] = (struct deq_tensor_out){.name = names[k * n + i],
                                                     .dtype = DEQ_F32,
                                                     .n_dims = q->rows ? 2 : 1,
                                                     .shape = {q->rows ? q->rows : q->cols, q->cols},
                                                     .data = data[k] + q->offset};
        }
    char step[32], tokens[32], seconds[40], cpu[40], skipped[32];
    snprintf(step, sizeof step, "%llu", (unsigned long long)p->step);
    snprintf(tokens, sizeof tokens, "%llu", (unsigned long long)p->tokens);
    snprintf(seconds, sizeof seconds, "%.3f", p->seconds);
    snprintf(cpu, sizeof cpu, "%.3f", p->cpu_seconds);
    snprintf(skipped, sizeof skipped, "%llu", (unsigned long long)p->skipped);
    const char *const meta[] = {"format", FORMAT, "step", step, "tokens", tokens, "seconds", seconds,
                                "cpu_seconds", cpu, "skipped", skipped, recipe ? "recipe" : NULL, recipe, NULL};
    rc = deq_safetensors_write(path, out, KINDS * n, meta, err);
out:
    deq_free(out);
    deq_free(names);
    return rc;
}

/* A number of the metadata: text in, at most max, nothing else. */
static enum deq_rc meta_number(const struct deq_safetensors *f, const char *path, const char *key, double max,
                               double *ret, struct deq_err *err)
{
    const char *text = deq_safetensors_meta(f, key);
    char *end = NULL;
    if (!text)
        return deq_fail(err, DEQ_EFORMAT, "%s: __metadata__.%s: missing; not a training checkpoint", path, key);
    /* strtod would take hexadecimal, too */
    const double x = *text >= '0' && *text <= '9' && !text[strspn(text, "0123456789.eE+-")] ? strtod(text, &end) : -1;
    if (!end || *end || !(x >= 0 && x <= max)) /* also nan */
        return deq_fail(err, DEQ_EFORMAT, "%s: __metadata__.%s: \"%.40s\" is not a number in 0..%.17g", path, key, text,
                        max);
    *ret = x;
    return DEQ_OK;
}

static enum deq_rc meta_count(const struct deq_safetensors *f, const char *path, const char *key, uint64_t max,
                              uint64_t *ret, struct deq_err *err)
{
    double x = 0;
    enum deq_rc rc = meta_number(f, path, key, (double)max, &x, err);
    if (rc)
        return rc;
    const char *text = deq_safetensors_meta(f, key);
    if (text[strspn(text, "0123456789")])
        return deq_fail(err, DEQ_EFORMAT, "%s: __metadata__.%s: \"%.40s\" is not a whole number", path, key, text);
    *ret = (uint64_t)x;
    return DEQ_OK;
}

static enum deq_rc read_progress(const struct deq_safetensors *f, const char *path, struct deq_progress *p,
                                 struct deq_err *err)
{
    const char *format = deq_safetensors_meta(f, "format");
    if (!format || strcmp(format, FORMAT))
        return deq_fail(err, DEQ_EFORMAT, "%s: __metadata__.format: expected \"" FORMAT "\"; not a training checkpoint",
                        path);
    enum deq_rc rc = meta_count(f, path, "step", UINT32_MAX, &p->step, err); /* a recipe's steps are fewer */
    if (!rc)
        rc = meta_count(f, path, "tokens", COUNT_MAX, &p->tokens, err);
    if (!rc)
        rc = meta_count(f, path, "skipped", p->step, &p->skipped, err);
    if (!rc)
        rc = meta_number(f, path, "seconds", SECONDS_MAX, &p->seconds, err);
    if (!rc && deq_safetensors_meta(f, "cpu_seconds")) /* older files lack it */
        rc = meta_number(f, path, "cpu_seconds", SECONDS_MAX, &p->cpu_seconds, err);
    return rc;
}

/* Second moments are means of squares. */
static enum deq_rc check_squares(const char *path, const char *name, const float *v, size_t n, struct deq_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (v[i] < 0)
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: element %zu is %g, expected no negative number", path,
                            name, i, (double)v[i]);
    return DEQ_OK;
}

enum deq_rc deq_checkpoint_load(const char *path, struct deq_weights *w, float *m, float *v, struct deq_progress *ret,
                                struct deq_err *err)
{
    struct deq_safetensors *f;
    struct deq_progress p = {0};
    enum deq_rc rc = deq_safetensors_open(path, &f, err);
    if (rc)
        return rc;
    float *const data[KINDS] = {w->data, m, v};
    rc = read_progress(f, path, &p, err);
    if (!rc && deq_safetensors_count(f) != KINDS * w->n_params)
        rc = deq_fail(err, DEQ_EFORMAT, "%s: %zu tensors, the recipe's model has %zu", path, deq_safetensors_count(f),
                      KINDS * w->n_params);
    for (size_t k = 0; k < KINDS && !rc; k++)
        for (size_t i = 0; i < w->n_params && !rc; i++) {
            const struct deq_param *q = &w->params[i];
            char name[NAME];
            snprintf(name, sizeof name, "%s%s", prefix[k], q->name);
            const struct deq_tensor *t = deq_safetensors_find(f, name);
            const bool fits = t && t->dtype == DEQ_F32 && t->n_dims == (q->rows ? 2u : 1u) &&
                              t->shape[0] == (q->rows ? q->rows : q->cols) && t->count == q->count;
            rc = fits ? deq_tensor_to_f32(f, t, data[k] + q->offset, err)
                      : deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: missing or not the shape that the recipe gives",
                                 path, name);
            if (!rc && k == SQUARES)
                rc = check_squares(path, name, v + q->offset, q->count, err);
        }
    if (!rc)
        *ret = p;
    deq_safetensors_close(f);
    return rc;
}

enum deq_rc deq_checkpoint_recipe(const char *path, char **ret, struct deq_err *err)
{
    struct deq_safetensors *f;
    const enum deq_rc rc = deq_safetensors_open(path, &f, err);
    if (rc)
        return rc;
    const char *text = deq_safetensors_meta(f, "recipe");
    *ret = text ? deq_strdup(text) : NULL;
    deq_safetensors_close(f);
    return text && !*ret ? deq_fail(err, DEQ_ENOMEM, "%s: no memory for its recipe", path) : DEQ_OK;
}
