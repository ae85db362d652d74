#include "core/score/caches.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/score/golden.h"

enum deq_rc deq_caches_latest(struct deq_seq *s, unsigned n, float *begin, float *z, struct deq_err *err)
{
    const size_t S = s->state_dim;
    float *out = DEQ_NEW_ARRAY(float, s->n * S);
    if (!out)
        return deq_fail(err, DEQ_ENOMEM, "no memory for %zu states", s->n);
    deq_seq_start(s, begin);
    deq_seq_start(s, z);
    for (size_t t = 0; t < s->t; t++)
        for (unsigned k = 0; k < n; k++) {
            s->ops->forward(s, 0, begin, out);
            for (size_t b = 0; b < s->b; b++) {
                const size_t at = (b * s->t + t) * S;
                memcpy((k + 1 < n ? begin : z) + at, out + at, S * sizeof(float));
            }
        }
    deq_free(out);
    return DEQ_OK;
}

enum deq_rc deq_caches_compare(struct deq_segment *segment, const uint32_t *tokens, const uint32_t *depths,
                               size_t n_depths, struct deq_cache_gaps *gaps, struct deq_err *err)
{
    struct deq_seq *s = segment->seq;
    const size_t S = s->n * s->state_dim, V = s->n * s->vocab.size;
    float *begin = DEQ_NEW_ARRAY(float, S), *z = DEQ_NEW_ARRAY(float, S), *full = DEQ_NEW_ARRAY(float, V),
          *latest = DEQ_NEW_ARRAY(float, V), *equilibrium = DEQ_NEW_ARRAY(float, V);
    struct deq_solve_report r;
    enum deq_rc rc = begin && z && full && latest && equilibrium
                         ? deq_segment_solve(segment, tokens, s->t, NULL, &r, err)
                         : deq_fail(err, DEQ_ENOMEM, "no memory for %zu positions", s->n);
    if (!rc)
        rc = deq_seq_logprobs(s, segment->z, equilibrium, err);
    for (size_t i = 0; i < n_depths && !rc; i++) {
        deq_seq_start(s, z);
        for (uint32_t k = 0; k < depths[i]; k++)
            s->ops->forward(s, 0, z, z);
        rc = deq_seq_logprobs(s, z, full, err);
        if (!rc)
            rc = deq_caches_latest(s, depths[i], begin, z, err);
        if (!rc)
            rc = deq_seq_logprobs(s, z, latest, err);
        gaps[i] = (struct deq_cache_gaps){deq_golden_worst(0, full, latest, V),
                                          deq_golden_worst(0, full, equilibrium, V),
                                          deq_golden_worst(0, latest, equilibrium, V)};
    }
    deq_free(begin);
    deq_free(z);
    deq_free(full);
    deq_free(latest);
    deq_free(equilibrium);
    return rc;
}
