/* Anderson acceleration; see solver.h. State: rings of M iterates and M residual vectors, and their Gram matrix. */
#include <string.h>

#include "core/math/kern.h"
#include "core/solve/methods.h"

size_t deq_anderson_floats(unsigned memory, size_t dim)
{
    return 2 * (size_t)memory * dim;
}

void deq_anderson_step(const struct deq_solver_opts *o, struct deq_solver *s, size_t dim, float *z, const float *fz)
{
    const struct deq_kern *kern = deq_kern();
    const unsigned m = o->memory;
    float *zs = s->mem, *gs = s->mem + (size_t)m * dim; /* [M, dim] each */

    const unsigned at = s->next;
    s->next = (at + 1) % m;
    s->n = DEQ_MIN(s->n + 1, m);
    float *g = gs + (size_t)at * dim;
    memcpy(zs + (size_t)at * dim, z, dim * sizeof(float));
    kern->sub(g, fz, z, dim);
    for (unsigned i = 0; i < s->n; i++)
        s->gram[at][i] = s->gram[i][at] = kern->dot(g, gs + (size_t)i * dim, dim);

    double h[DEQ_SOLVER_MEMORY_MAX][DEQ_SOLVER_MEMORY_MAX], alpha[DEQ_SOLVER_MEMORY_MAX], top = 0, sum = 0;
    for (unsigned i = 0; i < s->n; i++)
        top = DEQ_MAX(top, s->gram[i][i]);
    const double lambda = o->reg * s->gram[at][at] + 1e-7 * top;
    for (unsigned i = 0; i < s->n; i++)
        for (unsigned j = 0; j < s->n; j++)
            h[i][j] = s->gram[i][j] + (i == j ? lambda : 0);
    if (s->n < 2 || !deq_cholesky_ones(&h[0][0], DEQ_SOLVER_MEMORY_MAX, s->n, alpha)) {
        deq_picard_step(o, dim, z, fz);
        return;
    }
    for (unsigned i = 0; i < s->n; i++)
        sum += alpha[i];
    memset(z, 0, dim * sizeof(float));
    for (unsigned i = 0; i < s->n; i++) {
        float a = (float)(alpha[i] / sum);
        kern->axpy(z, a, zs + (size_t)i * dim, dim);
        kern->axpy(z, a * o->beta, gs + (size_t)i * dim, dim);
    }
}
