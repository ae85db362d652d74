/* From logits to a token. The draw is counter-based: a function of (seed, choice, position) and the logits, so a guess
 * made early, a retry, or a neighbour in the batch cannot change it. Order: bias, penalties, forbidden tokens,
 * temperature, top_k, top_p, min_p, draw. Any thread. */
#ifndef DEQ_ENGINE_SAMPLER_H
#define DEQ_ENGINE_SAMPLER_H

#include "core/data/vocab.h"
#include "core/deq.h"

struct deq_candidate {
    float p;
    uint32_t id;
};

/* The draw of one request: what it asked for, and the tokens that it may look back at. */
struct deq_sample_history {
    const uint32_t *prompt, *text; /* [n_prompt], [n_text]: generated and known */
    size_t n_prompt, n_text;
    const uint32_t *guessed;       /* [n_guessed]: generated and not final, after text */
    size_t n_guessed;
    int64_t eos_id;                /* -1: none */
};

/* Scratch of one thread, [V] each. counts is all zeros between calls. */
struct deq_sample_scratch {
    struct deq_candidate *candidates;
    float *adjusted, *weights;
    uint32_t *counts;
};

/* Whether deq_sample_adjust changes anything. */
bool deq_sample_adjusts(const struct deq_sampling *s);
/* Whether the pick is the most probable word of the logits as they are. */
bool deq_sample_is_argmax(const struct deq_sampling *s);
/* scratch->adjusted = the logits that are picked from: bias, penalties, forbidden tokens applied. */
void deq_sample_adjust(const struct deq_sampling *s, const struct deq_sample_history *h, const float *logits,
                       uint32_t vocab_size, struct deq_sample_scratch *scratch);

/* Of a vocabulary cut into clusters: the shortlist's log-probabilities stand in the logits, a further
 * cluster's only where known. */
struct deq_tails {
    const struct deq_vocab *vocab;
    const float *logprob; /* [n_cutoffs] of cluster 1, 2, ... */
    uint32_t known;       /* bit c: cluster c's log-probabilities stand in the logits */
};

/* Whether the pick needs the whole distribution; else deq_sample asks for the clusters that it needs. */
bool deq_sample_needs_full(const struct deq_sampling *s);
/* The token after `position` of a choice, or UINT32_MAX: ret_need is the cluster that must be known first. What is
 * picked does not depend on which others are known.
 *   greedy        a cluster that is not more probable than the best word so far has no better word
 *   temperature   rejection from an envelope: the shortlist's exact masses, and for a cluster the most that its words
 *                 can have together, p^(1/T) n^(1-1/T) (n^0 for T < 1). A draw that falls in a cluster asks for it;
 *                 one that falls outside its true mass is drawn again with that mass. */
uint32_t deq_sample_clusters(const struct deq_sampling *s, const struct deq_tails *t, const float *logits,
                             uint32_t choice, size_t position, struct deq_sample_scratch *scratch, uint32_t *ret_need);

/* The token after `position` of a choice; logits may be scratch->adjusted. Logits that are not finite count as
 * impossible; all of them impossible: the lowest id. */
uint32_t deq_sample(const struct deq_sampling *s, const float *logits, uint32_t vocab_size, uint32_t choice,
                    size_t position, struct deq_sample_scratch *scratch);
uint32_t deq_argmax(const float *logits, uint32_t vocab_size);

#endif
