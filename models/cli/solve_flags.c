#include "models/cli/solve_flags.h"

#include "core/base/cores.h"

void solve_flags_apply(const struct solve_flags *f, const struct deq_model_info *i, struct deq_solve_params *p)
{
    if (f->stop >= 0 && f->stop != (int)i->stop) {
        p->stop = (enum deq_stop_rule)f->stop;
        if (p->stop != DEQ_STOP_AT_RESIDUAL || i->tol > 0)
            p->tol = deq_stop_rule_tol(p->stop);
        if (deq_stop_reads(p->stop))
            p->window = 1, p->prefill_window = 0;
    }
    if (f->preset >= 0 && i->tol > 0) /* a fixed number of steps stays one */
        p->tol = (const float[]){i->tol_fast, i->tol, i->tol_exact}[f->preset];
    if (f->tol >= 0)
        p->tol = f->tol;
    if (f->max_iter != UINT32_MAX)
        p->max_iter = f->max_iter;
    if (f->window || f->prefill_window)
        p->prefill_window = f->prefill_window; /* 0: as --window */
    if (f->window)
        p->window = f->window;
    if (f->solver >= 0)
        p->solver = (enum deq_solver_method)f->solver;
    if (f->warm >= 0)
        p->warm_start = (enum deq_warm)f->warm;
}

enum deq_rc solve_flags_load(const struct solve_flags *f, const char *dir, struct deq_model **ret, struct deq_err *err)
{
    const enum deq_class numeric = (enum deq_class)f->numeric;
    return deq_model_load(dir, f->numeric >= 0 ? &numeric : NULL, ret, err);
}

unsigned solve_flags_threads(const struct solve_flags *f)
{
    return f->threads ? f->threads : deq_cores();
}
