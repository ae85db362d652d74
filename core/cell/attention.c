#include "core/cell/attention.h"

#include <math.h>
#include <string.h>

#include "core/math/kern.h"

struct deq_attention deq_attention_shape(const struct deq_transformer_arch *a, uint32_t n_pages)
{
    return (struct deq_attention){.kern = deq_kern(),
                                  .kv = deq_kv_layout(a->n_head, a->d_head, a->n_block),
                                  .n_head = a->n_head,
                                  .window = a->attn_window,
                                  .reach = DEQ_MIN((size_t)a->attn_window, (size_t)n_pages * DEQ_KV_PAGE_TOK),
                                  .n_block = a->n_block,
                                  .n_pages = n_pages};
}

void deq_attention_lay_out(struct deq_attention *a, unsigned threads, struct deq_layout *l)
{
    const size_t row_pages = (a->reach + DEQ_ATTN_ROWS) / DEQ_KV_PAGE_TOK + 2;
    DEQ_PART(l, a->pages, a->n_pages * a->kv.page_floats);
    for (unsigned k = 0; k < a->n_block; k++)
        DEQ_PART(l, a->rel[k], a->n_head * a->kv.d_head * deq_rel_stride(a->reach));
    DEQ_PART(l, a->thread, threads);
    for (unsigned i = 0; i < threads; i++) {
        struct deq_attention_scratch counted, *own = l->base ? &a->thread[i] : &counted;
        DEQ_PART(l, own->scores, DEQ_ATTN_ROWS * row_pages * DEQ_KV_PAGE_TOK);
        DEQ_PART(l, own->qc, DEQ_ATTN_ROWS * a->kv.v_stride);
        DEQ_PART(l, own->qr, DEQ_ATTN_ROWS * a->kv.v_stride);
        DEQ_PART(l, own->out, DEQ_ATTN_ROWS * a->kv.v_stride);
        DEQ_PART(l, own->k, row_pages);
        DEQ_PART(l, own->v, row_pages);
        for (size_t k = 0; l->base && k < DEQ_ATTN_ROWS; k++)
            own->row[k] = (struct deq_attn_row){.qc = own->qc + k * a->kv.v_stride,
                                                .qr = own->qr + k * a->kv.v_stride,
                                                .scores = own->scores + k * row_pages * DEQ_KV_PAGE_TOK,
                                                .out = own->out + k * a->kv.v_stride};
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

static size_t first_seen(const struct deq_attention *a, size_t position)
{
    return position + 1 > a->window ? position + 1 - a->window : 0;
}

/* One head of rows r .. r + n - 1, which follow each other in one sequence. */
static void read_head(const struct deq_attention *a, const struct deq_attention_rows *rows, size_t r, size_t n,
                      size_t h, struct deq_attention_scratch *own)
{
    const size_t Dh = a->kv.d_head, Dv = a->kv.v_stride, HD = a->n_head * Dh, P = DEQ_KV_PAGE_TOK;
    for (size_t i = 0; i < n; i++) {
        const float *q = rows->qkv + (r + i) * 3 * HD + h * Dh;
        a->kern->add(own->qc + i * Dv, q, rows->r_w + h * Dh, Dh);
        a->kern->add(own->qr + i * Dv, q, rows->r_r + h * Dh, Dh);
        own->row[i].t = rows->rows->position[r + i];
        own->row[i].lo = first_seen(a, own->row[i].t);
    }
    const size_t p0 = own->row[0].lo / P, p1 = own->row[n - 1].t / P;
    for (size_t p = p0; p <= p1; p++) {
        float *page = page_at(a, rows->rows->ring[r], p);
        own->k[p - p0] = deq_kv_k(&a->kv, page, rows->block, h);
        own->v[p - p0] = deq_kv_v(&a->kv, page, rows->block, h);
    }
    const struct deq_attn_args args = {.row = own->row,
                                       .n = n,
                                       .d_head = Dh,
                                       .v_stride = Dv,
                                       .k = own->k,
                                       .v = own->v,
                                       .rel = a->rel[rows->block] + h * Dh * deq_rel_stride(a->reach),
                                       .rel_stride = deq_rel_stride(a->reach),
                                       .rel_zero = deq_rel_zero(a->reach),
                                       .scale = 1.0f / sqrtf((float)Dh)};
    a->kern->attn(&args);
    for (size_t i = 0; i < n; i++)
        memcpy(rows->av + (r + i) * HD + h * Dh, own->row[i].out, Dh * sizeof(float));
}

/* How many rows from r on are one sequence's, one position after the other; `most` at most. */
static size_t run_of(const struct deq_rows *rows, size_t r, size_t most)
{
    size_t n = 1;
    while (n < most && r + n < rows->n && rows->ring[r + n] == rows->ring[r] &&
           rows->position[r + n] == rows->position[r] + n)
        n++;
    return n;
}

/* Positions that n rows from r on see. */
static size_t seen(const struct deq_attention *a, const struct deq_rows *rows, size_t r, size_t n)
{
    size_t sum = 0;
    for (size_t i = r; i < r + n; i++)
        sum += rows->position[i] + 1 - first_seen(a, rows->position[i]);
    return sum;
}

size_t deq_attention_work(const struct deq_attention *a, const struct deq_rows *rows)
{
    return 3 * a->n_head * a->kv.d_head * seen(a, rows, 0, rows->n);
}

/* Sequence by sequence, head by head, so that rows of a window find what they share in the caches. This order is cut
 * where equally many positions are seen on both sides. */
void deq_attention_read(const struct deq_attention *a, const struct deq_attention_rows *rows, unsigned thread,
                        unsigned n_threads)
{
    const struct deq_rows *in = rows->rows;
    const size_t all = seen(a, in, 0, in->n) * a->n_head, from = all * thread / n_threads,
                 to = all * (thread + 1) / n_threads;
    for (size_t r = 0, at = 0, run; r < in->n && at < to; r += run) {
        run = run_of(in, r, in->n);
        for (size_t h = 0; h < a->n_head; h++)
            for (size_t i = 0, n; i < run; i += n) {
                n = DEQ_MIN(run - i, (size_t)DEQ_ATTN_ROWS);
                if (at >= from && at < to)
                    read_head(a, rows, r + i, n, h, &a->thread[thread]);
                at += seen(a, in, r + i, n);
            }
    }
}

void deq_attention_page_copy(const struct deq_attention *a, uint32_t to, uint32_t from)
{
    memcpy(a->pages + to * a->kv.page_floats, a->pages + from * a->kv.page_floats, a->kv.page_floats * sizeof(float));
}
