/* core/train/adamw.c: the published update, by hand. */
#include "core/train/adamw.h"

#include "tests/unit/test.h"

TEST(train_adamw_reference)
{
    /* two steps of the published update, by hand in double */
    float w = 1.5f, m = 0, v = 0;
    double rw = 1.5, rm = 0, rv = 0;
    for (int t = 1; t <= 2; t++) {
        const double g = t == 1 ? 0.4 : -0.1;
        const float gf = (float)g;
        const struct deq_adamw o = {0.01f, 0.9f, 0.99f, 1e-8f, 0.1f, (uint64_t)t};
        deq_adamw_update(&o, &w, &m, &v, &gf, 1, true, 1);
        rm = 0.9 * rm + 0.1 * g;
        rv = 0.99 * rv + 0.01 * g * g;
        rw = rw * (1 - 0.01 * 0.1) - 0.01 * (rm / (1 - pow(0.9, t))) / (sqrt(rv / (1 - pow(0.99, t))) + 1e-8);
        /* float moments: 1e-6 relative */
        CHECK_MSG(fabs((double)w - rw) < 1e-5, "step %d: %g, expected %g", t, (double)w, rw);
    }
}
