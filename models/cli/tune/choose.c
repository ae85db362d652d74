/* Which of the measured settings is chosen, and which are worth choosing. Pure. */
#include <math.h>

#include "models/cli/tune/tune.h"

static bool less(double a, double b) /* what is not a number is the largest */
{
    return isnan(b) ? !isnan(a) : a < b;
}

size_t tune_choose(const struct tune_point *p, size_t n, double exact, double budget)
{
    const double limit = exact * (1 + budget);
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        const bool within = p[i].loss + p[i].error <= limit, best_within = p[best].loss + p[best].error <= limit;
        const double a = tune_seconds(&p[i]), b = tune_seconds(&p[best]);
        const bool better = within ? less(a, b) || (!less(b, a) && less(p[i].loss, p[best].loss))
                                   : less(p[i].loss, p[best].loss);
        if (within == best_within ? better : within)
            best = i;
    }
    return best;
}

float tune_exact_tol(const struct tune_point *p, size_t n, double exact, double budget)
{
    float tightest = INFINITY, bad = INFINITY, best = 0;
    for (size_t i = 0; i < n; i++) {
        const float tol = p[i].set.solver.tol;
        tightest = fminf(tightest, tol);
        if (!(fabs(p[i].loss - exact) + p[i].error <= exact * budget))
            bad = fminf(bad, tol);
    }
    for (size_t i = 0; i < n; i++)
        if (p[i].set.solver.tol < bad)
            best = fmaxf(best, p[i].set.solver.tol);
    return best > 0 ? best : tightest;
}

void tune_mark_front(struct tune_point *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        p[i].front = !isnan(p[i].loss);
        for (size_t j = 0; j < n && p[i].front; j++)
            p[i].front = !(p[j].loss <= p[i].loss && tune_seconds(&p[j]) <= tune_seconds(&p[i]) &&
                           (p[j].loss < p[i].loss || tune_seconds(&p[j]) < tune_seconds(&p[i])));
    }
}
