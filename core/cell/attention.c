#include "core/cell/attention.h"

#include <math.h>
#include <string.h>

enum { P = DEQ_KV_PAGE_TOK };

struct deq_attention deq_attention_shape(const struct deq_transformer_arch *a, uint32_t n_pages)
{
    const enum deq_kv_format format = a->base.serving.numeric == DEQ_CLASS_FLOAT32 ? DEQ_KV_F32 : DEQ_KV_I16;
    return (struct deq_attention){.kern = deq_kern(),
                                  .kv = deq_kv_layout(format, a->n_head, a->d_head, a->n_block),
                                  .n_head = a->n_head,
                                  .window = a->attn_window,
                                  .reach = DEQ_MIN((size_t)a->attn_window, (size_t)n_pages * P),
                                  .n_block = a->n_block,
                                  .n_pages = n_pages};
}

size_t deq_attention_page_bytes(const struct deq_attention *a)
{
    return a->kv.page_words * 4;
}

static void lay_out_relative(struct deq_attention *a, struct deq_layout *l)
{
    const size_t columns = deq_rel_stride(a->reach), n = a->n_head * columns / P;
    for (unsigned b = 0; b < a->n_block; b++) {
        a->rel[b] = deq_layout_part(l, n, a->kv.k_words * 4); /* float32: k_words are [Dh, 16] too */
        if (a->kv.format == DEQ_KV_F32)
            continue;
        DEQ_PART(l, a->rel_pages[b], n);
        for (size_t i = 0; l->base && i < n; i++)
            a->rel_pages[b][i] = (char *)a->rel[b] + i * a->kv.k_words * 4;
    }
}

static void lay_out_thread(const struct deq_attention *a, struct deq_attention_scratch *own, struct deq_layout *l)
{
    const size_t R = DEQ_ATTN_ROWS, pages = (a->reach + R) / P + 2, columns = deq_rel_stride(a->reach),
                 Dq = DEQ_ROUND_UP(a->kv.d_head + 1, (size_t)16);
    DEQ_PART(l, own->qc, R * Dq);
    DEQ_PART(l, own->qr, R * Dq);
    DEQ_PART(l, own->scores, R * pages * P);
    DEQ_PART(l, own->relative, R * columns);
    DEQ_PART(l, own->out, R * Dq);
    DEQ_PART(l, own->k, R * pages);
    DEQ_PART(l, own->v, R * pages);
    DEQ_PART(l, own->pairs, a->kv.v_stride);
    for (size_t i = 0; l->base && i < R; i++)
        own->row[i] = (struct deq_attn_row){.qc = own->qc + i * Dq,
                                            .qr = own->qr + i * Dq,
                                            .scores = own->scores + i * pages * P,
                                            .relative = own->relative + i * columns,
                                            .out = own->out + i * Dq};
}

void deq_attention_lay_out(struct deq_attention *a, unsigned threads, struct deq_layout *l)
{
    a->pages = deq_layout_part(l, a->n_pages, deq_attention_page_bytes(a));
    lay_out_relative(a, l);
    DEQ_PART(l, a->thread, threads);
    for (unsigned i = 0; i < threads; i++) {
        struct deq_attention_scratch counted, *own = l->base ? &a->thread[i] : &counted;
        lay_out_thread(a, own, l);
    }
}

static void *page_at(const struct deq_attention *a, const struct deq_ring *ring, size_t logical)
{
    return a->pages + deq_page_of(ring, logical) * deq_attention_page_bytes(a);
}

/* A key [Dh] becomes one lane of a K of pairs. */
static void write_pairs(const struct deq_attention *a, const float *key, int32_t *k, size_t lane, int32_t *pairs)
{
    const float scale = a->kern->pack_i16(key, a->kv.d_head, pairs);
    for (size_t i = 0; i < a->kv.k_rows; i++)
        k[i * P + lane] = pairs[i];
    memcpy(k + a->kv.k_rows * P + lane, &scale, sizeof scale);
}

void deq_attention_relative(const struct deq_attention *a, unsigned block, size_t distance, const float *r)
{
    const size_t Dh = a->kv.d_head, stride = deq_rel_stride(a->reach), column = deq_rel_zero(a->reach) - distance;
    for (size_t h = 0; h < a->n_head; h++) {
        if (a->kv.format == DEQ_KV_F32) {
            float *rel = (float *)a->rel[block] + h * Dh * stride;
            for (size_t d = 0; d < Dh; d++)
                rel[d * stride + column] = r[h * Dh + d];
        } else {
            int32_t *k = (int32_t *)a->rel[block] + (h * stride + column) / P * a->kv.k_words;
            write_pairs(a, r + h * Dh, k, column % P, a->thread[0].pairs);
        }
    }
}

