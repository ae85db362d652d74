/* The trellis network on whole sequences: seq.h's operations. */
#ifndef DEQ_CELL_TRELLIS_SEQ_H
#define DEQ_CELL_TRELLIS_SEQ_H

#include "core/cell/seq.h"
#include "core/cell/trellis.h"

enum deq_rc deq_trellis_seq_new(const struct deq_arch *a, const struct deq_seq_shape *shape, struct deq_seq **ret,
                                struct deq_err *err);

#endif
