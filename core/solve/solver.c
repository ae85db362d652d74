#include "core/solve/solver.h"

#include <math.h>
#include <string.h>

#include "core/math/kern.h"
#include "core/solve/methods.h"

static const float RESTART_AT = 4.0f; /* times the best residual */

struct deq_solver_opts deq_solver_defaults(void)
{
    return (struct deq_solver_opts){.method = DEQ_ANDERSON,
                                    .stop = DEQ_STOP_REL,
                                    .memory = 3,
                                    .max_iter = 32,
                                    .min_iter = 1,
                                    .tol = 1e-2f,
                                    .beta = 1.0f,
                                    .reg = 1e-4f};
}

enum deq_rc deq_solver_check(const struct deq_solver_opts *o, struct deq_err *err)
{
    if (o->memory < 1 || o->memory > DEQ_SOLVER_MEMORY_MAX)
        return deq_fail(err, DEQ_EINVAL, "solver memory %u is outside 1..%d", o->memory, DEQ_SOLVER_MEMORY_MAX);
    if (o->max_iter < 1 || o->max_iter > 100000 || o->min_iter > o->max_iter)
        return deq_fail(err, DEQ_EINVAL, "solver max_iter %u is outside 1..100000 or below min_iter %u", o->max_iter,
                        o->min_iter);
    if (!(o->tol >= 0) || !isfinite(o->tol))
        return deq_fail(err, DEQ_EINVAL, "solver tol %g is not a number >= 0", (double)o->tol);
    if (!(o->beta > 0 && o->beta <= 1))
        return deq_fail(err, DEQ_EINVAL, "solver beta %g is outside (0, 1]", (double)o->beta);
    if (!(o->reg >= 0 && o->reg <= 1))
        return deq_fail(err, DEQ_EINVAL, "solver reg %g is outside [0, 1]", (double)o->reg);
    return DEQ_OK;
}

size_t deq_solver_floats(const struct deq_solver_opts *o, size_t dim)
{
    switch (o->method) {
    case DEQ_PICARD: return 0;
    case DEQ_ANDERSON: return deq_anderson_floats(o->memory, dim);
    case DEQ_BROYDEN: return deq_broyden_floats(o->memory, dim);
    }
    return 0;
}

void deq_solver_restart(struct deq_solver *s)
{
    s->n = s->next = 0;
    s->has_previous = false;
    s->best = INFINITY;
}

float deq_solver_residual(const struct deq_solver_opts *o, size_t dim, const float *z, const float *fz)
{
    const struct deq_kern *k = deq_kern();
    float r = sqrtf(k->diff_sumsq(fz, z, dim));
    return o->stop == DEQ_STOP_ABS ? r : r / (sqrtf(k->dot(fz, fz, dim)) + 1e-9f);
}

void deq_solver_step(const struct deq_solver_opts *o, struct deq_solver *s, size_t dim, float *z, const float *fz,
                     float residual)
{
    if (residual > RESTART_AT * s->best) {
        deq_solver_restart(s);
        s->best = residual;
        deq_picard_step(o, dim, z, fz);
        return;
    }
    s->best = DEQ_MIN(s->best, residual);
    switch (o->method) {
    case DEQ_PICARD: deq_picard_step(o, dim, z, fz); break;
    case DEQ_ANDERSON: deq_anderson_step(o, s, dim, z, fz); break;
    case DEQ_BROYDEN: deq_broyden_step(o, s, dim, z, fz); break;
    }
}

/* scratch: fz [n, dim], best z [n, dim], solver memory, then per-system structs */
size_t deq_solve_floats(const struct deq_solver_opts *o, size_t n, size_t dim)
{
    size_t per = deq_solver_floats(o, dim);
    return n * (2 * dim + per) + DEQ_ROUND_UP(n * (sizeof(struct deq_solver) + 2 * sizeof(float)), 4) / 4 + 32;
}

void deq_solve(const struct deq_solver_opts *o, size_t n, size_t dim, deq_solve_fn f, void *ctx, float *z,
               float *ret_fz, float *scratch, float *trace, struct deq_solve_report *ret)
{
    const size_t per = deq_solver_floats(o, dim);
    /* the structs hold doubles and pointers: they stand first, at the block's own alignment */
    struct deq_solver *sys = (struct deq_solver *)(void *)scratch;
    float *best = (float *)(void *)(sys + n), *last = best + n;
    float *fz = last + n, *z_best = fz + n * dim, *mem = z_best + n * dim;
    bool finite = true;
    unsigned it = 0, open = 1, better = 0; /* better: the last evaluation that brought an open system nearer */

    memcpy(z_best, z, n * dim * sizeof(float));
    if (ret_fz)
        memcpy(ret_fz, z, n * dim * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        sys[i] = (struct deq_solver){.mem = mem + i * per};
        deq_solver_restart(&sys[i]);
        best[i] = last[i] = INFINITY;
    }
    while (it < o->max_iter && open && (!o->patience || it - better < o->patience)) {
        f(ctx, z, fz);
        it++;
        open = 0;
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            float *zi = z + i * dim, *fi = fz + i * dim;
            float r = deq_solver_residual(o, dim, zi, fi);
            last[i] = r;
            sum += r;
            if (!isfinite(r)) {
                finite = false;
                continue; /* frozen: no step leads back from NaN */
            }
            if (r < best[i] || o->tol <= 0) {
                best[i] = r;
                better = it;
                memcpy(z_best + i * dim, zi, dim * sizeof(float));
                if (ret_fz)
                    memcpy(ret_fz + i * dim, fi, dim * sizeof(float));
            }
            if (r < o->tol && it >= o->min_iter)
                continue;
            open++;
            if (it < o->max_iter) /* nobody would evaluate the last one */
                deq_solver_step(o, &sys[i], dim, zi, fi, r);
        }
        if (trace)
            trace[it - 1] = (float)(sum / (double)n);
    }
    const bool newest = !memcmp(z, z_best, n * dim * sizeof(float));
    if (!newest)
        memcpy(z, z_best, n * dim * sizeof(float));
    double sum = 0;
    float top = 0;
    bool all = true;
    for (size_t i = 0; i < n; i++) {
        sum += best[i];
        top = DEQ_MAX(top, best[i]);
        all = all && best[i] < o->tol;
    }
    *ret = (struct deq_solve_report){.evaluations = it,
                                     .residual_max = top,
                                     .residual_mean = (float)(sum / (double)n),
                                     .converged = all,
                                     .newest = newest,
                                     .finite = finite};
}
