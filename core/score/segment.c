#include "core/score/segment.h"

#include "core/base/mem.h"

enum deq_rc deq_segment_new(const struct deq_arch *a, const struct deq_weights *w, size_t streams, size_t segment,
                            size_t memory, const struct deq_solver_opts *o, struct deq_segment **ret,
                            struct deq_err *err)
{
    const struct deq_seq_shape shape = {.b = streams, .t = segment, .memory = memory, .n_tapes = 1};
    struct deq_segment *s = DEQ_NEW(struct deq_segment);
    if (!s)
        return deq_fail(err, DEQ_ENOMEM, "no memory for segments");
    *s = (struct deq_segment){.weights = w, .solver = *o, .streams = streams, .t_max = segment};
    enum deq_rc rc = deq_solver_check(o, err);
    if (!rc)
        rc = deq_seq_new(a, &shape, &s->seq, err);
    if (!rc) {
        const size_t dim = segment * s->seq->state_dim;
        s->z = DEQ_NEW_ARRAY(float, streams * dim);
        s->start = DEQ_NEW_ARRAY(float, streams * dim);
        s->scratch = DEQ_NEW_ARRAY(float, deq_solve_floats(o, streams, dim));
        if (!s->z || !s->start || !s->scratch)
            rc = deq_fail(err, DEQ_ENOMEM, "no memory to solve %zu segments of %zu positions", streams, segment);
    }
    if (rc)
        deq_segment_free(s);
    else
        *ret = s;
    return rc;
}

void deq_segment_free(struct deq_segment *s)
{
    if (!s)
        return;
    deq_seq_free(s->seq);
    deq_free(s->z);
    deq_free(s->start);
    deq_free(s->scratch);
    deq_free(s);
}

static void evaluate(void *ctx, const float *z, float *fz)
{
    struct deq_seq *s = ctx;
    s->ops->forward(s, 0, z, fz);
}

enum deq_rc deq_segment_solve(struct deq_segment *s, const uint32_t *tokens, size_t t, float *shown,
                              struct deq_solve_report *ret, struct deq_err *err)
{
    const size_t dim = t * s->seq->state_dim;
    deq_seq_length(s->seq, t);
    s->seq->ops->begin(s->seq, s->weights, tokens, NULL);
    deq_seq_start(s->seq, s->start);
    deq_solve(&s->solver, s->streams, dim, evaluate, s->seq, s->start, s->z, s->scratch, NULL, ret);
    if (!ret->finite)
        return deq_fail(err, DEQ_ENUMERIC, "the solver met values that are not finite");
    s->seq->ops->remember(s->seq, s->z, shown);
    return DEQ_OK;
}
