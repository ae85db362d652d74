/* The one door to matrix products. All weights are [N, K] (outputs, inputs), as in the model file: y = x W^T.
 *
 * exact   own kernels over packed weights of a format (format.h). The bits of an output depend on its own row of x and
 *         on W alone: not on the number of rows, the slot, the thread count or the CPU level. The engine's path.
 * fast    plain matrices by OpenBLAS, whose bits do depend on shape and CPU; begun with `from` (NULL: zero; rows
 *         ld_from apart, 0: one row for all). Training and scoring use this path, one thread a call. */
#ifndef DEQ_MATH_GEMM_H
#define DEQ_MATH_GEMM_H

#include "core/base/base.h"
#include "core/base/err.h"
#include "core/base/pool.h"
#include "core/math/format.h"

struct deq_packed { /* one weight matrix in panels of 64 outputs; owned by whoever packed it */
    void *data;     /* ceil(N/64) panels, as kern.h and format.h have them */
    size_t n, k;
    enum deq_format format;
};

/* Packs w [n, k]. bf16: every value must be a bf16 number already; integers: finite. Free with deq_packed_free. */
enum deq_rc deq_pack(const float *w, size_t n, size_t k, enum deq_format format, struct deq_packed *ret,
                     struct deq_err *err);
void deq_packed_free(struct deq_packed *p);
size_t deq_packed_bytes(const struct deq_packed *p);
/* out [k] = row `row` of the matrix, as it was packed */
void deq_packed_row(const struct deq_packed *w, size_t row, float *out);

/* Rows of activations, as products with weights of a format read them: the floats themselves, or what deq_prepare made
 * of each. */
struct deq_operand {
    const void *rows;
    size_t stride; /* bytes between rows */
};
/* Bytes of a prepared row; 0: the format reads floats. */
size_t deq_prepared_bytes(enum deq_format format, size_t k);
/* Prepares row i of x [k] at rows + i * deq_prepared_bytes(). Nothing where the format reads floats. */
void deq_prepare(enum deq_format format, const float *x, size_t k, void *rows, size_t i);
/* The operand of rows x [*, ldx], prepared at `prepared` where the format asks for it. */
struct deq_operand deq_operand(enum deq_format format, const float *x, size_t ldx, const void *prepared, size_t k);

/* What is to be done with outputs col .. col+n-1 of a row while they are in the cache, or NULL. */
typedef void deq_then(void *ctx, size_t row, size_t col, size_t n, float *y);

/* Thread `thread` of `n_threads` computes its outputs of y [m, ldy] = x [m] W^T (exact), then `then` on them. */
void deq_multiply(const struct deq_operand *x, size_t m, const struct deq_packed *w, float *y, size_t ldy,
                  unsigned thread, unsigned n_threads, deq_then *then, void *ctx);

/* The same product, row i of it to y[i]: bits are equal, the rows may stand anywhere. */
void deq_multiply_to(const struct deq_operand *x, size_t m, const struct deq_packed *w, float *const *y,
                     unsigned thread, unsigned n_threads);

/* Of one row, the outputs n0 .. n0+DEQ_PANEL_UNIT-1 (as many as there are): bits are equal. n0: a multiple of that. */
void deq_multiply_unit(const struct deq_operand *x, const struct deq_packed *w, size_t n0, float *y);

/* y [m, n] = from [m, n] + x [m, k] w [n, k]^T      (fast) */
void deq_gemm_xwt(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *w, size_t ldw,
                  const float *from, size_t ld_from, float *y, size_t ldy);
/* dx [m, k] = from [m, k] + dy [m, n] w [n, k]      (fast) */
void deq_gemm_dyw(size_t m, size_t n, size_t k, const float *dy, size_t lddy, const float *w, size_t ldw,
                  const float *from, size_t ld_from, float *dx, size_t lddx);
/* dw [n, k] += dy [m, n]^T x [m, k]                 (fast) */
void deq_gemm_dytx(size_t m, size_t n, size_t k, const float *dy, size_t lddy, const float *x, size_t ldx, float *dw,
                   size_t lddw);
/* The first two, every sum in double and rounded once: slow, for comparisons with what other code computed in
 * float64. */
void deq_gemm_xwt_wide(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *w, size_t ldw,
                       const float *from, size_t ld_from, float *y, size_t ldy);
void deq_gemm_dyw_wide(size_t m, size_t n, size_t k, const float *dy, size_t lddy, const float *w, size_t ldw,
                       const float *from, size_t ld_from, float *dx, size_t lddx);

/* The OPENBLAS_CORETYPE with which a program should begin on this machine, or NULL: OpenBLAS takes its oldest kernels,
 * several times as slow, on a CPU that is younger than itself. It reads the variable once, while it is loaded. */
const char *deq_blas_better_core(void);

typedef void deq_gemm_fn(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *w, size_t ldw,
                         const float *from, size_t ld_from, float *y, size_t ldy);

#endif
