/* What a model takes that a program loads and opens an engine for: bytes and seconds. */
#ifndef DEQ_MODELS_CLI_BENCH_MEMORY_H
#define DEQ_MODELS_CLI_BENCH_MEMORY_H

#include "models/cli/bench/machine.h"
#include "models/cli/bench/subject.h"

/* A list of figures (report.h), for 1 and 32 streams; the subject's model is loaded anew. NULL with err. */
json_t *bench_memory(const struct bench_machine *m, struct bench_subject *s, struct deq_err *err);

#endif
