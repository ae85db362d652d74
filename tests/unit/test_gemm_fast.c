/* core/math/gemm_fast.c: products through the BLAS are right to rounding, for every transposition and stride. */
#include "core/math/gemm.h"

#include <stdlib.h>

#include "core/base/rng.h"
#include "tests/unit/test.h"

static const float SENTINEL = -777.25f;

static float *floats(size_t n, uint64_t stream)
{
    float *p = malloc((n ? n : 1) * sizeof *p);
    for (size_t i = 0; p && i < n; i++)
        p[i] = stream ? (float)deq_rng_normal(21, stream, i) : SENTINEL;
    return p;
}

/* OpenBLAS sums in an order of its own: any order of K products keeps within K half-ulps (fused or
 * not: 2K) of the sum of sizes */
static void close_to(float got, double want, double size, size_t K, const char *what, size_t m, size_t n, size_t k)
{
    CHECK_MSG(fabs((double)got - want) <= 2 * ((double)K + 2) * 0x1p-24 * size + 1e-30,
              "%s m=%zu n=%zu k=%zu: %.9g %.9g", what, m, n, k, (double)got, want);
}

TEST(gemm_fast_against_double)
{
    static const size_t shape[][3] = {{1, 1, 1}, {1, 7, 33}, {3, 5, 1}, {17, 31, 29}, {64, 48, 65}, {5, 130, 77},
                                      {70, 3, 9}};
    enum { PAD = 3 };
    for (size_t s = 0; s < DEQ_COUNT(shape); s++) {
        const size_t M = shape[s][0], N = shape[s][1], K = shape[s][2], ldx = K + PAD, ldw = K + 1, ldy = N + 2;
        float *x = floats(M * ldx, 7), *w = floats(N * ldw, 8), *y0 = floats(M * ldy, 9), *dx0 = floats(M * ldx, 10),
              *dw0 = floats(N * ldw, 11);
        for (int b = 0; b < 3; b++) {
            const float beta = b == 0 ? 0.0f : b == 1 ? 1.0f : 0.5f;
            float *y = floats(M * ldy, 9), *dx = floats(M * ldx, 10);
            /* with beta 0 the output is not read: it may be fresh memory that holds NaN */
            for (size_t m = 0; b == 0 && m < M; m++) {
                for (size_t n = 0; n < N; n++)
                    y[m * ldy + n] = NAN;
                for (size_t k = 0; k < K; k++)
                    dx[m * ldx + k] = NAN;
            }
            deq_gemm_xwt(M, N, K, x, ldx, w, ldw, beta, y, ldy);
            for (size_t m = 0; m < M; m++) {
                for (size_t n = 0; n < N; n++) {
                    double sum = (double)beta * (double)y0[m * ldy + n], size = fabs(sum);
                    for (size_t k = 0; k < K; k++) {
                        double t = (double)x[m * ldx + k] * (double)w[n * ldw + k];
                        sum += t;
                        size += fabs(t);
                    }
                    close_to(y[m * ldy + n], sum, size, K, "xwt", M, N, K);
                }
                for (size_t n = N; n < ldy; n++)
                    CHECK(y[m * ldy + n] == y0[m * ldy + n]);
            }
            deq_gemm_dyw(M, N, K, y0, ldy, w, ldw, beta, dx, ldx);
            for (size_t m = 0; m < M; m++) {
                for (size_t k = 0; k < K; k++) {
                    double sum = (double)beta * (double)dx0[m * ldx + k], size = fabs(sum);
                    for (size_t n = 0; n < N; n++) {
                        double t = (double)y0[m * ldy + n] * (double)w[n * ldw + k];
                        sum += t;
                        size += fabs(t);
                    }
                    close_to(dx[m * ldx + k], sum, size, N, "dyw", M, N, K);
                }
                for (size_t k = K; k < ldx; k++)
                    CHECK(dx[m * ldx + k] == dx0[m * ldx + k]);
            }
            free(y);
            free(dx);
        }
        float *dw = floats(N * ldw, 11);
        deq_gemm_dytx(M, N, K, y0, ldy, x, ldx, dw, ldw);
        for (size_t n = 0; n < N; n++) {
            for (size_t k = 0; k < K; k++) {
                double sum = (double)dw0[n * ldw + k], size = fabs(sum); /* accumulates */
                for (size_t m = 0; m < M; m++) {
                    double t = (double)y0[m * ldy + n] * (double)x[m * ldx + k];
                    sum += t;
                    size += fabs(t);
                }
                close_to(dw[n * ldw + k], sum, size, M, "dytx", M, N, K);
            }
            CHECK(dw[n * ldw + K] == dw0[n * ldw + K]);
        }
        free(dw);
        free(x);
        free(w);
        free(y0);
        free(dx0);
        free(dw0);
    }
}
