/* Good Broyden with limited memory; see solver.h. State: u_i, v_i [M, dim] each, the previous z
 * and g, and one work vector. */
#include <math.h>
#include <string.h>

#include "core/math/kern.h"
#include "core/solve/methods.h"

size_t deq_broyden_floats(unsigned memory, size_t dim)
{
    return (2 * (size_t)memory + 3) * dim;
}

/* y = J^-1 x = -x + sum left_i (right_i . x); with left and right swapped it is the transpose. */
static void apply(const float *left, const float *right, unsigned n, size_t dim, const float *x, float *y)
{
    const struct deq_kern *k = deq_kern();
    memcpy(y, x, dim * sizeof(float));
    k->scale(y, -1.0f, dim);
    for (unsigned i = 0; i < n; i++)
        k->axpy(y, k->dot(right + (size_t)i * dim, x, dim), left + (size_t)i * dim, dim);
}

void deq_broyden_step(const struct deq_solver_opts *o, struct deq_solver *s, size_t dim, float *z, const float *fz)
{
    const struct deq_kern *k = deq_kern();
    const size_t bytes = dim * sizeof(float);
    float *us = s->mem, *vs = us + (size_t)o->memory * dim, *z_prev = vs + (size_t)o->memory * dim,
          *g_prev = z_prev + dim, *work = g_prev + dim;

    if (s->n == o->memory) { /* full: start again from -I, the newest pair still gives the first update */
        s->n = 0;
    }
    if (s->has_previous) {
        float *u = us + (size_t)s->n * dim, *v = vs + (size_t)s->n * dim;
        k->sub(z_prev, z, z_prev, dim);       /* dz */
        k->sub(work, fz, z, dim);             /* g */
        k->sub(g_prev, work, g_prev, dim);    /* dg */
        apply(vs, us, s->n, dim, z_prev, v);  /* v = J^-T dz */
        apply(us, vs, s->n, dim, g_prev, work); /* J^-1 dg */
        float denom = k->dot(z_prev, work, dim), scale = k->dot(z_prev, z_prev, dim);
        if (fabsf(denom) > 1e-6f * scale && isfinite(denom)) {
            k->sub(u, z_prev, work, dim);
            k->scale(u, 1.0f / denom, dim);
            s->n++;
        }
    }
    memcpy(z_prev, z, bytes);
    k->sub(g_prev, fz, z, dim);
    s->has_previous = true;
    apply(us, vs, s->n, dim, g_prev, work);
    k->axpy(z, -o->beta, work, dim);
}
