/* core/solve/anderson.c: a step is the solution of the constrained least-squares problem. */
#include "core/solve/solver.h"

#include "core/base/mem.h"
#include "tests/unit/pairs.h"
#include "tests/unit/test.h"

TEST(solver_anderson_step_is_the_constrained_least_squares)
{
    enum { STEPS = 9 };
    for (unsigned memory = 2; memory <= 5; memory++) {
        struct deq_solver_opts o = deq_solver_defaults();
        o.method = DEQ_ANDERSON;
        o.memory = memory;
        o.beta = 0.4f;
        o.reg = 0.05f;
        struct deq_solver s = {.mem = DEQ_NEW_ARRAY(float, deq_solver_floats(&o, PAIR_DIM))};
        deq_solver_restart(&s);
        float z[STEPS][PAIR_DIM], fz[STEPS][PAIR_DIM], next[PAIR_DIM];
        for (unsigned k = 0; k < STEPS; k++) {
            random_pair(31, k, z[k], fz[k]);
            memcpy(next, z[k], sizeof next);
            deq_solver_step(&o, &s, PAIR_DIM, next, fz[k], 1);
            const unsigned n = DEQ_MIN(k + 1, memory), first = k + 1 - n;
            double h[5][6], alpha[5], top = 0, sum = 0, worst = 0;
            for (unsigned i = 0; i < n; i++) {
                for (unsigned j = 0; j < n; j++) {
                    h[i][j] = 0;
                    for (int d = 0; d < PAIR_DIM; d++)
                        h[i][j] += ((double)fz[first + i][d] - (double)z[first + i][d]) *
                                   ((double)fz[first + j][d] - (double)z[first + j][d]);
                }
                h[i][n] = 1;
                top = DEQ_MAX(top, h[i][i]);
            }
            const double lambda = 0.05 * h[n - 1][n - 1] + 1e-7 * top;
            for (unsigned i = 0; i < n; i++)
                h[i][i] += lambda;
            for (unsigned i = 0; i < n; i++) /* Gauss-Jordan; H is positive definite, so no pivoting */
                for (unsigned r = 0; r < n; r++)
                    for (unsigned c = n + 1; r != i && c-- > i;)
                        h[r][c] -= h[r][i] / h[i][i] * h[i][c];
            for (unsigned i = 0; i < n; i++)
                sum += alpha[i] = h[i][n] / h[i][i];
            for (int d = 0; d < PAIR_DIM; d++) {
                double want = 0;
                for (unsigned i = 0; i < n; i++)
                    want += alpha[i] / sum * (0.6 * (double)z[first + i][d] + 0.4 * (double)fz[first + i][d]);
                worst = DEQ_MAX(worst, fabs(want - (double)next[d]));
            }
            /* float Gram entries (about 1e-6 relative) over a condition number below 100, times values of size 1 */
            CHECK_MSG(worst < 1e-4, "M=%u step %u: %g", memory, k, worst);
        }
        deq_free(s.mem);
    }
}
