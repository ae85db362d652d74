/* The looped kind on whole sequences: seq.h's operations. begin runs the embedding and the prelude, forward is one
 * evaluation of f on all positions together, each attending to the others' keys and values of the same evaluation, and
 * read the coda; end and read_vjp are their VJPs. Positions count from zero in every sequence: nothing lies before it,
 * whatever it is told to remember. */
#ifndef DEQ_CELL_LOOPED_SEQ_H
#define DEQ_CELL_LOOPED_SEQ_H

#include "core/cell/looped.h"
#include "core/cell/seq.h"

enum deq_rc deq_looped_seq_new(const struct deq_arch *a, const struct deq_seq_shape *shape, struct deq_seq **ret,
                               struct deq_err *err);

#endif
