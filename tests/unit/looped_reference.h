/* The looped kind in plain C and double precision, all positions of a sequence together, as core/cell/looped.h writes
 * it down: what the forms that serve and train are held against. And models of the kind to try them on. */
#ifndef DEQ_TEST_LOOPED_REFERENCE_H
#define DEQ_TEST_LOOPED_REFERENCE_H

#include "core/cell/looped.h"

enum { LOOPED_VARIANTS = 6, LOOPED_T_MAX = 24, LOOPED_W_MAX = 64 };

extern const char *const looped_variant_names[LOOPED_VARIANTS];
/* The three families at toy size, and one with every switch that they leave alone; deq_free. */
struct deq_looped_arch *looped_variant(int i);
/* Every tensor that is trained. */
void looped_random_weights(struct deq_weights *w);

/* [t] positions, of which each uses as many numbers as its part is wide */
struct looped_reference {
    size_t t;
    double e[LOOPED_T_MAX][LOOPED_W_MAX];  /* prelude's output */
    double in[LOOPED_T_MAX][LOOPED_W_MAX]; /* what it injects: e, dt (B e), W_e e */
    double f[LOOPED_T_MAX][LOOPED_W_MAX];  /* f(z) */
    double y[LOOPED_T_MAX][LOOPED_W_MAX];  /* what the head multiplies, of states z */
};

/* z [t, S]; plain weights */
void looped_reference(const struct deq_weights *w, const uint32_t *tokens, const float *z, size_t t,
                      struct looped_reference *ret);
/* of position t of y: [V] */
void looped_reference_logits(const struct deq_weights *w, const struct looped_reference *r, size_t t, double *logits);

#endif
