/* models/cli/tune/choose.c: which of the measured settings a model gets. */
#include <math.h>

#include "models/cli/tune/tune.h"
#include "tests/unit/test.h"

static struct tune_point point(double loss, double read_s, double write_s)
{
    return (struct tune_point){.loss = loss, .read_s = read_s, .write_s = write_s};
}

TEST(tune_chooses_the_fastest_within_the_budget)
{
    const struct tune_point p[] = {point(2, 5, 5), point(2.001, 3, 4), point(2.0019, 2, 1), point(2.1, 1, 1),
                                   point(NAN, 0.1, 0.1)};
    CHECK_EQ(tune_choose(p, 5, 2, 0.001), 2);  /* 2.002 at most */
    CHECK_EQ(tune_choose(p, 5, 2, 0.0006), 1); /* 2.0012 */
    CHECK_EQ(tune_choose(p, 5, 2, 0), 0);
    CHECK_EQ(tune_choose(p, 5, 2, 1), 3);
    CHECK_EQ(tune_choose(p, 1, 2, 0), 0);
    /* nothing is within: what loses least, and never what gave no number */
    CHECK_EQ(tune_choose(p + 2, 3, 1, 0.001), 0);
    CHECK_EQ(tune_choose((struct tune_point[]){point(NAN, 1, 1), point(3, 9, 9)}, 2, 1, 0.001), 1);
    /* reading and writing count together; of equally fast ones the better */
    CHECK_EQ(tune_choose((struct tune_point[]){point(2, 1, 4), point(2, 4, 0.5)}, 2, 2, 0), 1);
    CHECK_EQ(tune_choose((struct tune_point[]){point(2, 1, 1), point(1.9, 1, 1)}, 2, 2, 0), 1);
    /* a setting may lose less than the exact one */
    CHECK_EQ(tune_choose((struct tune_point[]){point(2, 1, 1), point(1.9, 0.5, 1)}, 2, 2, 0), 1);
}

TEST(tune_counts_the_error_of_comparing)
{
    struct tune_point p[] = {point(2, 5, 5), point(2.001, 1, 1)};
    p[1].error = 0.0011;
    CHECK_EQ(tune_choose(p, 2, 2, 0.001), 0);
    p[1].error = 0.0009;
    CHECK_EQ(tune_choose(p, 2, 2, 0.001), 1);
}

TEST(tune_exact_is_near_the_equilibrium)
{
    struct tune_point p[] = {point(2.05, 1, 1), point(2, 4, 4), point(2.0001, 3, 3), point(1.99, 2, 2)};
    const float tol[] = {0.1f, 1e-3f, 1e-2f, 3e-2f};
    for (size_t i = 0; i < 4; i++)
        p[i].set.solver.tol = tol[i];
    CHECK_EQ(tune_exact_tol(p, 4, 2, 1e-4), 1e-2f);
    p[0].loss = 2; /* by chance: a tighter one is not */
    CHECK_EQ(tune_exact_tol(p, 4, 2, 1e-4), 1e-2f);
    p[2].error = 1e-3;
    CHECK_EQ(tune_exact_tol(p, 4, 2, 1e-4), 1e-3f);
    CHECK_EQ(tune_exact_tol(p, 4, 3, 1e-4), 1e-3f); /* none: the tightest */
}

TEST(tune_marks_the_front)
{
    struct tune_point p[] = {point(2, 5, 5), point(2.1, 3, 3), point(2.2, 3, 3), point(2.05, 5, 5), point(2.3, 1, 1),
                             point(NAN, 0.1, 0.1), point(2.3, 1, 1)};
    const bool want[] = {true, true, false, false, true, false, true};
    tune_mark_front(p, DEQ_COUNT(p));
    for (size_t i = 0; i < DEQ_COUNT(p); i++)
        CHECK_MSG(p[i].front == want[i], "point %zu", i);
}
