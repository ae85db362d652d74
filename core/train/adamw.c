#include "core/train/adamw.h"

#include <math.h>

void deq_adamw_update(const struct deq_adamw *o, float *w, float *m, float *v, const float *grad, float scale,
                      bool decay, size_t n)
{
    const float c1 = (float)(1.0 / (1.0 - pow(o->beta1, (double)o->t))),
                c2 = (float)(1.0 / (1.0 - pow(o->beta2, (double)o->t)));
    const float shrink = decay ? 1.0f - o->lr * o->weight_decay : 1.0f;
    for (size_t i = 0; i < n; i++) {
        const float g = grad[i] * scale;
        m[i] = o->beta1 * m[i] + (1.0f - o->beta1) * g;
        v[i] = o->beta2 * v[i] + (1.0f - o->beta2) * g * g;
        w[i] = w[i] * shrink - o->lr * (m[i] * c1) / (sqrtf(v[i] * c2) + o->eps);
    }
}
