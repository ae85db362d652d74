/* models/cli/tune/choose.c: what measurements say of settings, and which of these a model gets. */
#include <math.h>

#include "core/base/rng.h"
#include "models/cli/tune/tune.h"
#include "tests/unit/test.h"

static bool near(double got, double want, double error)
{
    return fabs(got - want) <= error;
}

/* n numbers, as many above `mean` as below, each `deviation` away. */
static struct tune_sample around(double mean, double deviation, size_t n)
{
    struct tune_sample s = {0};
    for (size_t i = 0; i < n; i++)
        tune_add(&s, mean + (i % 2 ? deviation : -deviation));
    return s;
}

/* A point with 16 blocks of loss about `loss` and two rounds of time about `slower`. */
static struct tune_point point(double loss, double slower)
{
    struct tune_point p = {.apart[TUNE_PREFILL] = around(loss, 1e-4, 16), .read_s = exp(slower)};
    tune_add(&p.slower, slower - 0.01);
    tune_add(&p.slower, slower + 0.01);
    return p;
}

static void judge(const struct tune_point *p, size_t n, double limit, enum tune_verdict *ret)
{
    for (size_t i = 0; i < n; i++)
        ret[i] = tune_judge_point(&p[i], limit, TUNE_LEVEL);
}

TEST(tune_samples_are_means_and_errors)
{
    struct tune_sample s = {0};
    CHECK(isinf(tune_error(&s)));
    const double x[] = {1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16};
    for (size_t i = 0; i < DEQ_COUNT(x); i++)
        tune_add(&s, x[i]);
    CHECK(near(s.mean - 1e9, 10, 1e-6));                   /* a rounding of 1e9 is 1e-7 */
    CHECK(near(tune_error(&s), sqrt(90.0 / 3 / 4), 1e-6)); /* sample variance 30 */
}

TEST(tune_student_is_the_tables)
{
    /* two-sided 90, 95, 98 % of any table; the series' error falls as 1/df^4 */
    static const struct {
        double df, alpha, t, error;
    } want[] = {{3, 0.05, 2.3534, 0.01},   {5, 0.01, 3.3649, 0.02},    {15, 0.025, 2.1314, 1e-4},
                {10, 0.05, 1.8125, 1e-3},  {120, 0.01, 2.3578, 1e-4},  {1e9, 0.05, 1.6449, 1e-4},
                {1e9, 0.0005, 3.2905, 1e-4}, {1e9, 0.5, 0, 1e-9}};
    for (size_t i = 0; i < DEQ_COUNT(want); i++)
        CHECK(near(tune_student(want[i].df, want[i].alpha), want[i].t, want[i].error));
}

TEST(tune_judges_what_is_clear)
{
    const double limit = 2.5e-3; /* a tenth of a percent of 2.5 nats */
    const struct tune_sample clear = around(1e-3, 2e-3, 64), loss = around(5e-3, 2e-3, 64),
                             noisy = around(1e-3, 2e-2, 64), none = {0}, one = around(0, 1e-9, 1),
                             wrong = around(NAN, 1, 64);
    CHECK_EQ(tune_judge(&clear, limit, TUNE_LEVEL), TUNE_WITHIN);
    CHECK_EQ(tune_judge(&loss, limit, TUNE_LEVEL), TUNE_BEYOND);
    CHECK_EQ(tune_judge(&noisy, limit, TUNE_LEVEL), TUNE_UNDECIDED);
    CHECK_EQ(tune_judge(&none, limit, TUNE_LEVEL), TUNE_UNDECIDED);
    CHECK_EQ(tune_judge(&one, limit, TUNE_LEVEL), TUNE_UNDECIDED);
    CHECK_EQ(tune_judge(&wrong, limit, TUNE_LEVEL), TUNE_BEYOND);
    const struct tune_sample gain = around(-5e-3, 2e-3, 64);
    CHECK_EQ(tune_judge(&gain, limit, TUNE_LEVEL), TUNE_WITHIN);
    CHECK_EQ(tune_judge_distance(&gain, limit, TUNE_LEVEL), TUNE_BEYOND); /* better, but not the equilibrium */
    CHECK_EQ(tune_judge_distance(&clear, limit, TUNE_LEVEL), TUNE_WITHIN);
    /* what loses next to nothing on few tokens may be far from it: 0.03 % of 2.5 nats on 12 blocks */
    const struct tune_sample few = around(0.75e-3, 2e-2, 12);
    CHECK_EQ(tune_judge(&few, limit, TUNE_LEVEL), TUNE_UNDECIDED);
    /* with as many blocks as it asks for the interval ends at the limit */
    const double needed = tune_blocks_needed(&noisy, limit, TUNE_LEVEL);
    CHECK_MSG(needed > 64 && isfinite(needed), "%g", needed);
    const struct tune_sample enough = around(noisy.mean, sqrt(noisy.squares / 63), (size_t)(1.1 * needed));
    CHECK_EQ(tune_judge(&enough, limit, TUNE_LEVEL), TUNE_WITHIN);
}

TEST(tune_judges_the_worse_window)
{
    struct tune_point p = {.apart = {around(0, 1e-4, 64), around(1, 1e-4, 64)}};
    CHECK_EQ(tune_judge_point(&p, 0.5, TUNE_LEVEL), TUNE_BEYOND);
    CHECK(tune_worse(&p) == &p.apart[TUNE_DECODE]);
    p.apart[TUNE_DECODE] = around(0, 10, 64);
    CHECK_EQ(tune_judge_point(&p, 0.5, TUNE_LEVEL), TUNE_UNDECIDED);
    p.apart[TUNE_DECODE] = (struct tune_sample){0}; /* one window for both */
    CHECK_EQ(tune_judge_point(&p, 0.5, TUNE_LEVEL), TUNE_WITHIN);
    CHECK(tune_worse(&p) == &p.apart[TUNE_PREFILL]);
}

