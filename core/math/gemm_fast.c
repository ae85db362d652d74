/* The fast path of gemm.h: OpenBLAS. A file of its own, so that programs that only serve are linked without it:
 * it would start threads before main, take their memory, and, where that is not to be had (a low RLIMIT_AS),
 * never let the process end. */
#include <cblas.h>
#include <string.h>
#include <strings.h>

#include "core/math/gemm.h"
#include "core/math/kern.h"

/* Threads of ours run whole sequences side by side, so OpenBLAS must not start its own. */
static void one_thread(void)
{
    static _Thread_local bool done;
    if (!done) {
        openblas_set_num_threads(1);
        done = true;
    }
}

const char *deq_blas_better_core(void)
{
    static const char *const good[] = {"Haswell", "Zen", "SkylakeX", "Cooperlake", "SapphireRapids"};
    const char *core = openblas_get_corename();
    for (size_t i = 0; i < DEQ_COUNT(good); i++)
        if (!strcasecmp(core, good[i]))
            return NULL;
    return deq_kern_level("avx512") ? "SkylakeX" : deq_kern_level("avx2") ? "Haswell" : NULL;
}

/* y = from, where that is another matrix; returns what y is multiplied with then. */
static float begin(size_t m, size_t n, const float *from, size_t ld_from, float *y, size_t ldy)
{
    for (size_t i = 0; from && from != y && i < m; i++)
        memcpy(y + i * ldy, from + i * ld_from, n * sizeof(float));
    return from ? 1.0f : 0.0f;
}

void deq_gemm_xwt(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *w, size_t ldw,
                  const float *from, size_t ld_from, float *y, size_t ldy)
{
    one_thread();
    const float beta = begin(m, n, from, ld_from, y, ldy);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)k, 1.0f, x, (int)ldx, w, (int)ldw, beta,
                y, (int)ldy);
}

void deq_gemm_dyw(size_t m, size_t n, size_t k, const float *dy, size_t lddy, const float *w, size_t ldw,
                  const float *from, size_t ld_from, float *dx, size_t lddx)
{
    one_thread();
    const float beta = begin(m, k, from, ld_from, dx, lddx);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)k, (int)n, 1.0f, dy, (int)lddy, w, (int)ldw,
                beta, dx, (int)lddx);
}

void deq_gemm_dytx(size_t m, size_t n, size_t k, const float *dy, size_t lddy, const float *x, size_t ldx, float *dw,
                   size_t lddw)
{
    one_thread();
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)n, (int)k, (int)m, 1.0f, dy, (int)lddy, x, (int)ldx, 1.0f,
                dw, (int)lddw);
}
