#include "core/train/muon.h"

#include <math.h>
#include <string.h>

#include "core/math/gemm.h"
#include "core/math/kern.h"

enum { STEPS = 5 };

size_t deq_muon_floats(size_t rows, size_t cols)
{
    const size_t s = DEQ_MIN(rows, cols);
    return 2 * rows * cols + 2 * s * s;
}

void deq_muon_update(float lr, float mu, float weight_decay, float *w, float *m, const float *grad, float scale,
                     size_t rows, size_t cols, float *scratch)
{
    const struct deq_kern *k = deq_kern();
    const size_t n = rows * cols, s = DEQ_MIN(rows, cols);
    float *x = scratch, *y = x + n, *a = y + n, *b = a + s * s;
    for (size_t i = 0; i < n; i++) {
        const float g = grad[i] * scale;
        m[i] = mu * m[i] + (1.0f - mu) * g;
        x[i] = mu * m[i] + (1.0f - mu) * g;
    }
    /* the Frobenius norm bounds the spectral norm, so all singular values start in [0, 1] */
    k->scale(x, 1.0f / (sqrtf(k->dot(x, x, n)) + 1e-12f), n);
    for (int step = 0; step < STEPS; step++) {
        if (rows <= cols) {
            deq_gemm_xwt(s, s, cols, x, cols, x, cols, NULL, 0, a, s); /* X X' */
        } else {
            memset(a, 0, s * s * sizeof(float));
            deq_gemm_dytx(rows, s, s, x, cols, x, cols, a, s); /* X' X */
        }
        deq_gemm_xwt(s, s, s, a, s, a, s, NULL, 0, b, s); /* A^2, A being symmetric */
        for (size_t i = 0; i < s * s; i++)
            b[i] = -4.7750f * a[i] + 2.0315f * b[i];
        if (rows <= cols)
            deq_gemm_dyw(s, s, cols, b, s, x, cols, NULL, 0, y, cols); /* B X */
        else
            deq_gemm_dyw(rows, s, s, x, cols, b, s, NULL, 0, y, cols); /* X B */
        k->scale(x, 3.4445f, n);
        k->add(x, x, y, n);
    }
    k->scale(w, 1.0f - lr * weight_decay, n);
    k->axpy(w, -lr * 0.2f * sqrtf((float)DEQ_MAX(rows, cols)), x, n);
}
