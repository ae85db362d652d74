/* The one door to matrix products. All weights are [N, K] (outputs, inputs), as in the model file: y = x W^T.
 *
 * exact   own kernels over packed weights. One output element is one chain of fused multiply-adds over k = 0..K-1,
 *         so its bits depend on its own row of x and on W alone: not on the number of rows, the slot, the thread
 *         count or the CPU level. The engine uses this path. BF16 weights are packed as BF16 (half the bytes to
 *         stream) and widened exactly.
 * fast    OpenBLAS, whose bits do depend on shape and CPU. Training uses this path, one thread a call. */
#ifndef DEQ_MATH_GEMM_H
#define DEQ_MATH_GEMM_H

#include "core/base/base.h"
#include "core/base/err.h"
#include "core/base/pool.h"

struct deq_packed { /* one weight matrix in panels of 64 outputs; owned by whoever packed it */
    void *data;     /* [ceil(N/64), K, 64] f32 or bf16 */
    size_t n, k;
    bool bf16;
};

/* Packs w [n, k]; with bf16 true every value must be a bf16 number already. Free with deq_packed_free. */
enum deq_rc deq_pack(const float *w, size_t n, size_t k, bool bf16, struct deq_packed *ret, struct deq_err *err);
void deq_packed_free(struct deq_packed *p);
size_t deq_packed_bytes(const struct deq_packed *p);

/* Thread `thread` of `n_threads` computes its panels of y [m, ldy] = x [m, ldx] W^T (exact). */
void deq_gemm_exact(const float *x, size_t ldx, size_t m, const struct deq_packed *w, float *y, size_t ldy,
                    unsigned thread, unsigned n_threads);

/* The same product, row i of it to y[i]: bits are equal, the rows may stand anywhere. */
void deq_gemm_exact_to(const float *x, size_t ldx, size_t m, const struct deq_packed *w, float *const *y,
                       unsigned thread, unsigned n_threads);
/* out [k] = row `row` of the matrix, as it was packed */
void deq_packed_row(const struct deq_packed *w, size_t row, float *out);

/* y [m, n] = beta*y + x [m, k] w[n, k]^T            (fast)  */
void deq_gemm_xwt(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *w, size_t ldw, float beta,
                  float *y, size_t ldy);
/* The same, every sum in double and rounded once: slow, for comparisons with what other code computed in float64. */
void deq_gemm_xwt_wide(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *w, size_t ldw, float beta,
                       float *y, size_t ldy);
void deq_gemm_dyw_wide(size_t m, size_t n, size_t k, const float *dy, size_t lddy, const float *w, size_t ldw,
                       float beta, float *dx, size_t lddx);
/* dx [m, k] = beta*dx + dy [m, n] w [n, k]          (fast)  */
void deq_gemm_dyw(size_t m, size_t n, size_t k, const float *dy, size_t lddy, const float *w, size_t ldw, float beta,
                  float *dx, size_t lddx);
/* dw [n, k] += dy [m, n]^T x [m, k]                 (fast)  */
void deq_gemm_dytx(size_t m, size_t n, size_t k, const float *dy, size_t lddy, const float *x, size_t ldx, float *dw,
                   size_t lddw);

typedef void deq_gemm_fn(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *w, size_t ldw,
                         float beta, float *y, size_t ldy);

#endif
