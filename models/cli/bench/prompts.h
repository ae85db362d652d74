/* What `deq bench serve` sends: the server's model, prompts cut from a text or drawn, and the bodies of all requests,
 * made before the clock starts. No sockets: the server is asked by load.h. */
#ifndef DEQ_MODELS_CLI_BENCH_PROMPTS_H
#define DEQ_MODELS_CLI_BENCH_PROMPTS_H

#include "models/cli/bench/load.h"

/* Asks the server for its model (and for the tokens of a text) and makes the body of every call. False: err says why,
 * and what to do. */
bool bench_prompts_make(struct bench *b);

#endif
