#include "core/math/gemm.h"

#include "core/base/mem.h"
#include "core/math/half.h"
#include "core/math/kern.h"

enum { BLOCK = 16 };

enum deq_rc deq_pack(const float *w, size_t n, size_t k, bool bf16, struct deq_packed *ret, struct deq_err *err)
{
    size_t panels = (n + DEQ_PANEL - 1) / DEQ_PANEL, count;
    if (!deq_mul_size(panels * DEQ_PANEL, k, &count))
        return deq_fail(err, DEQ_EFORMAT, "a weight of shape [%zu, %zu] is too large", n, k);
    void *data = deq_alloc_array(count, bf16 ? 2 : 4);
    if (!data)
        return deq_fail(err, DEQ_ENOMEM, "no memory to pack a weight of shape [%zu, %zu]", n, k);
    for (size_t p = 0; p < panels; p++)
        /* blocks that stay in the first cache: both sides are walked with a stride */
        for (size_t k0 = 0; k0 < k; k0 += BLOCK) {
            const size_t rows = DEQ_MIN((size_t)DEQ_PANEL, n - p * DEQ_PANEL), k1 = DEQ_MIN(k0 + BLOCK, k),
                         base = p * DEQ_PANEL * k;
            for (size_t r = 0; r < rows; r++)
                for (size_t i = k0; i < k1; i++) {
                    const float x = w[(p * DEQ_PANEL + r) * k + i];
                    if (bf16)
                        ((uint16_t *)data)[base + i * DEQ_PANEL + r] = deq_f32_to_bf16(x);
                    else
                        ((float *)data)[base + i * DEQ_PANEL + r] = x;
                }
        }
    *ret = (struct deq_packed){data, n, k, bf16};
    return DEQ_OK;
}

void deq_packed_free(struct deq_packed *p)
{
    deq_free(p->data);
    *p = (struct deq_packed){0};
}

size_t deq_packed_bytes(const struct deq_packed *p)
{
    return DEQ_ROUND_UP(p->n, (size_t)DEQ_PANEL) * p->k * (p->bf16 ? 2 : 4);
}

static void panel(const struct deq_kern *kern, const float *x, size_t ldx, size_t m, const struct deq_packed *w,
                  size_t p, float *y, size_t ldy)
{
    const size_t n = DEQ_MIN((size_t)DEQ_PANEL, w->n - p * DEQ_PANEL), at = p * DEQ_PANEL * w->k;
    if (w->bf16)
        kern->mm_bf16(x, ldx, m, w->k, (const uint16_t *)w->data + at, y + p * DEQ_PANEL, ldy, n);
    else
        kern->mm_f32(x, ldx, m, w->k, (const float *)w->data + at, y + p * DEQ_PANEL, ldy, n);
}

void deq_gemm_exact(const float *x, size_t ldx, size_t m, const struct deq_packed *w, float *y, size_t ldy,
                    unsigned thread, unsigned n_threads)
{
    const struct deq_kern *kern = deq_kern();
    const size_t panels = (w->n + DEQ_PANEL - 1) / DEQ_PANEL;
    for (size_t p = panels * thread / n_threads; p < panels * (thread + 1) / n_threads; p++)
        panel(kern, x, ldx, m, w, p, y, ldy);
}

void deq_gemm_exact_to(const float *x, size_t ldx, size_t m, const struct deq_packed *w, float *const *y,
                       unsigned thread, unsigned n_threads)
{
    const struct deq_kern *kern = deq_kern();
    const size_t panels = (w->n + DEQ_PANEL - 1) / DEQ_PANEL;
    for (size_t p = panels * thread / n_threads; p < panels * (thread + 1) / n_threads; p++)
        for (size_t i = 0, run; i < m; i += run) { /* rows at an even distance go together */
            const ptrdiff_t step = i + 1 < m ? y[i + 1] - y[i] : (ptrdiff_t)w->n;
            for (run = 1; step > 0 && i + run < m && y[i + run] - y[i + run - 1] == step; run++)
                ;
            panel(kern, x + i * ldx, ldx, run, w, p, y[i], (size_t)DEQ_MAX(step, (ptrdiff_t)1));
        }
}

void deq_packed_row(const struct deq_packed *w, size_t row, float *out)
{
    const size_t base = row / DEQ_PANEL * DEQ_PANEL * w->k + row % DEQ_PANEL;
    for (size_t i = 0; i < w->k; i++)
        out[i] = w->bf16 ? deq_bf16_to_f32(((const uint16_t *)w->data)[base + i * DEQ_PANEL])
                         : ((const float *)w->data)[base + i * DEQ_PANEL];
}

static double start(float beta, const float *y)
{
    return beta != 0 ? (double)beta * (double)*y : 0; /* beta 0: y may hold anything */
}

void deq_gemm_xwt_wide(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *w, size_t ldw, float beta,
                       float *y, size_t ldy)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = start(beta, y + i * ldy + j);
            for (size_t l = 0; l < k; l++)
                sum += (double)x[i * ldx + l] * (double)w[j * ldw + l];
            y[i * ldy + j] = (float)sum;
        }
}

void deq_gemm_dyw_wide(size_t m, size_t n, size_t k, const float *dy, size_t lddy, const float *w, size_t ldw,
                       float beta, float *dx, size_t lddx)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < k; j++) {
            double sum = start(beta, dx + i * lddx + j);
            for (size_t l = 0; l < n; l++)
                sum += (double)dy[i * lddy + l] * (double)w[l * ldw + j];
            dx[i * lddx + j] = (float)sum;
        }
}
