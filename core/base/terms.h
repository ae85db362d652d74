/* The field's words that the public header and the inner floors share. */
#ifndef DEQ_BASE_TERMS_H
#define DEQ_BASE_TERMS_H

#include <stddef.h>
#include <stdint.h>

enum deq_solver_method { DEQ_PICARD, DEQ_ANDERSON, DEQ_BROYDEN };
#define DEQ_SOLVER_CHOICES "picard|anderson|broyden" /* for tables of options, in the order of the enum */

/* How the state of an entering row starts. zero; previous: the state of the position before; predictor: a small fitted map from the
 * position before and the token at hand. A start changes the number of evaluations, never what is converged to. */
enum deq_warm { DEQ_WARM_ZERO, DEQ_WARM_PREVIOUS, DEQ_WARM_PREDICTOR };
#define DEQ_WARM_CHOICES "zero|previous|predictor"

enum { DEQ_ROW_WINDOW_MAX = 64 };

/* Token ids, growing; owned by whoever declared it, given back with deq_tokens_free. */
struct deq_tokens {
    uint32_t *ids;
    size_t n, cap;
};

#endif
