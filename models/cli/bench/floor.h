/* The least time that work can take on this machine: multiply-adds at the peak of the class's instruction, bytes at the
 * rate at which so many are read, whichever is longer. */
#ifndef DEQ_MODELS_CLI_BENCH_FLOOR_H
#define DEQ_MODELS_CLI_BENCH_FLOOR_H

#include "models/cli/bench/machine.h"
#include "models/cli/bench/subject.h"

struct bench_floor {
    double seconds;
    bool of_bytes; /* else of multiply-adds */
};

/* A product of n rows with one matrix, which are read alone, again and again. */
struct bench_floor bench_floor_product(struct bench_machine *m, const struct deq_packed *w, size_t rows);
/* n rows with matrices of so many weights together, of the cell or (ends) of the vocabulary, and so many bytes besides.
 * The subject's weights are there. */
struct bench_floor bench_floor_matrices(struct bench_machine *m, const struct bench_subject *s, uint64_t weights,
                                        bool ends, size_t rows, size_t besides);

#endif
