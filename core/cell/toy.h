/* A cell whose equilibrium has a closed form, for tests of the engine and of the solvers: no attention, no weights.
 *
 *     f(z)_t = rho z_t + (1 - rho) (u_t + c z_{t-1}),   u_t = one-hot of the token       =>   z*_t = u_t + c z*_{t-1}
 *
 * The spectral radius is rho (in 0..1: converges). Logits are z itself, D = V. A page has four positions; the look-back
 * is one. With layers before the loop, x_t = one-hot of the token + a x_{t-1} stands in u_t's place and is what they
 * propose as the state; with layers behind it, logits are v_t = z_t + b v_{t-1}. */
#ifndef DEQ_CELL_TOY_H
#define DEQ_CELL_TOY_H

#include "core/cell/cell.h"

enum { DEQ_TOY_PAGE_TOK = 4 };

struct deq_toy {
    size_t dim;             /* D */
    float rho, coupling;    /* c */
    float before, behind;   /* a, b; 0: there are no such layers */
    uint32_t max_positions; /* of a text; 0: any number */
};

/* Dimensions of a cell, as deq_toy_open would make it. */
struct deq_cell deq_toy_shape(const struct deq_toy *of, size_t max_rows, uint32_t n_pages);
enum deq_rc deq_toy_open(const struct deq_toy *of, size_t max_rows, uint32_t n_pages, struct deq_pool *pool,
                         struct deq_cell **ret, struct deq_err *err);
/* From now on the evaluation of `token` gives NaN (UINT32_MAX: never): what a neighbour's broken row looks like. */
void deq_toy_poison(struct deq_cell *c, uint32_t token);
/* Positions that were told to be final, so far; largest number of positions that the layers before the loop took in one
 * call. */
uint64_t deq_toy_commits(const struct deq_cell *c);
size_t deq_toy_largest_batch(const struct deq_cell *c);

#endif
