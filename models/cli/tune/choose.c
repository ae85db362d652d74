/* What measurements say: which settings are within the budget, which are faster, which is chosen. Pure. */
#include <math.h>

#include "core/base/base.h"
#include "models/cli/tune/tune.h"

/* --- Samples --- */

void tune_add(struct tune_sample *s, double x)
{
    const double d = x - s->mean;
    s->mean += d / (double)++s->n;
    s->squares += d * (x - s->mean);
}

double tune_error(const struct tune_sample *s)
{
    return s->n < 2 ? INFINITY : sqrt(s->squares / (double)(s->n - 1) / (double)s->n);
}

/* The normal distribution's, by Newton's method from the middle: its tail is convex, so that steps do not overshoot. */
static double normal(double alpha)
{
    double z = 0;
    for (int i = 0; i < 60; i++)
        z += (erfc(z * M_SQRT1_2) / 2 - alpha) * sqrt(2 * M_PI) * exp(z * z / 2);
    return z;
}

/* Cornish and Fisher's series in 1/df (Abramowitz and Stegun 26.7.5): 0.3 % low at df 3 and alpha 0.05, 2 % at 0.01. */
double tune_student(double df, double alpha)
{
    const double z = normal(alpha), z2 = z * z;
    return z * (1 + (z2 + 1) / (4 * df) + ((5 * z2 + 16) * z2 + 3) / (96 * df * df) +
                (((3 * z2 + 19) * z2 + 17) * z2 - 15) / (384 * df * df * df));
}

double tune_alpha(size_t look, size_t looks)
{
    return TUNE_LEVEL * ldexp(1, (int)look) / (ldexp(1, (int)looks) - 1);
}

/* --- Loss --- */

/* Half of the interval's width. */
static double half(const struct tune_sample *s, double alpha)
{
    return s->n < 2 ? INFINITY : tune_student((double)(s->n - 1), alpha) * tune_error(s);
}

enum tune_verdict tune_judge(const struct tune_sample *s, double limit, double alpha)
{
    const double h = half(s, alpha);
    return s->mean + h <= limit ? TUNE_WITHIN : s->mean - h <= limit ? TUNE_UNDECIDED : TUNE_BEYOND;
}

/* A point whose window is one and the same for prompts and generation is read once. */
static bool read_twice(const struct tune_point *p)
{
    return p->apart[TUNE_DECODE].n > 0;
}

enum tune_verdict tune_judge_distance(const struct tune_sample *s, double limit, double alpha)
{
    struct tune_sample distance = *s;
    distance.mean = fabs(s->mean);
    return tune_judge(&distance, limit, alpha);
}

enum tune_verdict tune_judge_point(const struct tune_point *p, double limit, double alpha)
{
    const enum tune_verdict a = tune_judge(&p->apart[TUNE_PREFILL], limit, alpha),
                            b = read_twice(p) ? tune_judge(&p->apart[TUNE_DECODE], limit, alpha) : a;
    if (a == TUNE_BEYOND || b == TUNE_BEYOND)
        return TUNE_BEYOND;
    return a == TUNE_WITHIN ? b : a;
}

const struct tune_sample *tune_worse(const struct tune_point *p)
{
    const struct tune_sample *a = &p->apart[TUNE_PREFILL], *b = &p->apart[TUNE_DECODE];
    return read_twice(p) && !(b->mean + half(b, TUNE_LEVEL) <= a->mean + half(a, TUNE_LEVEL)) ? b : a;
}

double tune_blocks_needed(const struct tune_sample *s, double limit, double alpha)
{
    const double t = half(s, alpha) / fabs(limit - s->mean);
    return (double)s->n * t * t;
}

/* --- Time --- */

struct tune_noise tune_noise(const struct tune_point *p, size_t n)
{
    double squares = 0, df = 0;
    for (size_t i = 0; i < n; i++)
        if (p[i].slower.n > 1 && p[i].slower.squares > 0) { /* the model's own is compared with itself */
            squares += p[i].slower.squares;
            df += (double)(p[i].slower.n - 1);
        }
    return (struct tune_noise){df > 0 ? sqrt(squares / df) : 0, DEQ_MAX(df, 1)};
}

bool tune_faster(const struct tune_point *a, const struct tune_point *b, struct tune_noise noise)
{
    const double error = noise.deviation * sqrt(1 / (double)a->slower.n + 1 / (double)b->slower.n);
    return b->slower.mean - a->slower.mean > tune_student(noise.df, TUNE_LEVEL) * error;
}

/* --- The choice --- */

size_t tune_choose(const struct tune_point *p, size_t n, const enum tune_verdict *verdict, size_t own)
{
    const struct tune_noise noise = tune_noise(p, n);
    size_t fastest = n, best = n;
    for (size_t i = 0; i < n; i++)
        if (verdict[i] == TUNE_WITHIN && (fastest == n || p[i].slower.mean < p[fastest].slower.mean))
            fastest = i;
    for (size_t i = 0; i < n; i++) {
        if (verdict[i] != TUNE_WITHIN || tune_faster(&p[fastest], &p[i], noise))
            continue;
        if (i == own)
            return own;
        if (best == n || tune_worse(&p[i])->mean < tune_worse(&p[best])->mean)
            best = i;
    }
    return best;
}

float tune_loosest(const struct tune_point *p, size_t n, double limit, bool both_sides)
{
    float bad = INFINITY, best = 0;
    for (size_t i = 0; i < n; i++) {
        const struct tune_sample *s = tune_worse(&p[i]);
        const enum tune_verdict v = both_sides ? tune_judge_distance(s, limit, TUNE_LEVEL)
                                               : tune_judge(s, limit, TUNE_LEVEL);
        if (v != TUNE_WITHIN)
            bad = fminf(bad, p[i].set.solver.tol);
    }
    for (size_t i = 0; i < n; i++)
        if (p[i].set.solver.tol < bad)
            best = fmaxf(best, p[i].set.solver.tol);
    return best;
}

void tune_mark_front(struct tune_point *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const double loss = tune_worse(&p[i])->mean, time = tune_seconds(&p[i]);
        p[i].front = !isnan(loss);
        for (size_t j = 0; j < n && p[i].front; j++) {
            const double l = tune_worse(&p[j])->mean, t = tune_seconds(&p[j]);
            p[i].front = !(l <= loss && t <= time && (l < loss || t < time));
        }
    }
}
