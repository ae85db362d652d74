/* core/data/serving.c: how a model may be solved, and what excludes what. */
#include "core/data/serving.h"

#include "tests/unit/test.h"

TEST(serving_refuses_by_key)
{
    const struct deq_serving good = {.solver = deq_solver_defaults(), .row_window = 8, .warm = DEQ_WARM_PREVIOUS};
    struct deq_serving s;
    struct deq_err err = {0};
    CHECK(!deq_serving_check(&good, false, false, "here", &err));
#define BAD(change, word)                                                                                    \
    do {                                                                                                     \
        s = good;                                                                                            \
        change;                                                                                              \
        CHECK_MSG(deq_serving_check(&s, false, false, "here", &err) < 0 && !strncmp(err.text, "here: ", 6) &&       \
                      strstr(err.text, word),                                                                \
                  "%s: %s", #change, err.text);                                                              \
    } while (0)
    BAD(s.row_window = 0, "deq.window: 0 is outside 1..64");
    BAD(s.row_window = DEQ_ROW_WINDOW_MAX + 1, "deq.window: 65 is outside 1..64");
    BAD(s.prefill_window = DEQ_ROW_WINDOW_MAX + 1, "deq.prefill_window: 65 is outside 0..64");
    BAD(s.warm = DEQ_WARM_PREDICTOR, "deq.warm_start: predictor, but the model has none");
    BAD(s.stop = DEQ_STOP_AT_KL, "deq.window, deq.prefill_window: stop kl reads out every evaluation");
    BAD((s.stop = DEQ_STOP_AT_LATENT, s.row_window = 1, s.solver.tol = 0, s.warm = DEQ_WARM_ZERO), "deq.stop: latent");
    BAD(s.warm = DEQ_WARM_PROPOSAL, "deq.warm_start: proposal, but the model makes none");
    BAD(s.solver.tol = 0, "deq.window, deq.prefill_window, deq.warm_start: tol 0 asks for a fixed number of steps");
    BAD((s.solver.tol = 0, s.row_window = 1, s.warm = DEQ_WARM_ZERO, s.prefill_window = 2), "tol 0 asks for a fixed");
    BAD((s.solver.tol = 0, s.row_window = 1), "tol 0 asks for a fixed number of steps");
    BAD(s.solver.memory = 0, "memory");
#undef BAD
    s = good;
    s.warm = DEQ_WARM_PREDICTOR;
    CHECK(!deq_serving_check(&s, true, false, "here", &err));
    s = good;
    s.solver.tol = 0;
    s.row_window = 1;
    s.warm = DEQ_WARM_ZERO;
    CHECK(!deq_serving_check(&s, false, false, "here", &err));
    s.warm = DEQ_WARM_PROPOSAL;
    CHECK(!deq_serving_check(&s, false, true, "here", &err));
}
