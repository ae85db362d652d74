/* The kinds of `deq bench`, each with its flags and its report; and what those that measure models have in common: the
 * machine's limits first, then one model after the other, figures as tables or as one JSON object. */
#ifndef DEQ_MODELS_CLI_BENCH_BENCH_H
#define DEQ_MODELS_CLI_BENCH_BENCH_H

#include "core/base/flags.h"
#include "models/cli/bench/machine.h"
#include "models/cli/bench/shape.h"
#include "models/cli/bench/subject.h"

int bench_kernels(int argc, char **argv);
int bench_engine(int argc, char **argv);
int bench_serve(int argc, char **argv);

/* A struct of flags begins with this one, and a table of them with these rows. */
struct bench_flags {
    uint32_t threads;
    int numeric; /* enum deq_class, or BENCH_CLASS_OWN */
    bool quick, json;
};
#define BENCH_FLAGS \
    {"--class", DEQ_OPT_ENUM, offsetof(struct bench_flags, numeric), 0, 0, "own", DEQ_CLASS_CHOICES "|own", \
     "numeric class of weights and activations; own: as the model's config.json has it, of S, M, W float32, of other " \
     "shapes int16"}, \
    {"--threads", DEQ_OPT_U32, offsetof(struct bench_flags, threads), 1, 256, NULL, NULL, \
     "compute threads; else one a core"}, \
    {"--quick", DEQ_OPT_BOOL, offsetof(struct bench_flags, quick), 0, 0, NULL, NULL, \
     "a few short samples, to see that it works"}, \
    {"--json", DEQ_OPT_BOOL, offsetof(struct bench_flags, json), 0, 0, NULL, NULL, "print one JSON object"}
#define BENCH_SUBJECTS \
    "SHAPE: " BENCH_SHAPES " (seeded random weights; W is the paper's on WikiText-103, the others are published " \
    "models'); without any, S, M, W. " \
    "DEQ_CPU forces a level."
enum { BENCH_SUBJECTS_MAX = 16 };

/* Measures one model and adds its lists of figures to the report. */
typedef enum deq_rc (*bench_measure)(struct bench_machine *m, struct bench_subject *s, const void *flags,
                                     json_t *report, struct deq_err *err);
/* The command: parses its flags, whose threads are set here, and measures all subjects. Returns the exit code. check:
 * what the table cannot say of the flags, or NULL; false: a message was printed. */
int bench_subjects(const char *name, const struct deq_command *c, int argc, char **argv, struct bench_flags *flags,
                   bool (*check)(void *flags), bench_measure measure);
/* Adds a list of figures, or takes on that there is none, and prints it where people read. */
enum deq_rc bench_add(const struct bench_flags *flags, const struct bench_subject *s, const char *key,
                      const char *title, json_t *list, json_t *report, struct deq_err *err);

#endif
