/* Texts through the engine, as a program that links libdeq has them: generation by streams and windows, prompts by
 * window, and evaluations a token by start and tolerance. Each gives a list of figures (report.h), or NULL with err.
 * Prompts are sentences where the tokenizer reads English, else random tokens. */
#ifndef DEQ_MODELS_CLI_BENCH_GENERATION_H
#define DEQ_MODELS_CLI_BENCH_GENERATION_H

#include "core/deq.h"
#include "models/cli/bench/machine.h"

struct cli_counts; /* cli.h */

struct bench_texts {
    const struct deq_model *model;
    const char *name;
    size_t context; /* tokens of a prompt behind which generation is measured */
    bool brief; /* fewer cases of generation */
    bool quick; /* shorter everything */
    const struct cli_counts *streams, *windows; /* of generation, if any is not empty: these, drawn and greedy */
};

json_t *bench_generation(struct bench_machine *m, const struct bench_texts *t, struct deq_err *err);
json_t *bench_prefill(struct bench_machine *m, const struct bench_texts *t, struct deq_err *err);
json_t *bench_depth(struct bench_machine *m, const struct bench_texts *t, struct deq_err *err);

#endif
