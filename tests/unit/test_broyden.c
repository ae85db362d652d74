/* core/solve/broyden.c: a step is that of the good Broyden update. */
#include "core/solve/solver.h"

#include "core/base/mem.h"
#include "tests/unit/pairs.h"
#include "tests/unit/test.h"

TEST(solver_broyden_step_is_the_good_broyden_update)
{
    enum { STEPS = 14 };
    for (unsigned memory = 1; memory <= 5; memory += 2) {
        struct deq_solver_opts o = deq_solver_defaults();
        o.method = DEQ_BROYDEN;
        o.memory = memory;
        o.beta = 0.7f;
        struct deq_solver s = {.mem = DEQ_NEW_ARRAY(float, deq_solver_floats(&o, PAIR_DIM))};
        deq_solver_restart(&s);
        static double b[PAIR_DIM][PAIR_DIM]; /* J^-1 */
        double z_prev[PAIR_DIM] = {0}, g_prev[PAIR_DIM] = {0};
        unsigned updates = 0;
        for (unsigned k = 0; k < STEPS; k++) {
            float z[PAIR_DIM], fz[PAIR_DIM], next[PAIR_DIM];
            double g[PAIR_DIM], dz[PAIR_DIM], dg[PAIR_DIM], bdg[PAIR_DIM], dzb[PAIR_DIM], denom = 0, worst = 0;
            random_pair(32, k, z, fz);
            memcpy(next, z, sizeof next);
            deq_solver_step(&o, &s, PAIR_DIM, next, fz, 1);
            if (k == 0 || updates == memory) { /* starts again from -I */
                updates = 0;
                for (int i = 0; i < PAIR_DIM; i++)
                    for (int j = 0; j < PAIR_DIM; j++)
                        b[i][j] = -(i == j);
            }
            for (int i = 0; i < PAIR_DIM; i++) {
                g[i] = (double)fz[i] - (double)z[i];
                dz[i] = (double)z[i] - z_prev[i];
                dg[i] = g[i] - g_prev[i];
                bdg[i] = dzb[i] = 0;
            }
            for (int i = 0; i < PAIR_DIM; i++)
                for (int j = 0; j < PAIR_DIM; j++) {
                    bdg[i] += b[i][j] * dg[j];
                    dzb[j] += dz[i] * b[i][j];
                }
            for (int i = 0; i < PAIR_DIM; i++)
                denom += dz[i] * bdg[i];
            if (k) { /* Sherman-Morrison: B += (dz - B dg) (dz' B) / (dz' B dg) */
                updates++;
                for (int i = 0; i < PAIR_DIM; i++)
                    for (int j = 0; j < PAIR_DIM; j++)
                        b[i][j] += (dz[i] - bdg[i]) * dzb[j] / denom;
            }
            CHECK(s.n == updates);
            double size = 0;
            for (int i = 0; i < PAIR_DIM; i++) {
                double want = (double)z[i];
                for (int j = 0; j < PAIR_DIM; j++)
                    want -= 0.7 * b[i][j] * g[j];
                worst = DEQ_MAX(worst, fabs(want - (double)next[i]));
                size = DEQ_MAX(size, fabs(want));
                z_prev[i] = (double)z[i];
                g_prev[i] = g[i];
            }
            /* float products of 24 terms, through at most five updates whose denominators are not small here */
            CHECK_MSG(worst < 1e-4 * (1 + size), "M=%u step %u: %g of %g", memory, k, worst, size);
        }
        deq_free(s.mem);
    }
}
