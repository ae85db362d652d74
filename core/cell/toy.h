/* A cell whose equilibrium has a closed form, for tests of the engine and of the solvers: no attention, no weights.
 *
 *     f(z)_t = rho z_t + (1 - rho) (u_t + c z_{t-1}),   u_t = one-hot of the token       =>   z*_t = u_t + c z*_{t-1}
 *
 * The spectral radius is rho (in 0..1: converges). Logits are z itself, D = V. z_{t-1} is read from the cache, where position t keeps its state as its
 * "value" (D <= H*Dh of the cache's shape). */
#ifndef DEQ_CELL_TOY_H
#define DEQ_CELL_TOY_H

#include "core/solve/cell.h"

enum deq_rc deq_toy_open(size_t dim, float rho, float coupling, size_t max_rows, struct deq_pool *pool, struct deq_cell **ret,
                         struct deq_err *err);
/* From now on the evaluation of `token` gives NaN (UINT32_MAX: never): what a neighbour's broken row looks like. */
void deq_toy_poison(struct deq_cell *c, uint32_t token);

#endif
