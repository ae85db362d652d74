#include "models/cli/solve_flags.h"

#include <stdio.h>

#include "core/base/cores.h"

bool solve_flags_apply(const struct solve_flags *f, struct deq_solve_params *p, unsigned *ret_threads)
{
    double x;
    *ret_threads = deq_cores();
    if (f->tol) {
        if (!cli_number("--tol", f->tol, 0, 10, &x))
            return false;
        p->tol = (float)x;
    }
    if (f->max_iter) {
        if (!cli_number("--max-iter", f->max_iter, 1, 100000, &x))
            return false;
        p->max_iter = (uint32_t)x;
    }
    if (f->window) {
        if (!cli_number("--window", f->window, 1, DEQ_ROW_WINDOW_MAX, &x))
            return false;
        p->window = (uint32_t)x;
    }
    if (f->threads) {
        if (!cli_number("--threads", f->threads, 1, 256, &x))
            return false;
        *ret_threads = (unsigned)x;
    }
    if (f->solver && !deq_solver_by_name(f->solver, &p->solver)) {
        fprintf(stderr, "--solver: \"%s\" is not picard, anderson or broyden\n", f->solver);
        return false;
    }
    if (f->warm && !deq_warm_by_name(f->warm, &p->warm_start)) {
        fprintf(stderr, "--warm-start: \"%s\" is not zero, previous or predictor\n", f->warm);
        return false;
    }
    return true;
}
