/* Elastic depth: while tokens come later than they should, positions are solved less far. The tolerance of texts that
 * allow it opens by a factor of 1.5 a level, and closes again.
 *
 * A control loop in steps, with a dead band. Gaps between tokens are gathered for two objectives' time at least, so
 * that those which began before the last step are not taken for its effect. Of such a period
 *
 *     more than 1 in 100 gaps, and more than one, above the objective        one level up
 *     else more than 1 in 100 above 0.6 of it                                the level stays
 *     else, and so for 2 s                                                   one level down, and 2 s again
 *
 * The band is wider than one step down can make gaps longer: evaluations of a position grow with the logarithm of
 * 1/tol, so a factor of 1.5 of it costs a fraction of an evaluation.
 *
 * Pure: the caller says what time it is. One owner, one thread. */
#ifndef DEQ_SERVER_ELASTIC_H
#define DEQ_SERVER_ELASTIC_H

#include <stdbool.h>
#include <stdint.h>

struct elastic {
    uint64_t objective_ns;
    unsigned level;             /* 0: as asked */
    uint64_t began_ns, calm_ns; /* of the period; since when gaps are short, or 0 */
    uint32_t gaps, late, near;  /* in the period; above the objective; above 0.6 of it */
};

/* A token came so long after the one before it. */
void elastic_gap(struct elastic *e, uint64_t gap_ns);
/* Ends the period, if it is time to: whether the level changed. highest: from where on a level changes nothing for the
 * texts that allow one, 0 where there are none. busy: texts are under way, so that no gaps are no sign of calm. */
bool elastic_tick(struct elastic *e, unsigned highest, bool busy, uint64_t now_ns);
/* What tol is at a level. */
float elastic_tol(float tol, float tol_max, unsigned level);
/* The level at which it is tol_max. */
unsigned elastic_levels(float tol, float tol_max);
/* By how much a level opens. */
double elastic_factor(unsigned level);

#endif
