/* How a model is best solved, unless a request says otherwise. Pure data. */
#ifndef DEQ_DATA_SERVING_H
#define DEQ_DATA_SERVING_H

#include "core/math/format.h"
#include "core/solve/solver.h"

struct deq_serving {
    struct deq_solver_opts solver;
    uint32_t row_window;     /* w: rows solved behind the committed prefix, 1..64 */
    uint32_t prefill_window; /* the same while a prompt is read; 0: row_window */
    enum deq_warm warm;
    enum deq_stop_rule stop;
    float tol_fast, tol_exact; /* what requests may ask for by name; 0: ten times tol, a hundredth of it */
    enum deq_class numeric; /* what it is computed in */
};

static inline float deq_serving_tol_fast(const struct deq_serving *s)
{
    return s->tol_fast > 0 ? s->tol_fast : s->solver.tol * 10;
}

static inline float deq_serving_tol_exact(const struct deq_serving *s)
{
    return s->tol_exact > 0 ? s->tol_exact : s->solver.tol * 0.01f;
}

/* Ranges, and what excludes what; the message names the field of config.json. */
enum deq_rc deq_serving_check(const struct deq_serving *s, bool has_predictor, bool has_proposal, const char *where,
                              struct deq_err *err);

#endif
