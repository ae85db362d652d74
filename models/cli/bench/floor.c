#include "models/cli/bench/floor.h"

/* Seconds. An integer format's weights are one or two bytes, each multiplied by itself. */
static double multiply_adds_s(const struct bench_machine *m, const struct deq_packed *w, size_t rows)
{
    const double n = (double)w->n * (double)w->k * (double)rows;
    return deq_format_is_int(w->format)
               ? n * (double)(deq_int_planes(w->format) * m->peak->per_byte) / m->integers.all
               : n / m->floats.all;
}

static struct bench_floor floor_of(struct bench_machine *m, double multiply_adds, size_t bytes)
{
    const double reading = (double)bytes / bench_read_rate(m, bytes);
    return (struct bench_floor){DEQ_MAX(multiply_adds, reading), reading > multiply_adds};
}

struct bench_floor bench_floor_product(struct bench_machine *m, const struct deq_packed *w, size_t rows)
{
    return floor_of(m, multiply_adds_s(m, w, rows), deq_packed_bytes(w));
}

/* Any matrix of the cell, or of the vocabulary: each have one format. */
static const struct deq_packed *some_matrix(const struct deq_weights *w, bool ends)
{
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_packed *p = w->params[i].packed;
        const enum deq_role role = w->params[i].role;
        if (p && p->data && (ends ? role == DEQ_ROLE_EMBED : role == DEQ_ROLE_MATRIX || role == DEQ_ROLE_RESIDUAL_OUT))
            return p;
    }
    return NULL;
}

struct bench_floor bench_floor_matrices(struct bench_machine *m, const struct bench_subject *s, uint64_t weights,
                                        bool ends, size_t rows, size_t besides)
{
    const struct deq_packed *w = some_matrix(s->weights, ends);
    const double all = (double)weights / ((double)w->n * (double)w->k);
    return floor_of(m, all * multiply_adds_s(m, w, rows), (size_t)(all * (double)deq_packed_bytes(w)) + besides);
}
