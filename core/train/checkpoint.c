#include "core/train/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/data/safetensors.h"

enum { KINDS = 3, NAME = DEQ_PARAM_NAME + 16 };
static const char *const prefix[KINDS] = {"", "adam.m.", "adam.v."};

enum deq_rc deq_checkpoint_save(const char *path, const struct deq_weights *w, const float *m, const float *v,
                                const struct deq_progress *p, struct deq_err *err)
{
    const size_t n = w->n_params;
    struct deq_tensor_out *out = DEQ_NEW_ARRAY(struct deq_tensor_out, KINDS * n);
    char(*names)[NAME] = deq_alloc_array(KINDS * n, NAME);
    enum deq_rc rc;
    if (!out || !names) {
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to write it", path);
        goto out;
    }
    const float *const data[KINDS] = {w->data, m, v};
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
    char step[32], tokens[32], seconds[40], skipped[32];
    snprintf(step, sizeof step, "%llu", (unsigned long long)p->step);
    snprintf(tokens, sizeof tokens, "%llu", (unsigned long long)p->tokens);
    snprintf(seconds, sizeof seconds, "%.3f", p->seconds);
    snprintf(skipped, sizeof skipped, "%llu", (unsigned long long)p->skipped);
    const char *const meta[] = {"format", "deq_checkpoint", "step", step, "tokens", tokens, "seconds", seconds, "skipped", skipped, NULL};
    rc = deq_safetensors_write(path, out, KINDS * n, meta, err);
out:
    deq_free(out);
    deq_free(names);
    return rc;
}

enum deq_rc deq_checkpoint_load(const char *path, struct deq_weights *w, float *m, float *v, struct deq_progress *ret, struct deq_err *err)
{
    struct deq_safetensors *f;
    enum deq_rc rc = deq_safetensors_open(path, &f, err);
    if (rc)
        return rc;
    float *const data[KINDS] = {w->data, m, v};
    const char *meta[4];
    static const char *const keys[4] = {"step", "tokens", "seconds", "skipped"};
    for (size_t i = 0; i < 4 && !rc; i++)
        if (!(meta[i] = deq_safetensors_meta(f, keys[i])))
            rc = deq_fail(err, DEQ_EFORMAT, "%s: __metadata__.%s: missing; not a training checkpoint", path, keys[i]);
    if (!rc && deq_safetensors_count(f) != KINDS * w->n_params)
        rc = deq_fail(err, DEQ_EFORMAT, "%s: %zu tensors, the recipe's model has %zu", path, deq_safetensors_count(f), KINDS * w->n_params);
    for (size_t k = 0; k < KINDS && !rc; k++)
        for (size_t i = 0; i < w->n_params && !rc; i++) {
            const struct deq_param *p = &w->params[i];
            char name[NAME];
            snprintf(name, sizeof name, "%s%s", prefix[k], p->name);
            const struct deq_tensor *t = deq_safetensors_find(f, name);
            if (!t || t->dtype != DEQ_F32 || t->n_dims != (p->rows ? 2u : 1u) || t->shape[0] != (p->rows ? p->rows : p->cols) ||
                t->count != p->count)
                rc = deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: missing or not the shape that the recipe gives", path, name);
            else
                rc = deq_tensor_to_f32(f, t, data[k] + p->offset, err);
        }
    if (!rc)
        *ret = (struct deq_progress){.step = strtoull(meta[0], NULL, 10),
                                     .tokens = strtoull(meta[1], NULL, 10),
                                     .seconds = strtod(meta[2], NULL),
                                     .skipped = strtoull(meta[3], NULL, 10)};
    deq_safetensors_close(f);
    return rc;
}
