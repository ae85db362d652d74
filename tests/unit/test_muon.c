/* core/train/muon.c: an update is orthogonal, whatever the shape. */
#include "core/train/muon.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "tests/unit/test.h"

/* One Newton-Schulz step, as written, in double: x [r, c] with r <= c */
static void newton_schulz(size_t r, size_t c, double *x)
{
    double a[24 * 24], y[24 * 40];
    for (size_t i = 0; i < r; i++)
        for (size_t j = 0; j < r; j++) {
            a[i * r + j] = 0;
            for (size_t l = 0; l < c; l++)
                a[i * r + j] += x[i * c + l] * x[j * c + l];
        }
    for (size_t i = 0; i < r; i++)
        for (size_t l = 0; l < c; l++) {
            y[i * c + l] = 3.4445 * x[i * c + l];
            for (size_t j = 0; j < r; j++) {
                double b = -4.7750 * a[i * r + j];
                for (size_t k = 0; k < r; k++)
                    b += 2.0315 * a[i * r + k] * a[k * r + j];
                y[i * c + l] += b * x[j * c + l];
            }
        }
    memcpy(x, y, r * c * sizeof *x);
}

/* The update is the five steps', whether the matrix is wide, tall or square, of even or odd sides. */
TEST(train_muon_is_five_steps)
{
    static const size_t shapes[][2] = {{24, 40}, {40, 24}, {23, 23}, {7, 31}, {1, 5}};
    for (size_t k = 0; k < DEQ_COUNT(shapes); k++) {
        const size_t r = shapes[k][0], c = shapes[k][1], s = DEQ_MIN(r, c), l = DEQ_MAX(r, c);
        float w[24 * 40] = {0}, m[24 * 40] = {0}, g[24 * 40], *scratch = DEQ_NEW_ARRAY(float, deq_muon_floats(r, c));
        double x[24 * 40], norm = 0, off = 0, size = 0;
        for (size_t i = 0; i < r * c; i++) {
            g[i] = (float)deq_rng_normal(6, k, i);
            norm += (double)g[i] * (double)g[i];
        }
        for (size_t i = 0; i < s; i++)
            for (size_t j = 0; j < l; j++)
                x[i * l + j] = (double)g[r <= c ? i * c + j : j * c + i] / sqrt(norm);
        for (int step = 0; step < 5; step++)
            newton_schulz(s, l, x);
        deq_muon_update(1, 0.95f, 0, w, m, g, 1, r, c, scratch);
        for (size_t i = 0; i < s; i++)
            for (size_t j = 0; j < l; j++) {
                const double got = -(double)w[r <= c ? i * c + j : j * c + i] / (0.2 * sqrt((double)l));
                off += (got - x[i * l + j]) * (got - x[i * l + j]);
                size += x[i * l + j] * x[i * l + j];
            }
        /* an error of 1e-7 in X X' is stretched up to 3.4445^2 times a step where X is small: 2e4 in four steps */
        CHECK_MSG(off <= 4e-6 * size, "[%zu, %zu]: %g", r, c, sqrt(off / size));
        deq_free(scratch);
    }
}

/* The update is orthogonal up to the band of the Newton-Schulz steps: singular values in 0.6..1.3, so row
 * norms of a wide matrix near 1. */
TEST(train_muon_orthogonalises)
{
    const size_t shapes[3][2] = {{8, 24}, {24, 8}, {16, 16}};
    for (size_t k = 0; k < 3; k++) {
        const size_t r = shapes[k][0], c = shapes[k][1], s = DEQ_MIN(r, c);
        float w[256] = {0}, m[256] = {0}, g[256], *scratch = DEQ_NEW_ARRAY(float, deq_muon_floats(r, c));
        for (size_t i = 0; i < r * c; i++)
            g[i] = (float)deq_rng_normal(5, k, i);
        deq_muon_update(1, 0.95f, 0, w, m, g, 1, r, c, scratch);
        const double unit = 0.2 * sqrt((double)DEQ_MAX(r, c));
        for (size_t i = 0; i < s; i++) {
            double n = 0, along = 0;
            for (size_t j = 0; j < r * c / s; j++) {
                const size_t at = r <= c ? i * c + j : j * c + i;
                n += (double)w[at] * (double)w[at] / (unit * unit);
                along += (double)w[at] * (double)g[at];
            }
            CHECK_MSG(n > 0.36 && n < 1.7 && along < 0, "[%zu, %zu] row %zu: |row|^2 %g, against the gradient %g", r, c,
                      i, n, along);
        }
        deq_free(scratch);
    }
}
