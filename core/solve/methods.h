/* What solver.c dispatches to; see solver.h for the mathematics. Each writes the next iterate into z. */
#ifndef DEQ_SOLVE_METHODS_H
#define DEQ_SOLVE_METHODS_H

#include "core/solve/solver.h"

void deq_picard_step(const struct deq_solver_opts *o, size_t dim, float *z, const float *fz);
size_t deq_anderson_floats(unsigned memory, size_t dim);
void deq_anderson_step(const struct deq_solver_opts *o, struct deq_solver *s, size_t dim, float *z, const float *fz);
size_t deq_broyden_floats(unsigned memory, size_t dim);
void deq_broyden_step(const struct deq_solver_opts *o, struct deq_solver *s, size_t dim, float *z, const float *fz);

/* Solves H x = 1 for symmetric positive definite H [n, n] (leading dimension ld) by Cholesky; false when it is not. */
bool deq_cholesky_ones(const double *h, size_t ld, unsigned n, double *x);

#endif
