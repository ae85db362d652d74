/* Keys and values of a looped model's core, as the code bases keep them for later positions, after N evaluations each:
 *
 *     full         a slot for every evaluation (and layer): an evaluation attends to those of the same number. The same
 *                  as all positions in lockstep; Parcae's and Huginn's default
 *     latest       one slot, which holds the last evaluation's: Parcae's compress-s1, Huginn's compress-sC of C layers.
 *                  What is served where the number of evaluations ends a position
 *     equilibrium  one slot, which holds those at the fixed point: what is served where the residual does
 *
 * The three are one as N grows, where there is a fixed point. How far apart they are before is what this measures. */
#ifndef DEQ_SCORE_CACHES_H
#define DEQ_SCORE_CACHES_H

#include "core/score/segment.h"

struct deq_cache_gaps { /* largest absolute difference in log-probability, over all positions and tokens */
    double full_latest, full_equilibrium, latest_equilibrium;
};

/* gaps [n_depths] of tokens [streams, t] after depths [n_depths] evaluations, from where the model's iterates begin.
 * The segment is as long as they are, and new. */
enum deq_rc deq_caches_compare(struct deq_segment *s, const uint32_t *tokens, const uint32_t *depths, size_t n_depths,
                               struct deq_cache_gaps *gaps, struct deq_err *err);

/* Of a segment that has begun: z [N, S] = the states after n evaluations of one position after another, each of which
 * attends to keys and values of the last evaluation of those before it. begin [N, S]: where that one of each began, so
 * that another evaluation of the whole finds its keys and values again. */
enum deq_rc deq_caches_latest(struct deq_seq *s, unsigned n, float *begin, float *z, struct deq_err *err);

#endif
