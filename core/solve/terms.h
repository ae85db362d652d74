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
bool deq_warm_is_fixed(enum deq_warm w);

/* When a position counts as solved. residual: ||f(z) - z|| / ||f(z)|| < tol. latent: the change of f(z) from one
 * evaluation to the next, relative, < tol. kl: the divergence of the output distributions of two evaluations < tol.
 * argmax: the most probable word five times the one before. The last two read out every evaluation: a product with the
 * whole head each, of one row at a time (window 1). */
enum deq_stop_rule { DEQ_STOP_AT_RESIDUAL, DEQ_STOP_AT_LATENT, DEQ_STOP_AT_KL, DEQ_STOP_AT_ARGMAX, DEQ_STOP_RULES };
#define DEQ_STOP_RULE_CHOICES "residual|latent|kl|argmax"

bool deq_stop_reads(enum deq_stop_rule r);

/* tol where only the rule is given; argmax has none */
float deq_stop_rule_tol(enum deq_stop_rule r);

enum { DEQ_ROW_WINDOW = 8 /* unless it is said */, DEQ_ROW_WINDOW_MAX = 64 };

/* How a request is solved. */
struct deq_solve_params {
    enum deq_solver_method solver;
    enum deq_warm warm_start;
    enum deq_stop_rule stop; /* what tol is of */
    float tol; /* relative residual ||f(z)-z|| / ||f(z)||; 0: exactly max_iter evaluations, with window 1 from zero */
    uint32_t max_iter;       /* evaluations of a row once all before it are final; 0: the proposal is the state */
    uint32_t min_iter;
    uint32_t window;         /* rows solved behind the committed prefix, 1..64 */
    uint32_t prefill_window; /* the same while the prompt is read, 1..64; 0: window */
    uint64_t max_evaluations; /* of a text, at its positions behind the prompt; only with window 1. 0: any number */
};

/* A prompt's window; 0: as wide as a choice's. */
uint32_t deq_prefill_window(uint32_t window, uint32_t prefill_window);
/* Rows that n choices of one prompt take at once: first the prompt's window, then each its own. */
uint64_t deq_window_rows(uint32_t n, uint32_t window, uint32_t prefill_window);

const char *deq_solver_name(enum deq_solver_method m);
bool deq_solver_by_name(const char *name, enum deq_solver_method *ret);
const char *deq_stop_rule_name(enum deq_stop_rule r);
bool deq_stop_rule_by_name(const char *name, enum deq_stop_rule *ret);
const char *deq_warm_name(enum deq_warm w);
bool deq_warm_by_name(const char *name, enum deq_warm *ret);

#endif
