/* The weights that a run begins with: drawn, or those of a model that is there, of the authors' code too after an
 * import. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/rng.h"
#include "core/data/safetensors.h"
#include "core/train/train_impl.h"

/* Matrices N(0, 1/fan_in), the two that write into the residual stream smaller, gains 1, everything else
 * 0. With a tied head and E ~ N(0, 1/D) embeddings have unit variance after the sqrt(D) and logits of a
 * normed state have variance 1; with a projection P too, of E ~ N(0, 1/E_c) and P ~ N(0, 1/D). */
void deq_train_init(struct deq_weights *w, size_t from, uint64_t seed)
{
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        if (p->offset < from || p->role == DEQ_ROLE_FIXED)
            continue;
        const double fan_in = sqrt((double)(p->role == DEQ_ROLE_PROJECTION ? p->rows : p->cols));
        const double std = p->role == DEQ_ROLE_RESIDUAL_OUT ? 0.5 / fan_in
                           : deq_role_is_matrix(p->role)    ? 1 / fan_in
                                                            : 0;
        for (size_t j = 0; j < p->count; j++)
            w->data[p->offset + j] = p->role == DEQ_ROLE_GAIN ? 1.0f
                                     : std > 0                ? (float)(std * deq_rng_normal(seed, 1 + i, j))
                                                              : 0.0f;
    }
}

/* --- From a model --- */

enum { NAMED = 3 }; /* tensors of a list that are told by name */

/* "a, b, c and 4 more" */
struct list {
    char text[NAMED * (DEQ_PARAM_NAME + 60) + 32];
    size_t n;
};

static void add(struct list *l, const char *what)
{
    const size_t have = strlen(l->text);
    if (l->n++ < NAMED)
        snprintf(l->text + have, sizeof l->text - have, "%s%s", have ? ", " : "", what);
}

/* What a message says of a list, behind what it says already. */
static void tell(char *text, size_t cap, const char *what, const struct list *l)
{
    const size_t have = strlen(text);
    if (!l->n)
        return;
    const int n = snprintf(text + have, cap - have, "%s%s %s", have ? "; " : "", what, l->text);
    if (l->n > NAMED && n > 0 && (size_t)n < cap - have)
        snprintf(text + have + n, cap - have - (size_t)n, " and %zu more", l->n - NAMED);
}

static bool is_predictors(const char *name)
{
    return !strncmp(name, "predictor.", strlen("predictor."));
}

/* Whether t is what p needs; if not, which shapes the two have. */
static bool fits(const struct deq_param *p, const struct deq_tensor *t, char what[DEQ_PARAM_NAME + 60])
{
    const uint64_t shape[2] = {p->rows ? p->rows : p->cols, p->cols};
    const unsigned n_dims = p->rows ? 2 : 1;
    char want[24], got[24];
    if (t->n_dims == n_dims && !memcmp(t->shape, shape, n_dims * sizeof *shape))
        return true;
    deq_shape_text(n_dims, shape, want, sizeof want);
    deq_shape_text(t->n_dims, t->shape, got, sizeof got);
    snprintf(what, DEQ_PARAM_NAME + 60, "%s %s, not %s", p->name, got, want);
    return false;
}

/* Everything that stands between the file and w, in one message. */
static enum deq_rc compare(const char *path, const struct deq_safetensors *f, const struct deq_weights *w, bool fitted,
                           struct deq_err *err)
{
    struct list lacking = {0}, surplus = {0}, other = {0};
    char what[DEQ_PARAM_NAME + 60], text[sizeof err->text] = "";
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        const struct deq_tensor *t = deq_safetensors_find(f, p->name);
        if (is_predictors(p->name) && fitted)
            continue;
        if (!t)
            add(&lacking, p->name);
        else if (!fits(p, t, what))
            add(&other, what);
    }
    for (size_t i = 0; i < deq_safetensors_count(f); i++) {
        const char *name = deq_safetensors_at(f, i)->name;
        bool known = is_predictors(name);
        for (size_t j = 0; j < w->n_params && !known; j++)
            known = !strcmp(name, w->params[j].name);
        if (!known)
            add(&surplus, name);
    }
    tell(text, sizeof text, "the recipe's model has no place for", &surplus);
    tell(text, sizeof text, "it needs", &lacking);
    tell(text, sizeof text, "of other shapes are", &other);
    return text[0] ? deq_fail(err, DEQ_EINVAL, "%s does not fit the recipe: %s", path, text) : DEQ_OK;
}

enum deq_rc deq_train_init_from(const char *dir, struct deq_weights *w, bool fitted, struct deq_err *err)
{
    char path[4096], what[DEQ_PARAM_NAME + 60];
    struct deq_safetensors *f = NULL;
    if (!deq_io_join(path, sizeof path, dir, "model.safetensors"))
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", dir);
    enum deq_rc rc = deq_safetensors_open(path, &f, err);
    if (!rc)
        rc = compare(path, f, w, fitted, err);
    for (size_t i = 0; i < w->n_params && !rc; i++) {
        const struct deq_param *p = &w->params[i];
        const struct deq_tensor *t = deq_safetensors_find(f, p->name);
        if (t && fits(p, t, what))
            rc = deq_tensor_to_f32(f, t, w->data + p->offset, err);
    }
    deq_safetensors_close(f);
    return rc;
}
