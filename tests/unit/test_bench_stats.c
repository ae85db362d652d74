/* The arithmetic of `deq bench serve`: arrivals, statistics against numpy's values, peaks, limits. */
#include <stdlib.h>

#include "core/base/mem.h"
#include "models/cli/bench/stats.h"
#include "tests/unit/test.h"

TEST(bench_arrivals_have_the_rate_and_the_burstiness)
{
    enum { N = 20000 };
    static const double shapes[] = {0.25, 0.5, 1, 2, 9};
    double *t = DEQ_NEW_ARRAY(double, N), *again = DEQ_NEW_ARRAY(double, N), *gap = DEQ_NEW_ARRAY(double, N), mean, std;
    for (size_t k = 0; k < DEQ_COUNT(shapes); k++) {
        bench_arrivals(50, shapes[k], 7, t, N);
        bool ordered = true;
        for (size_t i = 0; i < N; i++) {
            gap[i] = t[i] - (i ? t[i - 1] : 0);
            ordered = ordered && gap[i] >= 0;
        }
        bench_mean_std(gap, N, &mean, &std);
        CHECK(ordered && fabs(t[N - 1] - N / 50.0) < 1e-9 && fabs(mean - 1 / 50.0) < 1e-12);
        /* coefficient of variation 1/sqrt(shape); the sample's own is off by about sqrt((2 + 6/shape)/4N), 2% at
         * shape 0.25: allowed are 6% */
        CHECK_MSG(fabs(std / mean * sqrt(shapes[k]) - 1) < 0.06, "shape %g: %g", shapes[k], std / mean);
        bench_arrivals(50, shapes[k], 7, again, N);
        CHECK(!memcmp(t, again, N * sizeof *t));
        bench_arrivals(50, shapes[k], 8, again, N);
        CHECK(t[0] != again[0] && t[N / 2] != again[N / 2]);
    }
    /* a Poisson process: gaps above ln 2 / rate are half of all, within 4 standard deviations (0.014) */
    bench_arrivals(50, 1, 7, t, N);
    size_t above = 0;
    for (size_t i = 0; i < N; i++)
        above += t[i] - (i ? t[i - 1] : 0) > log(2) / 50;
    CHECK_MSG(fabs((double)above / N - 0.5) < 0.0142, "%zu", above);
    bench_arrivals(4, INFINITY, 7, t, 8);
    CHECK(fabs(t[0] - 0.25) < 1e-12 && fabs(t[7] - 2) < 1e-12);
    bench_arrivals(INFINITY, 1, 7, t, 8);
    CHECK(t[0] == 0 && t[7] == 0);
    bench_arrivals(1, 1, 7, t, 0); /* none: nothing is touched */
    deq_free(t);
    deq_free(again);
    deq_free(gap);
}

TEST(bench_gamma_has_the_mean_of_its_shape)
{
    static const double shapes[] = {0.1, 0.7, 1, 1.5, 20};
    for (size_t k = 0; k < DEQ_COUNT(shapes); k++) {
        double sum = 0;
        bool positive = true;
        for (uint64_t i = 0; i < 20000; i++) {
            const double g = bench_gamma(shapes[k], 3, i);
            positive = positive && g >= 0 && isfinite(g);
            sum += g;
        }
        /* standard deviation of the mean: sqrt(shape/20000); allowed are 4 of them */
        CHECK_MSG(positive && fabs(sum / 20000 - shapes[k]) < 4 * sqrt(shapes[k] / 20000), "shape %g: %g", shapes[k],
                  sum / 20000);
    }
}

TEST(bench_statistics_are_numpys)
{
    double x[] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3}, mean, std;
    bench_sort(x, 10);
    CHECK(x[0] == 1 && x[1] == 1 && x[9] == 9);
    bench_mean_std(x, 10, &mean, &std);
    CHECK(fabs(mean - 3.9) < 1e-12 && fabs(std - 2.3430749027719964) < 1e-12); /* numpy.std */
    CHECK(bench_percentile(x, 10, 0) == 1 && bench_percentile(x, 10, 100) == 9);
    CHECK(fabs(bench_percentile(x, 10, 50) - 3.5) < 1e-12 && fabs(bench_percentile(x, 10, 90) - 6.3) < 1e-12);
    CHECK(fabs(bench_percentile(x, 10, 99) - 8.73) < 1e-12 && fabs(bench_percentile(x, 10, 33.3) - 2.997) < 1e-12);
    CHECK(bench_percentile(x, 1, 99) == 1 && bench_percentile(x, 0, 99) == 0);
    bench_mean_std(x, 0, &mean, &std);
    CHECK(mean == 0 && std == 0);
    bench_sort(NULL, 0);
}

TEST(bench_peaks)
{
    double starts[] = {0, 3, 1, 2}, ends[] = {2, 4, 5, 3};
    CHECK(bench_peak_open(starts, ends, 4) == 2); /* half-open: who ends at 2 is gone when the next begins at 2 */
    double s2[] = {0, 0, 0}, e2[] = {1, 2, 3};
    CHECK(bench_peak_open(s2, e2, 3) == 3 && bench_peak_open(s2, e2, 0) == 0);
    double s3[] = {1, 1}, e3[] = {1, 1}; /* empty intervals count while they are looked at, and leave no debt */
    CHECK(bench_peak_open(s3, e3, 2) <= 2);
    const double t[] = {0.4, 0.6, 1.3, 1.39, 1.41, 7};
    CHECK(bench_peak_second(t, 6, 0.4) == 4 && bench_peak_second(t, 6, 0) == 3 && bench_peak_second(t, 0, 0) == 0);
}

TEST(bench_limits)
{
    struct bench_goodput g;
    CHECK(bench_goodput_parse("ttft:200 tpot:20.5 e2el:5e3", &g) && g.ttft_ms == 200 && g.tpot_ms == 20.5 &&
          g.e2el_ms == 5000);
    CHECK(bench_goodput_parse("tpot:3", &g) && isinf(g.ttft_ms) && g.tpot_ms == 3 && isinf(g.e2el_ms));
    CHECK(bench_goodput_parse(" e2el:1,ttft:0 ", &g) && g.e2el_ms == 1 && g.ttft_ms == 0);
    static const char *const bad[] = {"", " ", "ttft", "ttft:", "ttft:x", "ttft:1x", "itl:1", "ttft:-1", "ttft:inf",
                                      "ttft:1 ttft:2", "ttft:nan", "ttft:0x10", "ttft:1e999", "ttft:1e", "ttft: 1"};
    for (size_t i = 0; i < DEQ_COUNT(bad); i++)
        CHECK_MSG(!bench_goodput_parse(bad[i], &g), "\"%s\"", bad[i]);
    double p[4];
    size_t n;
    CHECK(bench_percentiles_parse("50,90,95,99.9", p, 4, &n) && n == 4 && p[0] == 50 && p[3] == 99.9);
    CHECK(bench_percentiles_parse("0", p, 4, &n) && n == 1 && p[0] == 0);
    static const char *const wrong[] = {"", ",", "50,", "50,,90", "101", "-1", "90,50", "50,50", "x", "1,2,3,4,5",
                                        "nan", "0x10", " 50", "+50", "5e"};
    for (size_t i = 0; i < DEQ_COUNT(wrong); i++)
        CHECK_MSG(!bench_percentiles_parse(wrong[i], p, 4, &n), "\"%s\"", wrong[i]);
}
