/* Golden tensors of models that are iterated a number of times, all T positions of every sequence from the first:
 *
 *     backbone [B, T, D]     what enters the loop
 *     start [B, T, S]        where loopN and rN begin; without it, where the model's own iterates do
 *     stepsN, loopN, rN      after N evaluations of all positions in lockstep, each attending to keys and values of its
 *                            own evaluation; steps begin where the model's own iterates do
 *     zero, zeroN            the same from zero
 *     stream, streamN        N evaluations of one position after another, from where the model's own iterates begin,
 *                            which attends to keys and values of the last evaluation of those before it
 *     bf16eps                the equilibrium with the qk_norm_eps 2^-7
 *
 * each with .state [B, T, S], .logprobs [B, T, V] or both. Without digits N is the largest of loopN and rN. */
#ifndef DEQ_SCORE_GOLDEN_LOOPS_H
#define DEQ_SCORE_GOLDEN_LOOPS_H

#include "core/score/golden.h"

/* Compares every such tensor of the file; an error of each is added to the report. tokens [B, T] */
enum deq_rc deq_golden_loops(const struct deq_plain *model, const struct deq_safetensors *file, const char *path,
                             const uint32_t *tokens, size_t b, size_t t, const struct deq_solver_opts *o,
                             struct deq_golden_report *r, struct deq_err *err);

#endif
