/* H = L L', then two triangular solves; in double, since what Anderson mixes is nearly dependent. M is at most 16. */
#include <math.h>

#include "core/solve/methods.h"

bool deq_cholesky_ones(const double *h, size_t ld, unsigned n, double *x)
{
    double l[DEQ_SOLVER_MEMORY_MAX][DEQ_SOLVER_MEMORY_MAX];
    for (unsigned i = 0; i < n; i++)
        for (unsigned j = 0; j <= i; j++) {
            double s = h[i * ld + j];
            for (unsigned k = 0; k < j; k++)
                s -= l[i][k] * l[j][k];
            if (i == j) {
                if (!(s > 0) || !isfinite(s))
                    return false;
                l[i][i] = sqrt(s);
            } else {
                l[i][j] = s / l[j][j];
            }
        }
    for (unsigned i = 0; i < n; i++) {
        double s = 1.0;
        for (unsigned k = 0; k < i; k++)
            s -= l[i][k] * x[k];
        x[i] = s / l[i][i];
    }
    for (unsigned i = n; i-- > 0;) {
        double s = x[i];
        for (unsigned k = i + 1; k < n; k++)
            s -= l[k][i] * x[k];
        x[i] = s / l[i][i];
    }
    return true;
}
