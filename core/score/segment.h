/* Texts as the code of the DEQ authors reads them when it trains and evaluates: in segments, each solved jointly, with
 * a memory of the segments before.
 *
 *     segment k = positions k*T .. k*T+T-1 of each stream;   z* = f(z*; tokens, memory)
 *     one system [T, S] a stream, so one set of Anderson weights, one Broyden matrix, one residual a stream
 *     memory = the last M positions' z* and injections, fixed
 *
 * (locuslab/deq DEQ-Sequence, torchdeq deq-lm: _forward and _update_mems.) It is for parity with those codes and
 * for perplexities that compare with theirs; the engine does not use it. Causality makes a position's
 * equilibrium the same in both as long as both see the same positions: here a position sees between M and M + T
 * of them, in the engine as many as the cell looks back. The window cuts here too where the two together are longer.
 * One thread an object; borrows the weights. */
#ifndef DEQ_SCORE_SEGMENT_H
#define DEQ_SCORE_SEGMENT_H

#include "core/cell/seq.h"
#include "core/solve/solver.h"

struct deq_segment {
    struct deq_seq *seq;
    const struct deq_weights *weights;
    struct deq_solver_opts solver;
    size_t streams, t_max;
    float *z; /* [streams, t, S] f at the equilibrium of the last segment */
    float *start, *scratch;
};

enum deq_rc deq_segment_new(const struct deq_arch *a, const struct deq_weights *w, size_t streams, size_t segment,
                            size_t memory, const struct deq_solver_opts *o, struct deq_segment **ret,
                            struct deq_err *err);
void deq_segment_free(struct deq_segment *s);
/* Solves the next segment, tokens [streams, t], t at most the segment's length; s->z and the memory then
 * hold it. shown: the states as the authors' code lists them (seq.h), or NULL. DEQ_ENUMERIC when the
 * solver met values that are not finite. */
enum deq_rc deq_segment_solve(struct deq_segment *s, const uint32_t *tokens, size_t t, float *shown,
                              struct deq_solve_report *ret, struct deq_err *err);

#endif
