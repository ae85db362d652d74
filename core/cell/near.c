#include "core/cell/near.h"

#include <math.h>
#include <string.h>

#include "core/math/kern.h"

static const float SLACK = 1.01f;

static size_t units(const struct deq_vocab *v)
{
    return (v->size + DEQ_PANEL_UNIT - 1) / DEQ_PANEL_UNIT;
}

static size_t padded(const struct deq_vocab *v)
{
    return units(v) * DEQ_PANEL_UNIT;
}

void deq_near_lay_out(struct deq_near *n, const struct deq_vocab *v, enum deq_class c, size_t rows, unsigned threads,
                      struct deq_layout *l)
{
    if (!deq_head_is_plain(v))
        return;
    DEQ_PART(l, n->length, padded(v));
    DEQ_PART(l, n->error, padded(v));
    DEQ_PART(l, n->operands, rows * deq_int_operand_bytes(deq_vocab_out(v)));
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

static float rounding(enum deq_format f, size_t k)
{
    return deq_format_is_int(f) ? sqrtf((float)k) / 64000 : (float)(k + 1) * 0x1p-24f;
}

/* What words' lengths and errors are: sums of squares in floats, by as much too small at most as squares are that no
 * normal float holds, which `least` makes up for. */
static void stage_lengths(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_near *n = ctx;
    const struct deq_packed *w = &n->v->packed.head[0], *rounded = &n->v->packed.rounded;
    const struct deq_kern *k = deq_kern();
    const struct deq_near_scratch *s = &n->thread[thread];
    const float least = (float)w->k * 0x1p-126f;
    for DEQ_ROWS_OF (thread, n_threads, w->n) {
        deq_packed_row(w, r, s->x);
        n->length[r] = sqrtf(k->dot(s->x, s->x, w->k) + least) + (n->v->head_bias ? fabsf(n->v->head_bias[r]) : 0);
        n->error[r] = 0;
        if (!rounded->data)
            continue;
        deq_packed_row(rounded, r, s->before);
        n->error[r] = sqrtf(k->diff_sumsq(s->x, s->before, w->k) + least);
    }
}

void deq_near_init(struct deq_near *n, const struct deq_vocabulary *v, struct deq_pool *pool)
{
    const struct deq_packed *w = &v->packed.head[0];
    n->v = v;
    n->pool = pool;
    if (!n->thread)
        return;
    n->rounding = rounding(w->format, w->k);
    n->longest = 0;
    deq_pool_stage(pool, stage_lengths, n, 2 * w->n * w->k);
    for (size_t i = 0; i < w->n; i++)
        n->longest = n->length[i] <= n->longest ? n->longest : n->length[i]; /* NaN stays */
}

/* --- The head in bytes --- */

static void stage_prepare(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_near *n = ctx;
    const struct deq_packed *w = &n->v->packed.rounded;
    for DEQ_ROWS_OF (thread, n_threads, n->n)
        deq_prepare(w->format, n->x + r * w->k, w->k, n->operands, r);
}

static void stage_screen(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_near *n = ctx;
    const struct deq_packed *w = &n->v->packed.rounded;
    const struct deq_operand x = deq_operand(w->format, n->x, w->k, n->operands, w->k);
    deq_multiply_to(&x, n->n, w, n->logits, thread, n_threads);
}

static void stage_bias(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_near *n = ctx;
    for DEQ_ROWS_OF (thread, n_threads, n->n)
        deq_kern()->add(n->logits[r], n->logits[r], n->v->head_bias, n->v->shape.size);
}

bool deq_near_screen(struct deq_near *n, size_t rows, const float *x, float *const *logits)
{
    const struct deq_packed *w = &n->v->packed.rounded;
    if (!w->data)
        return false;
    n->n = rows;
    n->x = x;
    n->logits = logits;
    deq_pool_stage(n->pool, stage_prepare, n, rows * w->k);
    deq_pool_stage(n->pool, stage_screen, n, rows * w->n * w->k);
    if (n->v->head_bias)
        deq_pool_stage(n->pool, stage_bias, n, rows * w->n);
    return true;
}

/* --- The best word --- */

static float length(const float *x, size_t n)
{
    return sqrtf(deq_kern()->dot(x, x, n));
}

/* |logit - known| <= by_length length[n] + by_error error[n] */
struct reach {
    float by_length, by_error;
};

/* Infinite: numbers are so large that something may overflow. */
static struct reach reach(const struct deq_near *n, const struct deq_near_scratch *s, bool rounded)
{
    const struct deq_kern *k = deq_kern();
    const size_t Y = deq_vocab_out(&n->v->shape);
    const float before = length(s->before, Y), sizes = fmaxf(1, length(s->x, Y) + before);
    const float moved = sqrtf(k->diff_sumsq(s->x, s->before, Y));
    const float relative = n->rounding + 8 * 0x1p-24f + (rounded ? rounding(DEQ_FORMAT_I8, Y) : 0);
    if (!(n->longest * sizes < 1e30f))
        return (struct reach){INFINITY, INFINITY};
    return (struct reach){SLACK * (moved + sizes * relative), rounded ? SLACK * before : 0};
}

_Static_assert(DEQ_PANEL_UNIT == 32, "a word of a mask is a unit's");

/* Of a unit's words, those that the best one may be. */
static uint32_t allowed(const struct deq_known *known, size_t u)
{
    return known->allowed ? known->allowed[u] : UINT32_MAX;
}

/* The logits of a unit of words, as deq_vocabulary_head has them, and what is best of those in `words` and of (top,
 * best). */
static void read_unit(const struct deq_near *n, const struct deq_near_scratch *s, size_t u, uint32_t words, float *top,
                      uint32_t *best)
{
    const struct deq_packed *w = &n->v->packed.head[0];
    const struct deq_operand x = deq_operand(w->format, s->x, w->k, s->operand, w->k);
    const size_t at = u * DEQ_PANEL_UNIT, count = DEQ_MIN(w->n - at, (size_t)DEQ_PANEL_UNIT);
    deq_multiply_unit(&x, w, at, s->unit);
    if (n->v->head_bias)
        deq_kern()->add(s->unit, s->unit, n->v->head_bias + at, count);
    for (size_t i = 0; i < count; i++)
        if (words >> i & 1 && (s->unit[i] > *top || (s->unit[i] >= *top && at + i < *best))) {
            *top = s->unit[i];
            *best = (uint32_t)(at + i);
        }
}

/* The highest that a word of a unit may be, of some of them. */
static float most_of(const struct deq_near *n, const float *logits, size_t u, struct reach by, uint32_t words)
{
    const size_t at = u * DEQ_PANEL_UNIT;
    float m = -INFINITY;
    for (size_t i = 0; i < DEQ_PANEL_UNIT && at + i < n->v->shape.size; i++)
        if (words >> i & 1)
            m = fmaxf(m, logits[at + i] + (by.by_length * n->length[at + i] + by.by_error * n->error[at + i]));
    return m;
}

/* ... and of all. */
static float most(const struct deq_near *n, const float *logits, size_t u, struct reach by)
{
    size_t at = u * DEQ_PANEL_UNIT;
    const size_t end = DEQ_MIN(at + DEQ_PANEL_UNIT, (size_t)n->v->shape.size);
    float m[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    for (; at + 4 <= end; at += 4)
        for (size_t j = 0; j < 4; j++) {
            const float x = logits[at + j] + (by.by_length * n->length[at + j] + by.by_error * n->error[at + j]);
            m[j] = x > m[j] ? x : m[j];
        }
    for (; at < end; at++)
        m[0] = fmaxf(m[0], logits[at] + (by.by_length * n->length[at] + by.by_error * n->error[at]));
    return fmaxf(fmaxf(m[0], m[1]), fmaxf(m[2], m[3]));
}

static size_t highest(const float *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

uint32_t deq_near_best(const struct deq_near *n, unsigned thread, const struct deq_known *known)
{
    const struct deq_near_scratch *s = &n->thread[thread];
    const struct deq_packed *w = &n->v->packed.head[0];
    const struct reach by = reach(n, s, known->rounded);
    const size_t U = units(&n->v->shape);
    float top = -INFINITY;
    uint32_t best = UINT32_MAX;
    size_t may = 0;
    if (!isfinite(by.by_length))
        return UINT32_MAX;
    for (size_t u = 0; u < U; u++)
        s->most[u] = allowed(known, u) == UINT32_MAX ? most(n, known->logits, u, by)
                                                     : most_of(n, known->logits, u, by, allowed(known, u));
    const size_t first = known->likely == UINT32_MAX ? highest(s->most, U) : known->likely / DEQ_PANEL_UNIT;
    deq_prepare(w->format, s->x, w->k, s->operand, 0);
    read_unit(n, s, first, allowed(known, first), &top, &best);
    for (size_t u = 0; u < U; u++)
        may += s->most[u] >= top;
    if (may > DEQ_MAX(U / DEQ_NEAR_PART, (size_t)1))
        return UINT32_MAX;
    for (size_t u = 0; u < U; u++)
        if (u != first && s->most[u] >= top)
            read_unit(n, s, u, allowed(known, u), &top, &best);
    return best;
}
