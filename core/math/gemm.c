#include "core/math/gemm.h"

#include "core/base/mem.h"
#include "core/math/half.h"
#include "core/math/kern.h"

enum deq_rc deq_pack(const float *w, size_t n, size_t k, bool bf16, struct deq_packed *ret, struct deq_err *err)
{
    size_t panels = (n + DEQ_PANEL - 1) / DEQ_PANEL, count;
    if (!deq_mul_size(panels * DEQ_PANEL, k, &count))
        return deq_fail(err, DEQ_EFORMAT, "a weight of shape [%zu, %zu] is too large", n, k);
    void *data = deq_alloc_array(count, bf16 ? 2 : 4);
    if (!data)
        return deq_fail(err, DEQ_ENOMEM, "no memory to pack a weight of shape [%zu, %zu]", n, k);
    for (size_t row = 0; row < n; row++) {
        size_t base = row / DEQ_PANEL * DEQ_PANEL * k + row % DEQ_PANEL;
        for (size_t i = 0; i < k; i++) {
            if (bf16)
                ((uint16_t *)data)[base + i * DEQ_PANEL] = deq_f32_to_bf16(w[row * k + i]);
            else
                ((float *)data)[base + i * DEQ_PANEL] = w[row * k + i];
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

void deq_gemm_exact(const float *x, size_t ldx, size_t m, const struct deq_packed *w, float *y, size_t ldy, unsigned thread,
                    unsigned n_threads)
{
    const struct deq_kern *kern = deq_kern();
    size_t panels = (w->n + DEQ_PANEL - 1) / DEQ_PANEL;
    size_t from = panels * thread / n_threads, to = panels * (thread + 1) / n_threads;
    for (size_t p = from; p < to; p++) {
        size_t n = DEQ_MIN((size_t)DEQ_PANEL, w->n - p * DEQ_PANEL), at = p * DEQ_PANEL * w->k;
        if (w->bf16)
            kern->mm_bf16(x, ldx, m, w->k, (const uint16_t *)w->data + at, y + p * DEQ_PANEL, ldy, n);
        else
            kern->mm_f32(x, ldx, m, w->k, (const float *)w->data + at, y + p * DEQ_PANEL, ldy, n);
    }
}
