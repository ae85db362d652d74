/* Root finders for the equilibrium z* = f(z*), as a step on one system at a time.
 *
 * Notation: g(z) = f(z) - z is the residual vector; z* is a root of g. The caller evaluates f (on as many systems at
 * once as it likes) and hands z and f(z) of each system to deq_solver_step, which writes the next iterate. A system's
 * state is private, so what happens to one never depends on its neighbours: in the engine a system is one row (a
 * position), in training a whole sequence.
 *
 * Residual and stop rule (those of locuslab/deq and locuslab/torchdeq, so that iteration counts compare):
 *     rel:  ||f(z) - z|| / (||f(z)|| + 1e-9)  < tol         abs:  ||f(z) - z|| < tol         (2-norms over the system)
 *
 * Picard:    z+ = z + beta*g(z).  Converges when the Jacobian's spectral radius is below 1.
 *
 * Anderson (type II; Walker and Ni, "Anderson acceleration for fixed-point iterations", SINUM 2011; Bai et al. 2019,
 * 2021): keep the last M pairs (z_i, f(z_i)), G = rows g_i;
 *     alpha = argmin ||sum alpha_i g_i||^2 + lambda |alpha|^2,  sum alpha_i = 1
 *     z+ = sum alpha_i ((1-beta) z_i + beta f(z_i))
 *     The minimiser is alpha = H^-1 1 / (1' H^-1 1) with H = G G' + lambda I (the same as the bordered system of the
 *     PyTorch codes). lambda is reg * ||g_newest||^2 + 1e-7 * max ||g_i||^2: relative to the residual, where an
 *     absolute one would freeze the weights at 1/M once the residual is small. H is M x M, solved by Cholesky in
 *     double; if it is not positive definite the step is Picard's.
 *
 * Broyden (good Broyden, limited memory; Broyden 1965, Bai et al. 2019 section 3.1.3): an approximation of the inverse
 * Jacobian of g, updated by Sherman-Morrison:
 *     J^-1 = -I + sum u_i v_i',    u = (dz - J^-1 dg) / (dz' J^-1 dg),  v = J^-T dz
 *     z+ = z - J^-1 g
 *     After M updates the sum starts again from -I. No line search: every trial would be an evaluation of f for one
 *     system alone; the safeguard below replaces it.
 *
 * Safeguard: when a residual exceeds 4 times the best one since the last restart, history is dropped and the step is
 * Picard's.
 * Best iterate: the caller keeps it (deq_solve does; the engine does), because only it knows when an old one is still
 * valid.
 * tol 0 asks for a fixed number of steps (models that were trained so have no equilibrium to reach): then the newest
 * iterate counts, not the best.
 * NaN or infinity in f(z) gives a residual that is not finite: check it before stepping.
 *
 * Memory: deq_solver_floats(opts, dim) floats a system, given by the caller; nothing is allocated. Any thread, one at a
 * time a system. */
#ifndef DEQ_SOLVE_SOLVER_H
#define DEQ_SOLVE_SOLVER_H

#include "core/base/base.h"
#include "core/base/err.h"
#include "core/solve/terms.h"

enum deq_stop_mode { DEQ_STOP_REL, DEQ_STOP_ABS };

enum { DEQ_SOLVER_MEMORY_MAX = 16 };

struct deq_solver_opts {
    enum deq_solver_method method;
    enum deq_stop_mode stop;
    unsigned memory;   /* M: pairs kept by Anderson, updates kept by Broyden; 1..16 */
    unsigned max_iter; /* evaluations of f at most; >= 1 */
    unsigned min_iter; /* evaluations of f at least */
    unsigned patience; /* deq_solve gives up after so many evaluations without a better residual of any system, where
                        * rounding keeps it from tol; 0: it does not */
    float tol;         /* >= 0; 0: exactly max_iter evaluations */
    float beta;        /* mixing, (0, 1] */
    float reg;         /* Anderson's regularisation, >= 0 */
};

/* anderson, memory 3, tol 1e-2 rel, 32 iterations, beta 1, reg 1e-4 */
struct deq_solver_opts deq_solver_defaults(void);
enum deq_rc deq_solver_check(const struct deq_solver_opts *o, struct deq_err *err);

/* State of one system. `mem` has deq_solver_floats() floats. */
struct deq_solver {
    unsigned n, next;  /* pairs or updates held; ring position */
    float best;        /* smallest residual since the last restart */
    bool has_previous; /* Broyden: dz and dg can be formed */
    float *mem;
    double gram[DEQ_SOLVER_MEMORY_MAX][DEQ_SOLVER_MEMORY_MAX]; /* Anderson: G G' */
};

size_t deq_solver_floats(const struct deq_solver_opts *o, size_t dim);
void deq_solver_restart(struct deq_solver *s);
/* fz, z: [dim] */
float deq_solver_residual(const struct deq_solver_opts *o, size_t dim, const float *z, const float *fz);
/* z [dim]: the iterate in, the next one out. residual: of this (z, fz). */
void deq_solver_step(const struct deq_solver_opts *o, struct deq_solver *s, size_t dim, float *z, const float *fz,
                     float residual);

/* --- Joint solve of n systems that are always evaluated together (training; segments) --- */

typedef void (*deq_solve_fn)(void *ctx, const float *z, float *fz); /* z, fz: [n, dim] */

struct deq_solve_report {
    unsigned evaluations;  /* calls of f */
    float residual_max;    /* over systems, of the returned iterate */
    float residual_mean;
    bool converged;        /* all systems */
    bool newest;           /* the last call of f was on the iterates returned: what it left behind is theirs */
    bool finite;           /* false: some system became NaN or infinite; its best finite iterate
                            * (or its start) is returned */
};

/* Floats of scratch that deq_solve needs. */
size_t deq_solve_floats(const struct deq_solver_opts *o, size_t n, size_t dim);
/* z [n, dim]: start in, best iterate out. Stops when every system converged or after max_iter evaluations. A system
 * that has converged keeps its iterate. ret_fz (may be NULL) [n, dim] receives f at that iterate, which is closer by
 * one evaluation (k evaluations of Picard from z0 give f^k(z0)); z where there was no finite one. trace (may be NULL)
 * receives the mean residual of every evaluation, [max_iter]. */
void deq_solve(const struct deq_solver_opts *o, size_t n, size_t dim, deq_solve_fn f, void *ctx, float *z,
               float *ret_fz, float *scratch, float *trace, struct deq_solve_report *ret);

#endif
