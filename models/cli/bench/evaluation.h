/* The parts of a cell on n rows: n sequences that each have so many positions behind them, or n positions of one prompt
 * that see each other. One evaluation of f; and what a token takes once, layers before and behind the loop and the
 * head. Solver and sampling are not in it. The floor is the larger of two: multiply-adds of the part's matrices at the
 * instruction's peak, and the bytes of these and of the positions that f looks back at, at the rate at which so many
 * bytes are read. */
#ifndef DEQ_MODELS_CLI_BENCH_EVALUATION_H
#define DEQ_MODELS_CLI_BENCH_EVALUATION_H

#include "models/cli/bench/floor.h"
#include "models/cli/bench/subject.h"

/* Lists of figures (report.h), of a subject whose weights are there. NULL with err. */
json_t *bench_evaluations(struct bench_machine *m, const struct bench_subject *s, bool quick, struct deq_err *err);
json_t *bench_ends(struct bench_machine *m, const struct bench_subject *s, bool quick, struct deq_err *err);

#endif
