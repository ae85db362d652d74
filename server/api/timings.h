/* How long a request took and what for: `timings` of an answer, by the names of llama.cpp's server, and the header
 * Server-Timing (W3C). Of several prompts, which run side by side, the longest time of each kind counts; tokens and
 * evaluations add up. */
#ifndef DEQ_SERVER_TIMINGS_H
#define DEQ_SERVER_TIMINGS_H

#include "core/base/buf.h"
#include "server/net/channel.h"
#include "server/work/sched.h"

struct timings {
    uint64_t queue_ns;     /* from arrival to admission */
    uint64_t prompt_ns;    /* from there to the first token, or to the end where there is none */
    uint64_t predicted_ns; /* from the first token to the last */
    uint64_t cache_n, prompt_n, predicted_n; /* tokens: of prompts from the cache or a state, and solved; generated */
    uint64_t prompt_evaluations, predicted_evaluations;
};

/* Times of a job that has ended at now_ns, and its prompt's tokens. */
void timings_add(struct timings *t, const struct job *j, uint64_t now_ns);
/* {"queue_ms": ...} */
void timings_json(const struct timings *t, struct deq_buf *out);
/* The header of an answer that carries them. */
void timings_tell(const struct timings *t, struct channel *c);
/* ... of a stream, which begins when j is admitted: how long it waited. */
void timings_tell_queue(const struct job *j, struct channel *c);

#endif
