/* What every kind of cell on sequences (core/cell/seq.h) must show, whatever its equations. */
#ifndef TESTS_UNIT_SEQ_CHECKS_H
#define TESTS_UNIT_SEQ_CHECKS_H

#include "core/cell/seq.h"

/* Random numbers by role: gains near 1, matrices by fan-in, the rest small. NULL: no memory */
struct deq_weights *random_weights(const struct deq_arch *a, uint64_t seed);
/* Every VJP: finite differences along every tensor, the adjoint identity, causality. d: dropout of the
 * finite differences, or NULL. */
void check_seq(const struct deq_arch *a, size_t b, size_t t, const struct deq_dropout *d);

#endif
