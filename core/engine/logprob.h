/* Numbers from logits: log-probabilities, and the most probable tokens. Any thread. */
#ifndef DEQ_ENGINE_LOGPROB_H
#define DEQ_ENGINE_LOGPROB_H

#include <stdint.h>

/* What all of a position's log-probabilities have in common, log sum exp(logits) in two parts: found once, it costs
 * every token a subtraction. */
struct deq_log_normaliser {
    float max;
    double log_sum; /* of e^(logits - max) */
};
struct deq_log_normaliser deq_log_normaliser(const float *logits, uint32_t vocab_size);
/* log softmax(logits)[token]; logit: that token's. */
float deq_logprob(const struct deq_log_normaliser *n, float logit);
/* The n most probable tokens in order (ties: lower id first). ids: [n]. */
void deq_top_tokens(const float *logits, uint32_t vocab_size, uint32_t n, uint32_t *ids);

#endif
