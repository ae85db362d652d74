/* core/solve/picard.c: one step by hand, z + beta (f - z). */
#include "core/solve/methods.h"

#include "tests/unit/test.h"

TEST(solver_picard_step)
{
    enum { DIM = 21 }; /* lanes of sixteen and a rest */
    float z[DIM], fz[DIM], want[DIM];
    struct deq_solver_opts o = deq_solver_defaults();
    o.beta = 0.5f;
    for (int i = 0; i < DIM; i++)
        z[i] = (float)i, fz[i] = 3.0f - (float)i, want[i] = 0.5f * z[i] + 0.5f * fz[i]; /* exact in binary */
    deq_picard_step(&o, DIM, z, fz);
    CHECK(!memcmp(z, want, sizeof z));
    o.beta = 1;
    deq_picard_step(&o, DIM, z, fz);
    CHECK(!memcmp(z, fz, sizeof z));
}
