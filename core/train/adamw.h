/* AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019), over one flat array. */
#ifndef DEQ_TRAIN_ADAMW_H
#define DEQ_TRAIN_ADAMW_H

#include "core/base/base.h"

struct deq_adamw {
    float lr, beta1, beta2, eps, weight_decay;
    uint64_t t; /* this step's number, from 1 */
};

/* w, m, v [n] updated in place by grad * scale; decay: whether weight decay applies to this range. */
void deq_adamw_update(const struct deq_adamw *o, float *w, float *m, float *v, const float *grad, float scale,
                      bool decay, size_t n);

#endif
