/* Muon (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024): the momentum of a weight
 * matrix is replaced by the nearest semi-orthogonal matrix, so every direction of it learns at the same rate. The polar
 * factor comes from five Newton-Schulz steps
 *     X <- a X + (b A + c A^2) X,   A = X X',   (a, b, c) = (3.4445, -4.7750, 2.0315),
 * whose five polynomials in A are multiplied before they meet X: products of the short side's size, all symmetric, of
 * which a quarter need not be computed. The result is scaled by 0.2 sqrt(max(rows, cols)), which gives updates of
 * AdamW's usual size (Liu et al., "Muon is scalable for LLM training", 2025), so that one learning rate has one
 * meaning. Embeddings, norms and biases stay with AdamW. */
#ifndef DEQ_TRAIN_MUON_H
#define DEQ_TRAIN_MUON_H

#include "core/base/base.h"

/* Floats of scratch for a matrix [rows, cols]. */
size_t deq_muon_floats(size_t rows, size_t cols);
/* w, m [rows, cols] updated in place by grad * scale, Nesterov momentum mu. */
void deq_muon_update(float lr, float mu, float weight_decay, float *w, float *m, const float *grad, float scale,
                     size_t rows, size_t cols, float *scratch);

#endif
