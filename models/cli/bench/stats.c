#include "models/cli/bench/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"

/* --- Arrivals --- */

enum { STREAM_UNIFORM = 0x61727231, STREAM_NORMAL, STREAM_BOOST }; /* rng streams; a normal takes 2s and 2s+1 for s */
enum { TRIES_MAX = 1024 };                                        /* a try is refused with probability below 0.05 */

double bench_gamma(double shape, uint64_t seed, uint64_t i)
{
    const uint64_t at = i * TRIES_MAX;
    if (shape == 1)
        return -log1p(-deq_rng_uniform(seed, STREAM_UNIFORM, at));
    /* Marsaglia, Tsang, "A simple method for generating gamma variables", 2000; below 1:
     * gamma(a) = gamma(a+1) u^(1/a) */
    const double boost = shape < 1 ? pow(1 - deq_rng_uniform(seed, STREAM_BOOST, at), 1 / shape) : 1;
    const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (uint64_t k = 0; k < TRIES_MAX; k++) {
        const double x = deq_rng_normal(seed, STREAM_NORMAL, at + k),
                     u = 1 - deq_rng_uniform(seed, STREAM_UNIFORM, at + k);
        const double v = pow(1 + c * x, 3);
        if (v > 0 && log(u) < 0.5 * x * x + d - d * v + d * log(v))
            return d * v * boost;
    }
    return d * boost; /* the mode: cannot be reached in practice */
}

void bench_arrivals(double rate, double burstiness, uint64_t seed, double *ret_s, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isinf(rate))
            sum += isinf(burstiness) ? 1 : bench_gamma(burstiness, seed, i);
        ret_s[i] = sum;
    }
    for (size_t i = 0; sum > 0 && i < n; i++)
        ret_s[i] *= (double)n / rate / sum;
}

/* --- Statistics --- */

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bench_sort(double *x, size_t n)
{
    if (n)
        qsort(x, n, sizeof *x, ascending);
}

double bench_percentile(const double *sorted, size_t n, double p)
{
    if (!n)
        return 0;
    const double at = p / 100 * (double)(n - 1);
    const size_t lo = DEQ_MIN((size_t)at, n - 1), hi = DEQ_MIN(lo + 1, n - 1);
    return sorted[lo] + (at - (double)lo) * (sorted[hi] - sorted[lo]);
}

void bench_mean_std(const double *x, size_t n, double *ret_mean, double *ret_std)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    const double mean = n ? sum / (double)n : 0;
    for (size_t i = 0; i < n; i++)
        squares += (x[i] - mean) * (x[i] - mean);
    *ret_mean = mean;
    *ret_std = n ? sqrt(squares / (double)n) : 0;
}

/* --- Peaks --- */

size_t bench_peak_open(double *starts, double *ends, size_t n)
{
    size_t open = 0, peak = 0, gone = 0;
    bench_sort(starts, n);
    bench_sort(ends, n);
    for (size_t i = 0; i < n; i++) {
        for (; gone < i && ends[gone] <= starts[i]; gone++)
            open--; /* who leaves at this instant has left */
        open++;
        peak = DEQ_MAX(peak, open);
    }
    return peak;
}

size_t bench_peak_second(const double *sorted, size_t n, double origin)
{
    size_t peak = 0;
    for (size_t i = 0, k; i < n; i = k) {
        const double second = floor(sorted[i] - origin);
        for (k = i; k < n && floor(sorted[k] - origin) == second; k++)
            ;
        peak = DEQ_MAX(peak, k - i);
    }
    return peak;
}

/* --- Limits --- */

/* A decimal number; NAN: none, or more than one. strtod alone would take blanks, signs, hexadecimal, "inf". */
static double decimal(const char *s, char **ret_end)
{
    const size_t n = strspn(s, "0123456789.eE+-");
    const bool begins = (*s >= '0' && *s <= '9') || *s == '.';
    const double x = begins ? strtod(s, ret_end) : (double)NAN;
    return begins && *ret_end == s + n ? x : (double)NAN;
}

bool bench_goodput_parse(const char *text, struct bench_goodput *ret)
{
    struct bench_goodput g = {INFINITY, INFINITY, INFINITY};
    size_t n = 0;
    for (const char *s = text; *(s += strspn(s, " ,"));) {
        double *to = !strncmp(s, "ttft:", 5)   ? &g.ttft_ms
                     : !strncmp(s, "tpot:", 5) ? &g.tpot_ms
                     : !strncmp(s, "e2el:", 5) ? &g.e2el_ms
                                               : NULL;
        char *end;
        if (!to || !isinf(*to))
            return false;
        *to = decimal(s + 5, &end);
        if (!isfinite(*to) || (*end && *end != ' ' && *end != ','))
            return false;
        s = end;
        n++;
    }
    if (n)
        *ret = g;
    return n > 0;
}

bool bench_percentiles_parse(const char *text, double *ret, size_t max, size_t *ret_n)
{
    size_t n = 0;
    for (const char *s = text;; s++) {
        char *end;
        const double p = decimal(s, &end);
        if (!(p >= 0 && p <= 100) || n == max || (n && p <= ret[n - 1]) || (*end && *end != ','))
            return false;
        ret[n++] = p;
        s = end;
        if (!*s)
            break;
    }
    *ret_n = n;
    return true;
}
