#include "core/cell/near.h"

#include <math.h>
#include <string.h>

#include "core/math/kern.h"

static const float SLACK = 1.01f;

bool deq_near_can(const struct deq_vocab *v)
{
    return !v->n_cutoffs && !deq_projects(v);
}

static size_t units(const struct deq_vocab *v)
{
    return (v->size + DEQ_PANEL_UNIT - 1) / DEQ_PANEL_UNIT;
}

void deq_near_lay_out(struct deq_near *n, const struct deq_vocab *v, enum deq_class c, unsigned threads,
                      struct deq_layout *l)
{
    if (!deq_near_can(v))
        return;
    DEQ_PART(l, n->length, v->size);
    DEQ_PART(l, n->thread, threads);
    for (unsigned i = 0; i < threads; i++) {
        struct deq_near_scratch counted, *own = l->base ? &n->thread[i] : &counted;
        DEQ_PART(l, own->x, deq_vocab_out(v));
        DEQ_PART(l, own->before, deq_vocab_out(v));
        DEQ_PART(l, own->unit, DEQ_PANEL_UNIT);
        DEQ_PART(l, own->most, units(v));
        DEQ_PART(l, own->operand, deq_class_operand_bytes(c, deq_vocab_out(v)));
    }
}

static float length(const float *x, size_t n)
{
    return sqrtf(deq_kern()->dot(x, x, n));
}

void deq_near_init(struct deq_near *n, const struct deq_vocabulary *v)
{
    const struct deq_packed *w = &v->packed.head[0];
    n->v = v;
    if (!deq_near_can(&v->shape))
        return;
    const float K = (float)w->k;
    n->rounding = deq_format_is_int(w->format) ? sqrtf(K) / 64000 : (K + 1) * 0x1p-24f;
    n->longest = 0;
    for (size_t i = 0; i < w->n; i++) {
        float *row = n->thread[0].x;
        double sum = 0;
        deq_packed_row(w, i, row);
        for (size_t k = 0; k < w->k; k++)
            sum += (double)row[k] * (double)row[k];
        n->length[i] = (float)sqrt(sum) + (v->head_bias ? fabsf(v->head_bias[i]) : 0) + 1e-30f;
        n->longest = n->length[i] <= n->longest ? n->longest : n->length[i]; /* NaN stays */
    }
}

/* How far a logit may have moved, relative to its word's length; INFINITY: numbers are so large that something may
 * overflow. */
static float reach(const struct deq_near *n, const struct deq_near_scratch *s)
{
    const struct deq_kern *k = deq_kern();
    const size_t Y = deq_vocab_out(&n->v->shape);
    const float sizes = fmaxf(1, length(s->x, Y) + length(s->before, Y));
    const float moved = sqrtf(k->diff_sumsq(s->x, s->before, Y));
    return n->longest * sizes < 1e30f ? SLACK * (moved + sizes * (n->rounding + 8 * 0x1p-24f)) : INFINITY;
}

/* The logits of a unit of words, as deq_vocabulary_head has them, and what is best of them and of (top, best). */
static void read_unit(const struct deq_near *n, const struct deq_near_scratch *s, size_t u, float *top,
                      uint32_t *best)
{
    const struct deq_packed *w = &n->v->packed.head[0];
    const struct deq_operand x = deq_operand(w->format, s->x, w->k, s->operand, w->k);
    const size_t at = u * DEQ_PANEL_UNIT, count = DEQ_MIN(w->n - at, (size_t)DEQ_PANEL_UNIT);
    deq_multiply_unit(&x, w, at, s->unit);
    if (n->v->head_bias)
        deq_kern()->add(s->unit, s->unit, n->v->head_bias + at, count);
    for (size_t i = 0; i < count; i++)
        if (s->unit[i] > *top || (s->unit[i] >= *top && at + i < *best)) {
            *top = s->unit[i];
            *best = (uint32_t)(at + i);
        }
}

/* The highest that a word of a unit may be. */
static float most(const struct deq_near *n, const float *logits, size_t u, float by)
{
    size_t at = u * DEQ_PANEL_UNIT;
    const size_t end = DEQ_MIN(at + DEQ_PANEL_UNIT, (size_t)n->v->shape.size);
    float m[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    for (; at + 4 <= end; at += 4)
        for (size_t j = 0; j < 4; j++) {
            const float x = logits[at + j] + by * n->length[at + j];
            m[j] = x > m[j] ? x : m[j];
        }
    for (; at < end; at++)
        m[0] = fmaxf(m[0], logits[at] + by * n->length[at]);
    return fmaxf(fmaxf(m[0], m[1]), fmaxf(m[2], m[3]));
}

uint32_t deq_near_best(const struct deq_near *n, unsigned thread, const float *logits, uint32_t likely)
{
    const struct deq_near_scratch *s = &n->thread[thread];
    const struct deq_packed *w = &n->v->packed.head[0];
    const size_t U = units(&n->v->shape), first = likely / DEQ_PANEL_UNIT;
    const float by = reach(n, s);
    float top = -INFINITY;
    uint32_t best = UINT32_MAX;
    size_t may = 0;
    if (!isfinite(by))
        return UINT32_MAX;
    deq_prepare(w->format, s->x, w->k, s->operand, 0);
    read_unit(n, s, first, &top, &best);
    for (size_t u = 0; u < U; u++) {
        s->most[u] = most(n, logits, u, by);
        may += s->most[u] >= top;
    }
    if (may > DEQ_MAX(U / DEQ_NEAR_PART, (size_t)1))
        return UINT32_MAX;
    for (size_t u = 0; u < U; u++)
        if (u != first && s->most[u] >= top)
            read_unit(n, s, u, &top, &best);
    return best;
}
