/* Steps of training a model's architecture from its own weights, as models/recipes/stories-transformer.yaml has them: a
 * batch of eight sequences of 256 tokens, Muon, a shallow network of four evaluations, then the equilibrium with two
 * recorded evaluations and the Jacobian penalty at every third step. */
#ifndef DEQ_MODELS_CLI_BENCH_TRAINING_H
#define DEQ_MODELS_CLI_BENCH_TRAINING_H

#include "models/cli/bench/machine.h"
#include "models/cli/bench/subject.h"

/* A list of figures (report.h). NULL with err. The floor has the products, of the penalty's evaluations too, at the
 * peak of float32. */
json_t *bench_training(struct bench_machine *m, const struct bench_subject *s, bool quick, struct deq_err *err);

#endif
