/* From logits to a token. The draw is counter-based: a function of (seed, position) and the logits, so a guess made early, a retry,
 * or a neighbour in the batch cannot change it. Order of the filters: temperature, top_k, top_p, min_p, draw. Any thread. */
#ifndef DEQ_ENGINE_SAMPLER_H
#define DEQ_ENGINE_SAMPLER_H

#include "core/deq.h"

struct deq_candidate {
    float p;
    uint32_t id;
};

/* The token after `position`. scratch: [V]. Logits that are not finite count as impossible; all of them impossible: the lowest id. */
uint32_t deq_sample(const struct deq_sampling *s, const float *logits, uint32_t vocab_size, size_t position, struct deq_candidate *scratch);
uint32_t deq_argmax(const float *logits, uint32_t vocab_size);

#endif
