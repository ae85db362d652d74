/* Products of a model's packed matrices with rows of random numbers, on all threads. */
#ifndef DEQ_MODELS_CLI_BENCH_PRODUCTS_H
#define DEQ_MODELS_CLI_BENCH_PRODUCTS_H

#include "models/cli/bench/machine.h"
#include "models/cli/bench/subject.h"

/* A list of figures (report.h), one a matrix and number of rows. NULL with err. quick: a few rows of small matrices. */
json_t *bench_products(struct bench_machine *m, const struct bench_subject *s, bool quick, struct deq_err *err);

#endif
