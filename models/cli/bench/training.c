#include "models/cli/bench/training.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/train/train.h"
#include "models/cli/bench/scratch.h"
#include "models/cli/cli.h"

enum { JAC_EVERY = 3, STEPS = 2 * JAC_EVERY, UNROLL = 2, DEPTH = 4 };

/* --- What is run --- */

static enum deq_rc make_recipe(const struct deq_arch *a, bool shallow, bool quick, struct deq_recipe **ret,
                               struct deq_err *err)
{
    static const char *const options[] = {
        "data.train=text.txt", "data.valid=text.txt", "train.micro_batch=4", "train.grad=unroll",
        "train.optimizer=muon", "train.jac_weight=0.7", "train.eval_every=0", "train.checkpoint_every=0",
        "train.log_every=1", "train.steps=1000000", "solver.tol=2e-2", "solver.max_iter=8", "predictor.steps=0",
        "serve.warm_start=zero"};
    struct deq_recipe *r;
    enum deq_rc rc = deq_recipe_new(a->kind, &r, err);
    if (rc)
        return rc;
    rc = deq_recipe_of_model(r, a, err);
    for (size_t i = 0; i < DEQ_COUNT(options) && !rc; i++)
        rc = deq_opt_assign(&r->table, r, options[i], err);
    r->batch = quick ? 4 : 8;
    r->seq_len = DEQ_MIN(quick ? 32u : 256u, a->kind->seq_max ? a->kind->seq_max(a) : UINT32_MAX);
    r->unroll = UNROLL;
    r->shallow_depth = DEPTH;
    r->jac_every = JAC_EVERY;
    r->shallow_steps = shallow ? r->steps : 0;
    if (rc)
        deq_recipe_free(r);
    else
        *ret = r;
    return rc;
}

static enum deq_rc write_text(const char *dir, struct deq_err *err)
{
    static const char line[] = "Once upon a time, a girl named Lucy found a big tree in the park.\n";
    enum { LINES = 400 };
    char path[BENCH_SCRATCH_PATH];
    struct deq_part part[LINES];
    for (size_t i = 0; i < LINES; i++)
        part[i] = (struct deq_part){line, sizeof line - 1};
    bench_scratch_path(path, dir, "text.txt");
    return deq_io_replace(path, part, LINES, err);
}

/* --- The clock --- */

struct watch {
    const struct bench_machine *m;
    const char *name;
    unsigned steps, most; /* the first one is not counted */
    double begun, seconds, evaluations;
};

static void on_event(void *ctx, const struct deq_train_event *e)
{
    struct watch *w = ctx;
    if (e->kind != DEQ_TRAIN_STEP)
        return;
    cli_progress("%s: training, %s, step %u of %u", w->name, e->phase, w->steps + 1, w->most + 1);
    if (w->steps++ == 0) {
        w->begun = bench_now(w->m);
        return;
    }
    w->seconds = bench_now(w->m) - w->begun;
    w->evaluations += e->evaluations;
}

static bool enough(void *ctx)
{
    const struct watch *w = ctx;
    return w->steps > w->most;
}

/* --- Floor --- */

/* Multiply-adds a token of embedding's image and head: each is in the forward pass once. */
static double ends(const struct deq_weights *w)
{
    double sum = 0;
    for (size_t i = 0; i < w->n_params; i++)
        if (w->params[i].packed &&
            (w->params[i].role == DEQ_ROLE_EMBED || w->params[i].role == DEQ_ROLE_PROJECTION) &&
            strncmp(w->params[i].name, "predictor.", 10))
            sum += (double)w->params[i].count;
    return sum;
}

/* A backward pass is twice the forward one. The penalty evaluates once more and goes back through that. */
static double multiply_adds(const struct bench_subject *s, bool shallow, double evaluations)
{
    const double f = (double)s->arch->kind->shape(s->arch, 0, 0, 1).step_madds,
                 recorded = shallow ? DEPTH : UNROLL, penalty = shallow ? 0 : 3.0 / JAC_EVERY;
    return f * (evaluations + 2 * recorded + penalty) + 3 * ends(s->weights);
}

static json_t *measure(struct bench_machine *m, const struct bench_subject *s, bool shallow, bool quick,
                       struct deq_err *err)
{
    char dir[BENCH_SCRATCH_PATH] = "";
    struct deq_recipe *r = NULL;
    struct watch w = {.m = m, .name = s->name, .most = quick ? JAC_EVERY : STEPS};
    json_t *figures = NULL;
    enum deq_rc rc = make_recipe(s->arch, shallow, quick, &r, err);
    if (!rc)
        rc = bench_scratch_open(dir, err);
    if (!rc)
        rc = write_text(dir, err);
    if (!rc)
        rc = deq_train_run(r, &(struct deq_train_opts){.data_dir = dir, .out_dir = dir, .threads = m->threads,
                                                       .init = s->dir},
                           &(struct deq_train_hooks){on_event, enough, &w}, err);
    if (!rc) {
        const double tokens = (double)r->batch * r->seq_len * w.most, each = w.evaluations / w.most,
                     floor = multiply_adds(s, shallow, each) / m->floats.all;
        figures = json_pack("{s:s, s:f, s:f, s:f, s:f, s:f}", "phase", shallow ? "shallow" : "equilibrium",
                            "ms_per_step", 1e3 * w.seconds / w.most, "tokens_per_s", tokens / w.seconds, "evaluations",
                            each, "floor_us_per_token", 1e6 * floor, "fraction", floor * tokens / w.seconds);
        if (!figures)
            (void)deq_fail(err, DEQ_ENOMEM, "no memory for figures");
    }
    bench_scratch_close(dir);
    deq_recipe_free(r);
    return figures;
}

json_t *bench_training(struct bench_machine *m, const struct bench_subject *s, bool quick, struct deq_err *err)
{
    json_t *list = json_array();
    for (int shallow = 1; shallow >= 0; shallow--) {
        json_t *figures = measure(m, s, shallow, quick, err);
        if (!figures || json_array_append_new(list, figures)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}
