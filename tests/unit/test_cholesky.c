/* core/solve/cholesky.c: systems that have an answer, and those that have none. */
#include "core/solve/methods.h"

#include "tests/unit/test.h"

TEST(solver_cholesky)
{
    double h[3][4] = {{4, 2, 0.4, 9}, {2, 5, 1, 9}, {0.4, 1, 3, 9}}, x[3] = {0};
    CHECK(deq_cholesky_ones(&h[0][0], 4, 3, x));
    for (int i = 0; i < 3; i++) /* a 3x3 system of condition 3: a few double roundings */
        CHECK(fabs(h[i][0] * x[0] + h[i][1] * x[1] + h[i][2] * x[2] - 1) < 1e-14);
    CHECK(deq_cholesky_ones(&h[0][0], 4, 1, x) && x[0] == 0.25);
    double singular[2][2] = {{1, 1}, {1, 1}}, indefinite[2][2] = {{1, 2}, {2, 1}};
    double zero[1][1] = {{0}}, nan[1][1] = {{NAN}}, inf[1][1] = {{INFINITY}};
    CHECK(!deq_cholesky_ones(&singular[0][0], 2, 2, x));
    CHECK(!deq_cholesky_ones(&indefinite[0][0], 2, 2, x));
    CHECK(!deq_cholesky_ones(&zero[0][0], 1, 1, x) && !deq_cholesky_ones(&nan[0][0], 1, 1, x) &&
          !deq_cholesky_ones(&inf[0][0], 1, 1, x));
}
