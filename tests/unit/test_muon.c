/* core/train/muon.c: an update is orthogonal, whatever the shape. */
#include "core/train/muon.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "tests/unit/test.h"

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
