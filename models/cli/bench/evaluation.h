/* One evaluation of f on n rows: n sequences that each have so many positions behind them, or n positions of one prompt
 * that see each other. Solver, head and sampling are not in it. Its floor is the larger of two: multiply-adds of the
 * cell's matrices at the instruction's peak, and the bytes of these and of the positions that are looked back at, at
 * the rate at which so many bytes are read. */
#ifndef DEQ_MODELS_CLI_BENCH_EVALUATION_H
#define DEQ_MODELS_CLI_BENCH_EVALUATION_H

#include "models/cli/bench/floor.h"
#include "models/cli/bench/subject.h"

/* A list of figures (report.h). NULL with err. */
json_t *bench_evaluations(struct bench_machine *m, const struct bench_subject *s, bool quick, struct deq_err *err);

#endif
