/* The architecture that a recipe describes: vocabulary, ties, and what config.json recommends for serving. */
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/train/recipe.h"

/* How a network of a fixed depth is served: every level an evaluation of the one below. */
static void serve_explicit(const struct deq_recipe *r, struct deq_arch *a)
{
    a->predictor_hidden = 0;
    a->serving = (struct deq_serving){.solver = deq_solver_defaults(), .row_window = 1,
                                      .warm = deq_arch_proposes(a) ? DEQ_WARM_PROPOSAL : DEQ_WARM_ZERO};
    a->serving.solver.method = DEQ_PICARD;
    a->serving.solver.tol = 0;
    a->serving.solver.max_iter = r->max_iter;
}

/* model.cutoffs, in their order: ranges are the architecture's to check. */
static enum deq_rc take_cutoffs(const char *list, struct deq_vocab *v, struct deq_err *err)
{
    v->n_cutoffs = 0;
    for (const char *s = list; *s; s += strcspn(s, "\n"), s += *s == '\n') {
        char *end;
        const unsigned long id = *s >= '0' && *s <= '9' ? strtoul(s, &end, 10) : 0;
        if (!id || (*end && *end != '\n') || id > UINT32_MAX)
            return deq_fail(err, DEQ_EINVAL, "model.cutoffs: \"%.*s\" is not an id above 0", (int)strcspn(s, "\n"), s);
        if (v->n_cutoffs == DEQ_CUTOFFS_MAX)
            return deq_fail(err, DEQ_EINVAL, "model.cutoffs: more than %d", DEQ_CUTOFFS_MAX);
        v->cutoffs[v->n_cutoffs++] = (uint32_t)id;
    }
    return DEQ_OK;
}

static enum deq_rc take_ties(const char *list, struct deq_vocab *v, struct deq_err *err)
{
    unsigned n = 0;
    memset(v->proj_untied, 0, sizeof v->proj_untied);
    for (const char *s = list; *s; s += strcspn(s, "\n"), s += *s == '\n', n++) {
        const size_t len = strcspn(s, "\n");
        const bool is_false = len == 5 && !strncmp(s, "false", 5);
        if (!is_false && (len != 4 || strncmp(s, "true", 4)))
            return deq_fail(err, DEQ_EINVAL, "model.tie_projections: \"%.*s\" is not true or false", (int)len, s);
        if (n < deq_clusters(v))
            v->proj_untied[n] = is_false;
    }
    if (n && n != deq_clusters(v))
        return deq_fail(err, DEQ_EINVAL, "model.tie_projections: %u of them, but the vocabulary has %u clusters "
                        "(model.cutoffs)", n, deq_clusters(v));
    return DEQ_OK;
}

/* What config.json recommends: the model's own that the run starts from, or the kind's; and the recipe's keys. */
static void take_serving(const struct deq_recipe *r, struct deq_arch *a)
{
    if (!r->of_model) {
        a->serving = (struct deq_serving){.solver = deq_solver_defaults(), .row_window = DEQ_ROW_WINDOW};
        if (a->kind->serving)
            a->kind->serving(a, &a->serving);
    }
    if (r->serve_window) {
        a->serving.row_window = r->serve_window;
        a->serving.prefill_window = 0;
    }
    a->predictor_hidden = r->predictor_hidden;
    a->serving.warm = r->serve_warm;
    a->serving.solver.method = r->serve_solver;
    a->serving.solver.tol = r->serve_tol;
    a->serving.solver.max_iter = r->serve_max_iter;
    a->serving.solver.memory = r->serve_memory;
    if (r->grad == DEQ_RECIPE_EXPLICIT)
        serve_explicit(r, a);
}

enum deq_rc deq_recipe_arch(const struct deq_recipe *r, uint32_t tokens, struct deq_arch **ret, struct deq_err *err)
{
    struct deq_arch *a = deq_arch_copy(deq_recipe_model(r));
    if (!a)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the architecture");
    a->vocab.size = r->of_model ? r->vocab_size : tokens;
    a->vocab.eos_id = r->of_model ? a->vocab.eos_id : 0;
    a->vocab.head_untied = !r->tie_embeddings;
    take_serving(r, a);
    enum deq_rc rc = take_cutoffs(r->cutoffs, &a->vocab, err);
    if (!rc)
        rc = take_ties(r->tie_projections, &a->vocab, err);
    if (!rc)
        rc = deq_arch_check(a, "model", err);
    if (rc)
        deq_free(a);
    else
        *ret = a;
    return rc;
}
