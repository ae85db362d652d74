#include "core/cell/attention.h"

#include <math.h>
#include <string.h>

#include "core/math/kern.h"

struct deq_attention deq_attention_shape(const struct deq_transformer_arch *a, uint32_t n_pages)
{
    return (struct deq_attention){.kv = deq_kv_layout(a->n_head, a->d_head, a->n_block),
                                  .n_head = a->n_head,
                                  .window = a->attn_window,
                                  .reach = DEQ_MIN((size_t)a->attn_window, (size_t)n_pages * DEQ_KV_PAGE_TOK),
                                  .n_block = a->n_block,
                                  .n_pages = n_pages};
}

void deq_attention_lay_out(struct deq_attention *a, unsigned threads, struct deq_layout *l)
{
    const size_t row_pages = a->reach / DEQ_KV_PAGE_TOK + 2;
    DEQ_PART(l, a->pages, a->n_pages * a->kv.page_floats);
    for (unsigned k = 0; k < a->n_block; k++)
        DEQ_PART(l, a->rel[k], a->n_head * a->kv.d_head * deq_rel_stride(a->reach));
    DEQ_PART(l, a->thread, threads);
    for (unsigned i = 0; i < threads; i++) {
        struct deq_attention_scratch counted, *own = l->base ? &a->thread[i] : &counted;
        DEQ_PART(l, own->scores, (row_pages + 1) * DEQ_KV_PAGE_TOK);
        DEQ_PART(l, own->qc, a->kv.v_stride);
        DEQ_PART(l, own->qr, a->kv.v_stride);
        DEQ_PART(l, own->out, a->kv.v_stride);
        DEQ_PART(l, own->k, row_pages);
        DEQ_PART(l, own->v, row_pages);
    }
}

static float *page_at(const struct deq_attention *a, const struct deq_ring *ring, size_t logical)
{
    return a->pages + deq_page_of(ring, logical) * a->kv.page_floats;
}

void deq_attention_write(const struct deq_attention *a, unsigned block, const struct deq_ring *ring, size_t position,
                         const float *kv)
{
    const size_t Dh = a->kv.d_head, HD = a->n_head * Dh, P = DEQ_KV_PAGE_TOK, lane = position % P;
    float *page = page_at(a, ring, position / P);
    for (size_t h = 0; h < a->n_head; h++) {
        float *k = deq_kv_k(&a->kv, page, block, h), *v = deq_kv_v(&a->kv, page, block, h);
        for (size_t d = 0; d < Dh; d++)
            k[d * P + lane] = kv[h * Dh + d];
        memcpy(v + lane * a->kv.v_stride, kv + HD + h * Dh, Dh * sizeof(float));
    }
}

static void read_head(const struct deq_attention *a, const struct deq_attention_rows *rows, size_t r, size_t h,
                      const struct deq_attention_scratch *own)
{
    const size_t Dh = a->kv.d_head, HD = a->n_head * Dh, P = DEQ_KV_PAGE_TOK, pos = rows->rows->position[r],
                 lo = pos + 1 > a->window ? pos + 1 - a->window : 0;
    const float *q = rows->qkv + r * 3 * HD + h * Dh;
    const struct deq_kern *kern = deq_kern();
    kern->add(own->qc, q, rows->r_w + h * Dh, Dh);
    kern->add(own->qr, q, rows->r_r + h * Dh, Dh);
    for (size_t p = lo / P; p <= pos / P; p++) {
        float *page = page_at(a, rows->rows->ring[r], p);
        own->k[p - lo / P] = deq_kv_k(&a->kv, page, rows->block, h);
        own->v[p - lo / P] = deq_kv_v(&a->kv, page, rows->block, h);
    }
    const struct deq_attn_args args = {.qc = own->qc,
                                       .qr = own->qr,
                                       .d_head = Dh,
                                       .v_stride = a->kv.v_stride,
                                       .t = pos,
                                       .lo = lo,
                                       .k = own->k,
                                       .v = own->v,
                                       .rel = a->rel[rows->block] + h * Dh * deq_rel_stride(a->reach),
                                       .rel_stride = deq_rel_stride(a->reach),
                                       .rel_zero = deq_rel_zero(a->reach),
                                       .scale = 1.0f / sqrtf((float)Dh),
                                       .scores = own->scores,
                                       .out = own->out};
    kern->attn(&args);
    memcpy(rows->av + r * HD + h * Dh, own->out, Dh * sizeof(float));
}

void deq_attention_read(const struct deq_attention *a, const struct deq_attention_rows *rows, unsigned thread,
                        unsigned n_threads)
{
    for DEQ_ROWS_OF (thread, n_threads, rows->rows->n * a->n_head)
        read_head(a, rows, r / a->n_head, r % a->n_head, &a->thread[thread]);
}

void deq_attention_page_copy(const struct deq_attention *a, uint32_t to, uint32_t from)
{
    memcpy(a->pages + to * a->kv.page_floats, a->pages + from * a->kv.page_floats, a->kv.page_floats * sizeof(float));
}
