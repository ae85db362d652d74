/* The solver's flags, shared by eval and generate. What is not given stays as the model has it. */
#ifndef DEQ_MODELS_CLI_SOLVE_FLAGS_H
#define DEQ_MODELS_CLI_SOLVE_FLAGS_H

#include "core/deq.h"
#include "models/cli/cli.h"

struct solve_flags {
    float tol;                          /* -1: not given */
    uint32_t window, prefill_window, threads; /* 0: not given */
    uint32_t max_iter;                        /* UINT32_MAX: not given */
    int solver, warm, stop, preset, numeric;  /* -1: not given */
};

#define SOLVE_FLAGS_NONE \
    {.tol = -1, .max_iter = UINT32_MAX, .solver = -1, .warm = -1, .stop = -1, .preset = -1, .numeric = -1}
/* Rows of the table of a command whose flags are a struct with a struct solve_flags at `at`. */
#define SOLVE_FLAGS(at)                                                                                       \
    {"--tol", DEQ_OPT_FLOAT, (at) + offsetof(struct solve_flags, tol), 0, 10, NULL, NULL,                     \
     "relative residual at which a row stops; else the model's"},                                             \
    {"--preset", DEQ_OPT_ENUM, (at) + offsetof(struct solve_flags, preset), 0, 0, NULL,                       \
     "fast|balanced|exact", "a tolerance of the model's by its name; --tol goes before it"},                  \
    {"--max-iter", DEQ_OPT_U32, (at) + offsetof(struct solve_flags, max_iter), 0, 100000, NULL, NULL,         \
     "evaluations of a row at most, 0: none, from its start alone; else the model's"},                     \
    {"--solver", DEQ_OPT_ENUM, (at) + offsetof(struct solve_flags, solver), 0, 0, NULL, DEQ_SOLVER_CHOICES,   \
     "root finder; else the model's"},                                                                        \
    {"--window", DEQ_OPT_U32, (at) + offsetof(struct solve_flags, window), 1, DEQ_ROW_WINDOW_MAX, NULL, NULL, \
     "rows solved behind the committed prefix; else the model's"},                                            \
    {"--prefill-window", DEQ_OPT_U32, (at) + offsetof(struct solve_flags, prefill_window), 1,                 \
     DEQ_ROW_WINDOW_MAX, NULL, NULL, "the same while a prompt is read; else --window, or the model's"},       \
    {"--warm-start", DEQ_OPT_ENUM, (at) + offsetof(struct solve_flags, warm), 0, 0, NULL, DEQ_WARM_CHOICES,   \
     "state that a row starts from; else the model's"},                                                       \
    {"--stop-rule", DEQ_OPT_ENUM, (at) + offsetof(struct solve_flags, stop), 0, 0, NULL,                      \
     DEQ_STOP_RULE_CHOICES, "when a row has converged; else as the model says"},                               \
    {"--threads", DEQ_OPT_U32, (at) + offsetof(struct solve_flags, threads), 1, 256, NULL, NULL,              \
     "compute threads; else all cores"},                                                                      \
    {"--class", DEQ_OPT_ENUM, (at) + offsetof(struct solve_flags, numeric), 0, 0, NULL, DEQ_CLASS_CHOICES,    \
     "numeric class of products; else the model's"}

void solve_flags_apply(const struct solve_flags *f, const struct deq_model_info *i, struct deq_solve_params *p);
/* deq_model_load in the class that was asked for. */
enum deq_rc solve_flags_load(const struct solve_flags *f, const char *dir, struct deq_model **ret, struct deq_err *err);
unsigned solve_flags_threads(const struct solve_flags *f);

#endif
