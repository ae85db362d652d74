/* Small engines over the golden models, for the targets that read what engines leave on disk. */
#ifndef DEQ_FUZZ_ENGINES_H
#define DEQ_FUZZ_ENGINES_H

#include "core/engine/engine_impl.h"
#include "core/engine/saved.h"

enum { FUZZ_MODELS = 3, FUZZ_TOKENS = 24, FUZZ_TOKENS_MAX = 40 };

extern const char *const fuzz_models[FUZZ_MODELS];
/* What files are said to be of, so that they stay good when a golden model becomes another. */
struct deq_saved_of fuzz_saved_of(const char *format, unsigned model);
/* One sequence, blocks of 16 positions, one thread. */
struct deq_engine *fuzz_engine(unsigned model);
/* A request that is always the same: FUZZ_TOKENS tokens (of FUZZ_TOKENS_MAX that there are), or none behind a
 * state. */
struct deq_request fuzz_request(unsigned model, const struct deq_state *behind);
/* Submits and runs it; it ends once, and no page is anybody's afterwards but the prefix cache's. */
void fuzz_solve(struct deq_engine *e, const struct deq_request *q);

#endif
