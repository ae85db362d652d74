/* deq bench engine: what evaluations, prompts, generation and training of a model cost on this machine. */
#include "models/cli/bench/bench.h"
#include "models/cli/bench/evaluation.h"
#include "models/cli/bench/generation.h"
#include "models/cli/bench/training.h"

enum part { EVALUATION, PREFILL, GENERATION, DEPTH, TRAINING, PARTS, ALL = PARTS };
#define PART_CHOICES "evaluation|prefill|generation|depth|training|all" /* in that order */

static const struct {
    const char *key, *title;
    bool shapes; /* means something with random weights */
} parts[PARTS] = {
    [EVALUATION] = {"evaluation", "one evaluation of f on so many rows, each with a context of its own", true},
    [PREFILL] = {"prefill", "one prompt; steps, evaluations and head rows are of a position", true},
    [GENERATION] = {"generation", "texts behind a prompt; steps, evaluations and head rows are of a token", true},
    [DEPTH] = {"depth", "evaluations a token: one stream, greedy, six prompts of 100 tokens", false},
    [TRAINING] = {"training", "a step of training, float32", false},
};

struct flags {
    struct bench_flags common;
    uint32_t context;
    enum part only;
    bool brief;
};

static const struct deq_opt flags[] = {
    {"--only", DEQ_OPT_ENUM, offsetof(struct flags, only), 0, 0, "all", PART_CHOICES,
     "one part; of a shape, all are evaluation, prefill and generation"},
    {"--context", DEQ_OPT_U32, offsetof(struct flags, context), 1, 4096, "16", NULL,
     "tokens behind which generation is measured"},
    {"--brief", DEQ_OPT_BOOL, offsetof(struct flags, brief), 0, 0, NULL, NULL,
     "generation by 1 and 32 streams at window 1 and the model's only, as of a shape"},
    BENCH_FLAGS};

static const struct deq_command command = {
    .usage = "deq bench engine [SHAPE|MODEL_DIR]... [flags]",
    .about = "Measures one evaluation of f by rows and positions behind them, prompts and generation by window, "
             "evaluations a token by start and tolerance (depth), and steps of training.\n" BENCH_SUBJECTS,
    .flags = {flags, DEQ_COUNT(flags)},
    .max_args = BENCH_SUBJECTS_MAX,
};

static json_t *one_part(enum part part, struct bench_machine *m, const struct bench_subject *s,
                        const struct bench_texts *t, struct deq_err *err)
{
    switch (part) {
    case EVALUATION: return bench_evaluations(m, s, t->quick, err);
    case PREFILL: return bench_prefill(m, t, err);
    case GENERATION: return bench_generation(m, t, err);
    case DEPTH: return bench_depth(m, t, err);
    default: return bench_training(m, s, t->quick, err);
    }
}

static enum deq_rc measure(struct bench_machine *m, const struct bench_subject *s, const void *values, json_t *report,
                           struct deq_err *err)
{
    const struct flags *f = values;
    struct deq_model *model;
    enum deq_rc rc = deq_model_load(s->dir, &s->arch->serving.numeric, &model, err);
    if (rc)
        return rc;
    const struct bench_texts t = {.model = model, .name = s->name, .context = f->context, .quick = f->common.quick,
                                  .brief = s->shape || f->brief || f->common.quick};
    for (int p = 0; p < PARTS && !rc; p++)
        if (f->only == ALL ? parts[p].shapes || !s->shape : f->only == (enum part)p)
            rc = bench_add(&f->common, s, parts[p].key, parts[p].title, one_part((enum part)p, m, s, &t, err), report,
                           err);
    deq_model_free(model);
    return rc;
}

int bench_engine(int argc, char **argv)
{
    struct flags f = {0};
    return bench_subjects("bench engine", &command, argc, argv, &f.common, measure);
}
