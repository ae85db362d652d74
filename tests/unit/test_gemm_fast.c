/* core/math/gemm_fast.c: products of plain matrices, begun with `from`, for every transposition, stride and shape. */
#include "core/math/gemm.h"

#include <stdlib.h>

#include "core/base/rng.h"
#include "core/math/kern.h"
#include "tests/unit/test.h"

static const float SENTINEL = -777.25f;

static float *floats(size_t n, uint64_t stream)
{
    float *p = malloc((n ? n : 1) * sizeof *p);
    for (size_t i = 0; p && i < n; i++)
        p[i] = stream ? (float)deq_rng_normal(21, stream, i) : SENTINEL;
    return p;
}

/* Whether y is from + the sum of a(l) b(l), where a(l) is a[l * ac] and b(l) is b[l * br], as near as K + 1 additions
 * and products in any order, each rounded once, can be. */
static bool near(float y, float from, const float *a, size_t ac, const float *b, size_t br, size_t K)
{
    double sum = (double)from, size = fabs((double)from);
    for (size_t l = 0; l < K; l++) {
        sum += (double)a[l * ac] * (double)b[l * br];
        size += fabs((double)a[l * ac] * (double)b[l * br]);
    }
    return fabs((double)y - sum) <= (double)(K + 2) * 0x1p-23 * size;
}

enum { PAD = 3 };

/* Rows of M, one product of each kind; got and want have other leading dimensions than the operands. `start` says what
 * they begin with: 0 nothing, and outputs that were never written; 1 themselves; 2 one row for all. */
static void check_shape(size_t M, size_t N, size_t K, int start)
{
    const size_t ldx = K + PAD, ldw = K + 1, ldy = N + 2;
    float *x = floats(M * ldx, 7), *w = floats(N * ldw, 8), *dy = floats(M * ldy, 9), *row = floats(N + K, 10),
          *y = floats(M * ldy, start == 1 ? 11 : 0), *dx = floats(M * ldx, start == 1 ? 12 : 0),
          *dw = floats(N * ldw, 13), *y0 = floats(M * ldy, 11), *dx0 = floats(M * ldx, 12), *dw0 = floats(N * ldw, 13);
    for (size_t m = 0; start == 0 && m < M; m++) {
        for (size_t n = 0; n < N; n++)
            y[m * ldy + n] = NAN;
        for (size_t k = 0; k < K; k++)
            dx[m * ldx + k] = NAN;
    }
    deq_gemm_xwt(M, N, K, x, ldx, w, ldw, start == 1 ? y : start ? row : NULL, start == 1 ? ldy : 0, y, ldy);
    deq_gemm_dyw(M, N, K, dy, ldy, w, ldw, start == 1 ? dx : start ? row : NULL, start == 1 ? ldx : 0, dx, ldx);
    deq_gemm_dytx(M, N, K, dy, ldy, x, ldx, dw, ldw);
    size_t wrong = 0;
    for (size_t m = 0; m < M; m++) {
        for (size_t n = 0; n < N; n++)
            wrong += !near(y[m * ldy + n], start == 1 ? y0[m * ldy + n] : start ? row[n] : 0, x + m * ldx, 1,
                           w + n * ldw, 1, K);
        for (size_t k = 0; k < K; k++)
            wrong += !near(dx[m * ldx + k], start == 1 ? dx0[m * ldx + k] : start ? row[k] : 0, dy + m * ldy, 1,
                           w + k, ldw, N);
        for (size_t n = N; n < ldy; n++)
            wrong += y[m * ldy + n] != (start == 1 ? y0[m * ldy + n] : SENTINEL);
        for (size_t k = K; k < ldx; k++)
            wrong += dx[m * ldx + k] != (start == 1 ? dx0[m * ldx + k] : SENTINEL);
    }
    for (size_t n = 0; n < N; n++) {
        for (size_t k = 0; k < K; k++)
            wrong += !near(dw[n * ldw + k], dw0[n * ldw + k], dy + n, ldy, x + k, ldx, M);
        wrong += dw[n * ldw + K] != dw0[n * ldw + K];
    }
    CHECK_MSG(!wrong, "m=%zu n=%zu k=%zu start %d: %zu elements", M, N, K, start, wrong);
    float *const all[] = {x, w, dy, row, y, dx, dw, y0, dx0, dw0};
    for (size_t i = 0; i < DEQ_COUNT(all); i++)
        free(all[i]);
}

TEST(gemm_fast_against_double)
{
    static const size_t shape[][3] = {{1, 1, 1}, {1, 7, 33}, {3, 5, 1}, {17, 31, 29}, {64, 48, 65}, {5, 130, 77},
                                      {70, 3, 9}, {7, 329, 11}, {5, 9, 663}, {251, 2, 7}};
    for (size_t s = 0; s < DEQ_COUNT(shape); s++)
        for (int start = 0; start < 3; start++)
            check_shape(shape[s][0], shape[s][1], shape[s][2], start);
}

/* What this process began with is either good already, or another is named that this machine can run. */
TEST(gemm_fast_names_a_core_that_fits)
{
    const char *core = deq_blas_better_core();
    CHECK(!core || !strcmp(core, "Haswell") || !strcmp(core, "SkylakeX"));
    CHECK(!core || deq_kern_level(strcmp(core, "Haswell") ? "avx512" : "avx2"));
}
