/* The arithmetic of `deq bench serve`: arrivals, statistics, peaks. No sockets, no clock, no JSON: pure functions.
 * Times are seconds since the start of the run. */
#ifndef DEQ_MODELS_CLI_BENCH_STATS_H
#define DEQ_MODELS_CLI_BENCH_STATS_H

#include "core/base/base.h"

/* --- Arrivals --- */

/* A draw of the gamma distribution with this shape (> 0) and scale 1, a function of (seed, i) alone. Shape 1 is the
 * exponential distribution. */
double bench_gamma(double shape, uint64_t seed, uint64_t i);
/* When each of n requests arrives. The gaps are gamma distributed with mean 1/rate and shape `burstiness`: 1 is
 * a Poisson process, less comes in bursts, more is evener, INFINITY is a metronome. As in vLLM all times are
 * then scaled so that the last is exactly n/rate, which takes the seed out of the offered load. An infinite
 * rate makes all of them 0. */
void bench_arrivals(double rate, double burstiness, uint64_t seed, double *ret_s, size_t n); /* ret_s [n] */

/* --- Statistics, numpy's definitions --- */

void bench_sort(double *x, size_t n);
/* Linear interpolation between the two nearest ranks of sorted x; 0 when n is 0. p in 0..100. */
double bench_percentile(const double *sorted, size_t n, double p);
/* std over n, not n-1; both 0 when n is 0 */
void bench_mean_std(const double *x, size_t n, double *ret_mean, double *ret_std);

/* --- Peaks --- */

/* Most half-open intervals [start, end) that cover one instant. Sorts both arrays. */
size_t bench_peak_open(double *starts, double *ends, size_t n);
/* Most of the sorted times in one second [k, k+1) after `origin`. */
size_t bench_peak_second(const double *sorted, size_t n, double origin);

/* --- Limits: "ttft:200 tpot:20 e2el:5000" --- */

struct bench_goodput {
    double ttft_ms, tpot_ms, e2el_ms; /* INFINITY: not asked for */
};
bool bench_goodput_parse(const char *text, struct bench_goodput *ret);
/* At most max percentiles from "50,90,99.9", each in 0..100, ascending. */
bool bench_percentiles_parse(const char *text, double *ret, size_t max, size_t *ret_n);

#endif
