/* The kinds there are, on sequences. */
#include "core/cell/looped_seq.h"
#include "core/cell/transformer_seq.h"
#include "core/cell/trellis_seq.h"

static const struct {
    const struct deq_kind *kind;
    enum deq_rc (*new)(const struct deq_arch *a, const struct deq_seq_shape *shape, struct deq_seq **ret,
                       struct deq_err *err);
} kinds[] = {{&deq_transformer_kind, deq_transformer_seq_new},
             {&deq_trellis_kind, deq_trellis_seq_new},
             {&deq_looped_kind, deq_looped_seq_new}};

enum deq_rc deq_seq_new(const struct deq_arch *a, const struct deq_seq_shape *shape, struct deq_seq **ret,
                        struct deq_err *err)
{
    for (size_t i = 0; i < DEQ_COUNT(kinds); i++)
        if (kinds[i].kind == a->kind)
            return kinds[i].new(a, shape, ret, err);
    return deq_fail(err, DEQ_EINVAL, "a model of type %s is served, but neither trained nor scored by segments",
                    a->kind->model_type);
}
