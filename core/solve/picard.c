/* Picard iteration, damped by beta; see solver.h. No state. */
#include <string.h>

#include "core/math/kern.h"
#include "core/solve/methods.h"

void deq_picard_step(const struct deq_solver_opts *o, size_t dim, float *z, const float *fz)
{
    if (o->beta == 1.0f) {
        memcpy(z, fz, dim * sizeof(float));
        return;
    }
    const struct deq_kern *k = deq_kern();
    k->scale(z, 1.0f - o->beta, dim);
    k->axpy(z, o->beta, fz, dim);
}
