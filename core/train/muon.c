#include "core/train/muon.h"

#include <math.h>
#include <string.h>

#include "core/math/gemm.h"
#include "core/math/kern.h"

enum { STEPS = 5 };
static const float A = 3.4445f, B = -4.7750f, C = 2.0315f;

size_t deq_muon_floats(size_t rows, size_t cols)
{
    const size_t s = DEQ_MIN(rows, cols);
    return 2 * rows * cols + 4 * s * s;
}

/* a [s, s], symmetric, of which all but the upper right quarter is there */
static void mirror(size_t s, float *a)
{
    for (size_t i = 0; i < s / 2; i++)
        for (size_t j = s / 2; j < s; j++)
            a[i * s + j] = a[j * s + i];
}

/* out [s, s] = x y' of [s, n], where that is symmetric: X X', or products of symmetric matrices that commute */
static void times(size_t s, size_t n, const float *x, const float *y, float *out)
{
    const size_t h = s / 2;
    deq_gemm_xwt(h, h, n, x, n, y, n, NULL, 0, out, s);
    deq_gemm_xwt(s - h, s, n, x + h * n, n, y, n, NULL, 0, out + h * s, s);
    mirror(s, out);
}

/* q [s, s] becomes the product of all steps' P = A + B G + C G^2, where G, at first X X' (or X' X), becomes P G P from
 * one step to the next: all polynomials in the first G. work: [2, s, s] */
static void polynomial(size_t s, float *q, float *g, float *work)
{
    float *p = work, *t = p + s * s;
    for (int step = 0; step < STEPS; step++) {
        times(s, s, g, g, p);
        for (size_t i = 0; i < s * s; i++)
            p[i] = B * g[i] + C * p[i] + (i % (s + 1) ? 0 : A);
        if (step)
            times(s, s, q, p, t);
        memcpy(q, step ? t : p, s * s * sizeof(float));
        if (step == STEPS - 1)
            break;
        times(s, s, p, g, t);
        times(s, s, t, p, g);
    }
}

void deq_muon_update(float lr, float mu, float weight_decay, float *w, float *m, const float *grad, float scale,
                     size_t rows, size_t cols, float *scratch)
{
    const struct deq_kern *k = deq_kern();
    const size_t n = rows * cols, s = DEQ_MIN(rows, cols);
    float *x = scratch, *y = x + n, *g = y + n, *q = g + s * s, *work = q + s * s;
    for (size_t i = 0; i < n; i++) {
        const float d = grad[i] * scale;
        m[i] = mu * m[i] + (1.0f - mu) * d;
        x[i] = mu * m[i] + (1.0f - mu) * d;
    }
    /* the Frobenius norm bounds the spectral norm, so all singular values start in [0, 1] */
    k->scale(x, 1.0f / (sqrtf(k->dot(x, x, n)) + 1e-12f), n);
    if (rows <= cols) {
        times(s, cols, x, x, g); /* X X' */
    } else {
        memset(g, 0, s * s * sizeof(float));
        deq_gemm_dytx(rows, s / 2, s / 2, x, cols, x, cols, g, s); /* X' X */
        deq_gemm_dytx(rows, s - s / 2, s, x + s / 2, cols, x, cols, g + s / 2 * s, s);
        mirror(s, g);
    }
    polynomial(s, q, g, work);
    if (rows <= cols)
        deq_gemm_dyw(s, s, cols, q, s, x, cols, NULL, 0, y, cols);
    else
        deq_gemm_dyw(rows, s, s, x, cols, q, s, NULL, 0, y, cols);
    k->scale(w, 1.0f - lr * weight_decay, n);
    k->axpy(w, -lr * 0.2f * sqrtf((float)DEQ_MAX(rows, cols)), y, n);
}
