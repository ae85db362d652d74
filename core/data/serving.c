#include "core/data/serving.h"

enum deq_rc deq_serving_check(const struct deq_serving *s, bool has_predictor, bool has_proposal, const char *where,
                              struct deq_err *err)
{
    if (s->row_window < 1 || s->row_window > DEQ_ROW_WINDOW_MAX)
        return deq_fail(err, DEQ_EFORMAT, "%s: deq.window: %u is outside 1..%d", where, s->row_window,
                        DEQ_ROW_WINDOW_MAX);
    if (s->prefill_window > DEQ_ROW_WINDOW_MAX)
        return deq_fail(err, DEQ_EFORMAT, "%s: deq.prefill_window: %u is outside 0..%d", where, s->prefill_window,
                        DEQ_ROW_WINDOW_MAX);
    if (!(s->solver.tol > 0) && (s->row_window != 1 || s->prefill_window > 1 || !deq_warm_is_fixed(s->warm)))
        return deq_fail(err, DEQ_EFORMAT,
                        "%s: deq.window, deq.prefill_window, deq.warm_start: tol 0 asks for a fixed number of steps, "
                        "which are taken from zero or the proposal with window 1",
                        where);
    if (deq_stop_reads(s->stop) && (s->row_window != 1 || s->prefill_window > 1))
        return deq_fail(err, DEQ_EFORMAT,
                        "%s: deq.window, deq.prefill_window: stop %s reads out every evaluation, of one row at a time: "
                        "must be 1",
                        where, deq_stop_rule_name(s->stop));
    if (s->stop != DEQ_STOP_AT_RESIDUAL && !(s->solver.tol > 0))
        return deq_fail(err, DEQ_EFORMAT, "%s: deq.stop: %s, but tol 0 asks for a fixed number of steps", where,
                        deq_stop_rule_name(s->stop));
    if (s->warm == DEQ_WARM_PREDICTOR && !has_predictor)
        return deq_fail(err, DEQ_EFORMAT,
                        "%s: deq.warm_start: predictor, but the model has none (predictor_hidden_size is 0)", where);
    if (s->warm == DEQ_WARM_PROPOSAL && !has_proposal)
        return deq_fail(err, DEQ_EFORMAT, "%s: deq.warm_start: proposal, but the model makes none", where);
    enum deq_rc rc = deq_solver_check(&s->solver, err);
    return rc ? deq_fail_prefix(err, rc, where) : DEQ_OK;
}
