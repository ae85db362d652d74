/* The words of solving that also stand in requests, configurations and recipes: methods, warm starts, the window. */
#ifndef DEQ_SOLVE_TERMS_H
#define DEQ_SOLVE_TERMS_H

#include <stdbool.h>
#include <stdint.h>

enum deq_solver_method { DEQ_PICARD, DEQ_ANDERSON, DEQ_BROYDEN };
enum { DEQ_SOLVER_COUNT = DEQ_BROYDEN + 1 };
#define DEQ_SOLVER_CHOICES "picard|anderson|broyden" /* for tables of options, in the order of the enum */

/* How the state of an entering row starts. zero; previous: the state of the position before; predictor: a
 * small fitted map from the position before and the token at hand; proposal: what the model's layers before the loop
 * propose. A start changes the number of evaluations, never what is converged to. */
enum deq_warm { DEQ_WARM_ZERO, DEQ_WARM_PREVIOUS, DEQ_WARM_PREDICTOR, DEQ_WARM_PROPOSAL, DEQ_WARM_COUNT };
#define DEQ_WARM_CHOICES "zero|previous|predictor|proposal"

/* Starts that a number of evaluations is counted from: a function of the tokens alone, not of other states. */
static inline bool deq_warm_is_fixed(enum deq_warm w)
{
    return w == DEQ_WARM_ZERO || w == DEQ_WARM_PROPOSAL;
}

/* When a position counts as solved. residual: ||f(z) - z|| / ||f(z)|| < tol. latent: the change of f(z) from one
 * evaluation to the next, relative, < tol. kl: the divergence of the output distributions of two evaluations < tol.
 * argmax: the most probable word five times the one before. The last two read out every evaluation: a product with the
 * whole head each, of one row at a time (window 1). */
enum deq_stop_rule { DEQ_STOP_AT_RESIDUAL, DEQ_STOP_AT_LATENT, DEQ_STOP_AT_KL, DEQ_STOP_AT_ARGMAX, DEQ_STOP_RULES };
#define DEQ_STOP_RULE_CHOICES "residual|latent|kl|argmax"

static inline bool deq_stop_reads(enum deq_stop_rule r)
{
    return r == DEQ_STOP_AT_KL || r == DEQ_STOP_AT_ARGMAX;
}

/* tol where only the rule is given; argmax has none */
static inline float deq_stop_rule_tol(enum deq_stop_rule r)
{
    return r == DEQ_STOP_AT_LATENT ? 0.03f : r == DEQ_STOP_AT_KL ? 1e-3f : 1e-2f;
}

enum { DEQ_ROW_WINDOW = 8 /* unless it is said */, DEQ_ROW_WINDOW_MAX = 64 };

/* A prompt's window, and how many rows enter it in a step. 0: as wide as a choice's, and filled at once. Else an eighth
 * of it, so that a row starts from one that was evaluated before, and is not solved for long behind rows that are far
 * from their equilibria. It takes about the evaluations of one of half its width that is filled at once, in fewer
 * steps. */
static inline uint32_t deq_prefill_window(uint32_t window, uint32_t prefill_window)
{
    return prefill_window ? prefill_window : window;
}

static inline uint32_t deq_prefill_pace(uint32_t window, uint32_t prefill_window)
{
    return prefill_window ? (prefill_window + 7) / 8 : window;
}

/* Rows that n choices of one prompt take at once: first the prompt's window, then each its own. */
static inline uint64_t deq_window_rows(uint32_t n, uint32_t window, uint32_t prefill_window)
{
    const uint64_t all = (uint64_t)n * window;
    return all > prefill_window ? all : prefill_window;
}

const char *deq_solver_name(enum deq_solver_method m);
bool deq_solver_by_name(const char *name, enum deq_solver_method *ret);
const char *deq_stop_rule_name(enum deq_stop_rule r);
bool deq_stop_rule_by_name(const char *name, enum deq_stop_rule *ret);
const char *deq_warm_name(enum deq_warm w);
bool deq_warm_by_name(const char *name, enum deq_warm *ret);

#endif
