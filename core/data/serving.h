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
    enum deq_class numeric; /* what it is computed in */
};

/* Ranges, and what excludes what; the message names the field of config.json. */
enum deq_rc deq_serving_check(const struct deq_serving *s, bool has_predictor, const char *where, struct deq_err *err);

#endif
