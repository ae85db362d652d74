/* The trellis network's kind: the keys of its configuration, the table of its tensors (models/FORMAT.md). */
#include <math.h>

#include "core/base/mem.h"
#include "core/cell/trellis.h"

#define AT(field) offsetof(struct deq_trellis_arch, field)

static const struct deq_opt config[] = {
    {"state_size", DEQ_OPT_U32, AT(state_size), 1, 1 << 14, NULL, NULL,
     "width H of the state; the head reads the last output_size of it"},
    {"kernel_size", DEQ_OPT_U32, AT(kernel_size), 2, DEQ_TAPS_MAX, "2", NULL,
     "taps of the convolution, the position itself included"},
    {"dilation", DEQ_OPT_U32, AT(dilation), 1, 1024, "1", NULL, "positions between taps on the state"},
    {"embed_scale", DEQ_OPT_BOOL, AT(embed_scale), 0, 1, "false", NULL,
     "embeddings are multiplied by sqrt(hidden_size)"},
    {"levels", DEQ_OPT_BOOL, AT(levels), 0, 1, "false", NULL,
     "an ordinary trellis network: max_iter levels instead of a fixed point"},
};

static const struct deq_opt recipe[] = {
    {"model.hidden_size", DEQ_OPT_U32, AT(base.vocab.d_model), 1, 16384, "256", NULL,
     "Width of embeddings, and of what the head reads of the state."},
    {"model.state_size", DEQ_OPT_U32, AT(state_size), 1, 1 << 14, "288", NULL,
     "Width H of the state, at least hidden_size."},
    {"model.kernel_size", DEQ_OPT_U32, AT(kernel_size), 2, DEQ_TAPS_MAX, "2", NULL,
     "Taps of the convolution, the position itself included."},
    {"model.dilation", DEQ_OPT_U32, AT(dilation), 1, 1024, "1", NULL, "Positions between taps on the state."},
    {"model.embed_scale", DEQ_OPT_BOOL, AT(embed_scale), 0, 1, "true", NULL,
     "Embeddings are multiplied by sqrt(hidden_size)."},
    {"model.levels", DEQ_OPT_BOOL, AT(levels), 0, 1, "false", NULL,
     "For train.grad explicit: an ordinary trellis network, in which c of the position before is the level below's."},
};

static enum deq_rc check(const struct deq_arch *a, const char *where, struct deq_err *err)
{
    const struct deq_trellis_arch *t = deq_trellis_arch(a);
    if (deq_vocab_out(&a->vocab) > t->state_size)
        return deq_fail(err, DEQ_EFORMAT, "%s: state_size: %u is less than the %zu that the head reads of it", where,
                        t->state_size, deq_vocab_out(&a->vocab));
    if (t->levels && a->serving.solver.tol > 0)
        return deq_fail(err, DEQ_EFORMAT, "%s: levels: a fixed number of them is asked for by deq.tol 0, not %g", where,
                        (double)a->serving.solver.tol);
    if (t->levels && (a->serving.solver.method != DEQ_PICARD || a->serving.solver.beta != 1))
        return deq_fail(err, DEQ_EFORMAT, "%s: levels: each is an evaluation of the one below, which is deq.solver "
                        "picard with deq.beta 1, not %s with %g", where, deq_solver_name(a->serving.solver.method),
                        (double)a->serving.solver.beta);
    return DEQ_OK;
}

static void walk(struct deq_weights *w)
{
    struct deq_trellis_weights *t = deq_trellis_weights(w);
    const size_t D = t->arch.base.vocab.d_model, H = t->arch.state_size;
    deq_vocabulary_walk(w, &t->vocabulary);
    for (unsigned j = 0; j < t->arch.kernel_size; j++)
        deq_weights_put(w, &(struct deq_put){&t->inject_w[j], DEQ_ROLE_EMBED, 4 * H, D, &t->packed.inject[j], NULL, 1},
                        "inject.%u.weight", j);
    deq_weights_put(w, &(struct deq_put){&t->inject_b, DEQ_ROLE_BIAS, 0, 4 * H, NULL, NULL, 1}, "inject.bias");
    for (unsigned j = 0; j < t->arch.kernel_size; j++)
        deq_weights_put(w, &(struct deq_put){&t->state_w[j], DEQ_ROLE_MATRIX, 4 * H, H, &t->packed.state[j], NULL, 4},
                        "state.%u.weight", j);
    deq_weights_put(w, &(struct deq_put){&t->state_b, DEQ_ROLE_BIAS, 0, 4 * H, NULL, NULL, 1}, "state.bias");
    deq_predictor_walk(w, &t->predictor, &t->arch.base.vocab);
}

static struct deq_weights *weights(const struct deq_arch *a)
{
    struct deq_trellis_weights *t = DEQ_NEW(struct deq_trellis_weights);
    if (!t)
        return NULL;
    t->arch = *deq_trellis_arch(a);
    t->vocabulary.shape = a->vocab;
    t->predictor = (struct deq_predictor){.hidden = a->predictor_hidden, .state_dim = deq_trellis_state(&t->arch),
                                          .scale = t->arch.embed_scale ? sqrtf((float)a->vocab.d_model) : 1};
    t->base.format = a->kind->model_type;
    t->base.walk = walk;
    return &t->base;
}

static const struct deq_predictor *predictor(const struct deq_weights *w)
{
    return &((const struct deq_trellis_weights *)w)->predictor;
}

const struct deq_kind deq_trellis_kind = {.model_type = "deq_trellis",
                                          .title = "trellis",
                                          .arch_size = sizeof(struct deq_trellis_arch),
                                          .config = {config, DEQ_COUNT(config)},
                                          .recipe = {recipe, DEQ_COUNT(recipe)},
                                          .check = check,
                                          .weights = weights,
                                          .predictor = predictor,
                                          .shape = deq_trellis_shape,
                                          .open = deq_trellis_open,
                                          .drops_weights = true};
