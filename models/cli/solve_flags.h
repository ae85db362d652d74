/* The solver's flags, shared by eval and generate. */
#ifndef DEQ_MODELS_CLI_SOLVE_FLAGS_H
#define DEQ_MODELS_CLI_SOLVE_FLAGS_H

#include "core/deq.h"
#include "models/cli/cli.h"

struct solve_flags {
    const char *tol, *max_iter, *solver, *window, *warm, *threads;
};

#define SOLVE_FLAGS(f)                                                                                                    \
    {.name = "--tol", .value = "X", .help = "relative residual at which a row stops (default: the model's)", .text = &(f).tol}, \
    {.name = "--max-iter", .value = "N", .help = "evaluations of a row at most (default: the model's)", .text = &(f).max_iter}, \
    {.name = "--solver", .value = "NAME", .help = "picard, anderson or broyden (default: the model's)", .text = &(f).solver},   \
    {.name = "--window", .value = "N", .help = "rows solved behind the committed prefix, 1..64 (default: the model's)", .text = &(f).window}, \
    {.name = "--warm-start", .value = "NAME", .help = "zero, previous or predictor (default: the model's)", .text = &(f).warm}, \
    {.name = "--threads", .value = "N", .help = "compute threads (default: all cores)", .text = &(f).threads}

/* Fills p and *ret_threads; prints what is wrong and returns false. */
bool solve_flags_apply(const struct solve_flags *f, struct deq_solve_params *p, unsigned *ret_threads);

#endif