void deq_attention_write(const struct deq_attention *a, unsigned block, const struct deq_ring *ring, size_t position,
                         const float *kv, unsigned thread)
{
    const size_t Dh = a->kv.d_head, HD = a->n_head * Dh, lane = position % P;
    void *page = page_at(a, ring, position / P);
    for (size_t h = 0; h < a->n_head; h++) {
        const float *key = kv + h * Dh, *value = key + HD;
        void *k = deq_kv_k(&a->kv, page, block, h), *v = deq_kv_v(&a->kv, page, block, h);
        if (a->kv.format == DEQ_KV_F32) {
            for (size_t d = 0; d < Dh; d++)
                ((float *)k)[d * P + lane] = key[d];
            memcpy((float *)v + lane * a->kv.v_stride, value, Dh * sizeof(float));
        } else {
            write_pairs(a, key, k, lane, a->thread[thread].pairs);
            ((float *)v)[lane] = a->kern->pack_i16(value, Dh, (int32_t *)v + P + lane * a->kv.v_stride);
        }
    }
}

static size_t first_seen(const struct deq_attention *a, size_t position)
{
    return position + 1 > a->window ? position + 1 - a->window : 0;
}

/* How many rows from r on are one sequence's, one position after the other. */
static size_t run_of(const struct deq_rows *rows, size_t r, size_t most)
{
    size_t n = 1;
    while (n < most && rows->ring[r + n] == rows->ring[r] && rows->position[r + n] == rows->position[r] + n)
        n++;
    return n;
}

/* Lists of pages of one head for n rows that follow each other, from place i of the call on: one for all. */
static void list_pages(const struct deq_attention *a, const struct deq_attention_rows *rows, size_t r, size_t n,
                       size_t h, struct deq_attention_scratch *own, size_t i)
{
    const size_t pages = (a->reach + DEQ_ATTN_ROWS) / P + 2, t = rows->rows->position[r], first = first_seen(a, t) / P,
                 last = (t + n - 1) / P;
    const void **k = own->k + i * pages, **v = own->v + i * pages;
    for (size_t p = first; p <= last; p++) {
        void *page = page_at(a, rows->rows->ring[r], p);
        k[p - first] = deq_kv_k(&a->kv, page, rows->block, h);
        v[p - first] = deq_kv_v(&a->kv, page, rows->block, h);
    }
    for (size_t j = 0; j < n; j++) {
        struct deq_attn_row *row = &own->row[i + j];
        row->t = t + j;
        row->lo = first_seen(a, t + j);
        row->first = first;
        row->last = last;
        row->k = k;
        row->v = v;
    }
}

/* One head of rows r .. r + n - 1. */
static void read_head(const struct deq_attention *a, const struct deq_attention_rows *rows, size_t r, size_t n,
                      size_t h, struct deq_attention_scratch *own)
{
    const size_t Dh = a->kv.d_head, HD = a->n_head * Dh, columns = deq_rel_stride(a->reach),
                 Dq = DEQ_ROUND_UP(Dh + 1, (size_t)16);
    for (size_t i = 0; i < n; i++) {
        const float *q = rows->qkv + (r + i) * 3 * HD + h * Dh;
        a->kern->add(own->qc + i * Dq, q, rows->r_w + h * Dh, Dh);
        a->kern->add(own->qr + i * Dq, q, rows->r_r + h * Dh, Dh);
    }
    for (size_t i = 0, run; i < n; i += run)
        list_pages(a, rows, r + i, run = run_of(rows->rows, r + i, n - i), h, own, i);
    struct deq_attn_args args = {.row = own->row,
                                 .n = n,
                                 .d_head = Dh,
                                 .v_stride = a->kv.v_stride,
                                 .rel_stride = columns,
                                 .rel_zero = deq_rel_zero(a->reach),
                                 .scale = 1.0f / sqrtf((float)Dh)};
    if (a->kv.format == DEQ_KV_F32) {
        args.rel = (const float *)a->rel[rows->block] + h * Dh * columns;
        a->kern->attn(&args);
    } else {
        args.rel_pages = a->rel_pages[rows->block] + h * columns / P;
        a->kern->attn_i16(&args);
    }
    for (size_t i = 0; i < n; i++)
        memcpy(rows->av + (r + i) * HD + h * Dh, own->row[i].out, Dh * sizeof(float));
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

/* A few rows together, head by head: rows of a window find what they share in the caches, and with pairs any rows do
 * the relative keys. Fewer where threads would have none. This order is cut where equally many positions are seen on
 * both sides. */
void deq_attention_read(const struct deq_attention *a, const struct deq_attention_rows *rows, unsigned thread,
                        unsigned n_threads)
{
    const struct deq_rows *in = rows->rows;
    const size_t all = seen(a, in, 0, in->n) * a->n_head, from = all * thread / n_threads,
                 to = all * (thread + 1) / n_threads,
                 most = DEQ_MAX(DEQ_MIN(in->n * a->n_head / n_threads / 2, (size_t)DEQ_ATTN_ROWS), (size_t)1);
    for (size_t r = 0, at = 0, n; r < in->n && at < to; r += n) {
        n = DEQ_MIN(in->n - r, most);
        if (a->kv.format == DEQ_KV_F32)
            n = run_of(in, r, n);
        const size_t of_head = seen(a, in, r, n);
        for (size_t h = 0; h < a->n_head; h++, at += of_head)
            if (at >= from && at < to)
                read_head(a, rows, r, n, h, &a->thread[thread]);
    }
}

void deq_attention_page_copy(const struct deq_attention *a, uint32_t to, uint32_t from)
{
    const size_t bytes = deq_attention_page_bytes(a);
    memcpy(a->pages + to * bytes, a->pages + from * bytes, bytes);
}
