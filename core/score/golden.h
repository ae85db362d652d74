/* A model against a golden file: equilibria and log-probabilities that other code computed for the same tokens.
 * Segments are solved jointly, each with what lies before it (segment.h): what the authors' evaluation does.
 *
 * Numbers are float32, sums of products double: states of a model that is run for a fixed number of steps grow to
 * hundreds, where one unit in the last place of a float is 3e-5, and the order of a float sum would show.
 *
 *     tokens [B, T] I64;  segmentN.equilibrium [B, t, S], segmentN.logprobs [B, t, V] F32, N = 0, 1, ...:
 *     the first t tokens, the next t, ...;  S: shown_dim of seq.h
 *
 * and what golden_loops.h adds of models that are iterated a number of times. */
#ifndef DEQ_SCORE_GOLDEN_H
#define DEQ_SCORE_GOLDEN_H

#include "core/score/caches.h"
#include "core/score/plain.h"

enum { DEQ_GOLDEN_NAME = 64 };

struct deq_golden_report {
    double z_error, logprob_error;         /* of segments: largest absolute differences; a NaN counts as infinity */
    struct deq_golden_tensor {
        char name[DEQ_GOLDEN_NAME];
        double error;
    } *tensor;                             /* [n_tensors] all that were compared */
    size_t n_tensors;
    unsigned evaluations, evaluations_all; /* of the segment that took most; of all */
    float residual_max;
    size_t segments, sequences;
};

/* How the segments of a model are solved: to an equilibrium as good as float32 can tell, or by its number of steps. */
struct deq_solver_opts deq_golden_solver(const struct deq_arch *a);

/* On success the report is the caller's: deq_golden_report_free.
 * memory: positions of it, NULL: the model's segment_memory, or without one the first segment's length.
 * progress, after every segment, may be NULL. */
enum deq_rc deq_golden_compare(const struct deq_plain *model, const char *path, const struct deq_solver_opts *o,
                               const size_t *memory, void (*progress)(const struct deq_golden_report *so_far),
                               struct deq_golden_report *ret, struct deq_err *err);
void deq_golden_report_free(struct deq_golden_report *r);
/* What the policies of caches.h make of the file's tokens; DEQ_EINVAL: not a looped model. */
enum deq_rc deq_golden_caches(const struct deq_plain *model, const char *path, const struct deq_solver_opts *o,
                              const uint32_t *depths, size_t n_depths, struct deq_cache_gaps *gaps,
                              struct deq_err *err);

/* --- For golden_loops.c --- */

/* The larger of so_far and max |x - y| of x, y [n]. */
double deq_golden_worst(double so_far, const float *x, const float *y, size_t n);
/* A tensor of the file was compared. */
void deq_golden_note(struct deq_golden_report *r, const char *name, double error);

#endif
