/* deq bench engine: what evaluations, prompts, generation and training of a model cost on this machine. */
#include "models/cli/bench/bench.h"
#include "models/cli/bench/evaluation.h"
#include "models/cli/bench/generation.h"
#include "models/cli/bench/memory.h"
#include "models/cli/bench/training.h"
#include "models/cli/cli.h"

enum { STREAMS_MAX = 1024 };
enum part { EVALUATION, ENDS, MEMORY, PREFILL, GENERATION, DEPTH, TRAINING, PARTS, ALL = PARTS };
#define PART_CHOICES "evaluation|ends|memory|prefill|generation|depth|training|all" /* in that order */

static const struct {
    const char *key, *title;
    bool shapes;  /* means something with random weights */
    bool weights; /* reads the weights alone, not the model */
} parts[PARTS] = {
    [EVALUATION] = {"evaluation", "one evaluation of f on so many rows, each with a context of its own", true, true},
    [ENDS] = {"ends", "what is before and behind the loop, on so many rows, each behind 16 positions", true, true},
    [MEMORY] = {"memory", "what a model takes that is loaded and opened for so many streams", true, false},
    [PREFILL] = {"prefill", "one prompt; steps, evaluations and rows are of a position", true, false},
    [GENERATION] = {"generation", "texts behind a prompt; steps, evaluations and rows are of a token", true, false},
    [DEPTH] = {"depth", "evaluations a token: one stream, greedy, six prompts of 100 tokens", false, false},
    [TRAINING] = {"training", "a step of training, float32", false, true},
};

struct flags {
    struct bench_flags common;
    uint32_t context;
    enum part only;
    bool brief;
    const char *streams_text, *windows_text;
    struct cli_counts streams, windows; /* n 0: not given */
};

static const struct deq_opt flags[] = {
    {"--only", DEQ_OPT_ENUM, offsetof(struct flags, only), 0, 0, "all", PART_CHOICES,
     "one part; of a shape, all are those before depth"},
    {"--context", DEQ_OPT_U32, offsetof(struct flags, context), 1, 4096, "16", NULL,
     "tokens behind which generation is measured"},
    {"--brief", DEQ_OPT_BOOL, offsetof(struct flags, brief), 0, 0, NULL, NULL,
     "generation by 1 and 32 streams at window 1 and the model's only, as of a shape"},
    {"--streams", DEQ_OPT_ARG, offsetof(struct flags, streams_text), 0, 0, NULL, "N,N,...",
     "generation by so many streams, drawn and greedy, each at every one of --windows (else 1, 2, 4, 8, 16)"},
    {"--windows", DEQ_OPT_ARG, offsetof(struct flags, windows_text), 0, 0, NULL, "N,N,...",
     "generation with such windows, drawn and greedy, by every one of --streams (else 1, 2, 4, 8, 16, 32)"},
    BENCH_FLAGS};

static const struct deq_command command = {
    .usage = "deq bench engine [SHAPE|MODEL_DIR]... [options]",
    .about = "Measures one evaluation of f by rows and positions behind them, the layers before and behind the loop "
             "and the head (ends), memory and times of loading, prompts and generation by window, evaluations a token "
             "by start and tolerance (depth), and steps of training.\n" BENCH_SUBJECTS,
    .flags = {flags, DEQ_COUNT(flags)},
    .max_args = BENCH_SUBJECTS_MAX,
};

static json_t *one_part(enum part part, struct bench_machine *m, struct bench_subject *s, const struct flags *f,
                        struct deq_err *err)
{
    const bool quick = f->common.quick;
    if (parts[part].weights ? bench_subject_weights(s, err) : bench_subject_model(s, err))
        return NULL;
    const struct bench_texts t = {.model = s->model, .name = s->name, .context = f->context, .quick = quick,
                                  .brief = s->shape || f->brief || quick,
                                  .streams = &f->streams, .windows = &f->windows};
    switch (part) {
    case EVALUATION: return bench_evaluations(m, s, quick, err);
    case ENDS: return bench_ends(m, s, quick, err);
    case MEMORY: return bench_memory(m, s, err);
    case PREFILL: return bench_prefill(m, &t, err);
    case GENERATION: return bench_generation(m, &t, err);
    case DEPTH: return bench_depth(m, &t, err);
    default: return bench_training(m, s, quick, err);
    }
}

static enum deq_rc measure(struct bench_machine *m, struct bench_subject *s, const void *values, json_t *report,
                           struct deq_err *err)
{
    const struct flags *f = values;
    enum deq_rc rc = DEQ_OK;
    for (int p = 0; p < PARTS && !rc; p++)
        if (f->only == ALL ? parts[p].shapes || !s->shape : f->only == (enum part)p)
            rc = bench_add(&f->common, s, parts[p].key, parts[p].title, one_part((enum part)p, m, s, f, err), report,
                           err);
    return rc;
}

/* A list of numbers 1..most, where it is given. */
static bool take_list(const char *flag, const char *text, uint32_t most, struct cli_counts *ret)
{
    if (text && !cli_counts("bench engine", flag, text, ret))
        return false;
    for (size_t i = 0; i < ret->n; i++)
        if (ret->each[i] < 1 || ret->each[i] > most)
            return cli_usage("bench engine", "%s: %u is outside 1..%u", flag, ret->each[i], most), false;
    return true;
}

static bool check(void *values)
{
    struct flags *f = values;
    return take_list("--streams", f->streams_text, STREAMS_MAX, &f->streams) &&
           take_list("--windows", f->windows_text, DEQ_ROW_WINDOW_MAX, &f->windows);
}

int bench_engine(int argc, char **argv)
{
    struct flags f = {0};
    return bench_subjects("bench engine", &command, argc, argv, &f.common, check, measure);
}