/* The text is looked at five times, and the first look that says "within" ends it: of settings that lose exactly the
 * budget, at most 5 % may be taken. 2,000 of them: 5 % and three standard deviations of the count are 129. */
TEST(tune_looks_share_the_error)
{
    enum { LOOKS = 5, TRIES = 2000 };
    unsigned taken = 0;
    double sum = 0;
    for (size_t k = 0; k < LOOKS; k++)
        sum += tune_alpha(k, LOOKS);
    CHECK(near(sum, TUNE_LEVEL, 1e-12));
    CHECK(near(tune_alpha(0, 1), TUNE_LEVEL, 1e-12));
    for (uint64_t try = 0; try < TRIES; try++) {
        struct tune_sample s = {0};
        bool within = false;
        for (size_t k = 0; k < LOOKS && !within; k++) {
            while (s.n < (size_t)16 << k)
                tune_add(&s, 1 + deq_rng_normal(3, try, s.n));
            within = tune_judge(&s, 1, tune_alpha(k, LOOKS)) == TUNE_WITHIN;
        }
        taken += within;
    }
    CHECK_MSG(taken <= 129 && taken > 20, "%u of %d", taken, TRIES); /* some: it is not always undecided */
}

TEST(tune_is_faster_beyond_the_noise)
{
    struct tune_point p[] = {point(0, 0), point(0, -0.3), point(0, -0.01)};
    p[0].slower = (struct tune_sample){2, 0, 0}; /* the model's own against itself: no noise of its own */
    const struct tune_noise noise = tune_noise(p, 3);
    CHECK(near(noise.deviation, 0.01 * sqrt(2), 1e-9)); /* two rounds at +-0.01, of each of two settings */
    CHECK_EQ(noise.df, 2);
    CHECK(tune_faster(&p[1], &p[0], noise) && tune_faster(&p[1], &p[2], noise));
    CHECK(!tune_faster(&p[2], &p[0], noise) && !tune_faster(&p[0], &p[2], noise));
    /* the same difference is clear after more rounds */
    p[2].slower = around(-0.01, 0.01, 100);
    p[0].slower.n = 100;
    CHECK(tune_faster(&p[2], &p[0], tune_noise(p, 3)));
}

TEST(tune_chooses_the_fastest_within_the_budget)
{
    enum { OWN, FAST, LOSSY, ALIKE, SLOW, N };
    struct tune_point p[N] = {point(1e-3, 0), point(1.9e-3, -0.5), point(9e-3, -0.9), point(1.2e-3, -0.505),
                              point(0, 0.7)};
    enum tune_verdict v[N];
    judge(p, N, 2e-3, v);
    CHECK(v[FAST] == TUNE_WITHIN && v[LOSSY] == TUNE_BEYOND);
    CHECK_EQ(tune_choose(p, N, v, OWN), ALIKE); /* of two equally fast ones that which loses less */
    judge(p, N, 1e-2, v);
    CHECK_EQ(tune_choose(p, N, v, OWN), LOSSY);
    judge(p, N, 1.1e-3, v);
    CHECK_EQ(tune_choose(p, N, v, OWN), OWN);
    judge(p, N, 5e-4, v);
    CHECK_EQ(tune_choose(p, N, v, OWN), SLOW); /* the only one */
    judge(p, N, -1, v);
    CHECK_EQ(tune_choose(p, N, v, OWN), N);
    /* what is not known to be faster than the model's own setting leaves that */
    judge(p, N, 2e-3, v);
    p[OWN] = point(1.9e-3, -0.49);
    CHECK_EQ(tune_choose(p, N, v, OWN), OWN);
    v[OWN] = TUNE_UNDECIDED;
    CHECK_EQ(tune_choose(p, N, v, OWN), ALIKE);
}

TEST(tune_names_tolerances)
{
    struct tune_point p[] = {point(5e-2, 0), point(0, 0), point(2e-4, 0), point(-1e-2, 0)};
    const float tol[] = {0.1f, 1e-3f, 1e-2f, 3e-2f};
    for (size_t i = 0; i < 4; i++)
        p[i].set.solver.tol = tol[i];
    CHECK_EQ(tune_loosest(p, 4, 1e-3, true), 1e-2f); /* 3e-2 gains too much to be the equilibrium */
    CHECK_EQ(tune_loosest(p, 4, 1e-3, false), 3e-2f);
    CHECK_EQ(tune_loosest(p, 4, 0.1, false), 0.1f);
    p[2].apart[0] = around(0, 1e-2, 16); /* not known: nor are looser ones taken that seem to be */
    CHECK_EQ(tune_loosest(p, 4, 1e-3, false), 1e-3f);
    CHECK_EQ(tune_loosest(p, 4, 0, true), 0.0f);
}

TEST(tune_marks_the_front)
{
    struct tune_point p[] = {point(2, 5), point(2.1, 3), point(2.2, 3), point(2.05, 5), point(2.3, 1),
                             point(NAN, 0.1), point(2.3, 1)};
    const bool want[] = {true, true, false, false, true, false, true};
    tune_mark_front(p, DEQ_COUNT(p));
    for (size_t i = 0; i < DEQ_COUNT(p); i++)
        CHECK_MSG(p[i].front == want[i], "point %zu", i);
}
