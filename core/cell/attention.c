#include "core/cell/attention.h"

#include <math.h>
#include <string.h>

enum { P = DEQ_KV_PAGE_TOK };

struct deq_attention deq_attention_shape(const struct deq_attention_dims *d, uint32_t n_pages)
{
    const enum deq_kv_format format = d->numeric == DEQ_CLASS_FLOAT32 ? DEQ_KV_F32 : DEQ_KV_I16;
    return (struct deq_attention){.dims = *d,
                                  .kern = deq_kern(),
                                  .kv = deq_kv_layout(format, d->n_kv, d->d_head),
                                  .reach = DEQ_MIN(d->window, (size_t)n_pages * P),
                                  .n_pages = n_pages};
}

size_t deq_attention_page_bytes(const struct deq_attention *a)
{
    return a->kv.page_words * 4;
}

static void lay_out_relative(struct deq_attention *a, struct deq_layout *l)
{
    const size_t n = a->dims.n_kv * deq_rel_stride(a->reach) / P;
    a->rel = deq_layout_part(l, n, a->kv.k_words * 4); /* float32: k_words are [Dh, 16] too */
    if (a->kv.format == DEQ_KV_F32)
        return;
    DEQ_PART(l, a->rel_pages, n);
    for (size_t i = 0; l->base && i < n; i++)
        a->rel_pages[i] = (char *)a->rel + i * a->kv.k_words * 4;
}

static void lay_out_thread(const struct deq_attention *a, struct deq_attention_scratch *own, struct deq_layout *l)
{
    const size_t R = DEQ_ATTN_ROWS, pages = (a->reach + R) / P + 2, Dq = DEQ_ROUND_UP(a->kv.d_head + 1, (size_t)16),
                 Dr = a->dims.relative ? Dq : 0, columns = a->dims.relative ? deq_rel_stride(a->reach) : 0;
    DEQ_PART(l, own->qc, R * Dq);
    DEQ_PART(l, own->qr, R * Dr);
    DEQ_PART(l, own->scores, R * pages * P);
    DEQ_PART(l, own->relative, R * columns);
    DEQ_PART(l, own->out, R * Dq);
    DEQ_PART(l, own->k, R * pages);
    DEQ_PART(l, own->v, R * pages);
    DEQ_PART(l, own->pairs, a->kv.v_stride);
    for (size_t i = 0; l->base && i < R; i++)
        own->row[i] = (struct deq_attn_row){.qc = own->qc + i * Dq,
                                            .qr = own->qr + i * Dr,
                                            .scores = own->scores + i * pages * P,
                                            .relative = own->relative + i * columns,
                                            .out = own->out + i * Dq};
}

void deq_attention_lay_out(struct deq_attention *a, unsigned threads, struct deq_layout *l)
{
    a->pages = deq_layout_part(l, a->n_pages, deq_attention_page_bytes(a));
    if (a->dims.relative)
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

void deq_attention_relative(const struct deq_attention *a, struct deq_heads heads, size_t distance, const float *r)
{
    const size_t Dh = a->kv.d_head, stride = deq_rel_stride(a->reach), column = deq_rel_zero(a->reach) - distance;
    for (size_t h = 0; h < heads.n_kv; h++) {
        const size_t at = heads.at + h;
        if (a->kv.format == DEQ_KV_F32) {
            float *rel = (float *)a->rel + at * Dh * stride;
            for (size_t d = 0; d < Dh; d++)
                rel[d * stride + column] = r[h * Dh + d];
        } else {
            int32_t *k = (int32_t *)a->rel + (at * stride + column) / P * a->kv.k_words;
            write_pairs(a, r + h * Dh, k, column % P, a->thread[0].pairs);
        }
    }
}

void deq_attention_write(const struct deq_attention *a, struct deq_heads heads, const struct deq_ring *ring,
                         size_t position, const float *kv, unsigned thread)
{
    const size_t Dh = a->kv.d_head, lane = position % P;
    void *page = page_at(a, ring, position / P);
    for (size_t h = 0; h < heads.n_kv; h++) {
        const float *key = kv + h * Dh, *value = key + heads.n_kv * Dh;
        void *k = deq_kv_k(&a->kv, page, heads.at + h), *v = deq_kv_v(&a->kv, page, heads.at + h);
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
    return position + 1 > a->dims.window ? position + 1 - a->dims.window : 0;
}

/* The queries of one head of keys and values: number i is of row i / group. */
static size_t group_of(const struct deq_heads *h)
{
    return h->n / h->n_kv;
}

/* How many queries from i on are of one sequence's rows, one position after the other. */
static size_t run_of(const struct deq_rows *rows, size_t group, size_t i, size_t most)
{
    const size_t first = i / group;
    for (size_t n = 1; n < most; n++) {
        const size_t r = (i + n) / group;
        if (rows->ring[r] != rows->ring[first] || rows->position[r] != rows->position[first] + (r - first))
            return n;
    }
    return most;
}

/* Lists of pages of one head for the n queries of a run, from place `at` of the call on: one for all. */
static void list_pages(const struct deq_attention *a, const struct deq_attention_rows *rows, size_t i, size_t n,
                       size_t head, struct deq_attention_scratch *own, size_t at)
{
    const size_t group = group_of(&rows->heads), *position = rows->rows->position,
                 pages = (a->reach + DEQ_ATTN_ROWS) / P + 2, first = first_seen(a, position[i / group]) / P,
                 last = position[(i + n - 1) / group] / P;
    const void **k = own->k + at * pages, **v = own->v + at * pages;
    for (size_t p = first; p <= last; p++) {
        void *page = page_at(a, rows->rows->ring[i / group], p);
        k[p - first] = deq_kv_k(&a->kv, page, rows->heads.at + head);
        v[p - first] = deq_kv_v(&a->kv, page, rows->heads.at + head);
    }
    for (size_t j = 0; j < n; j++) {
        struct deq_attn_row *row = &own->row[at + j];
        row->t = position[(i + j) / group];
        row->lo = first_seen(a, row->t);
        row->first = first;
        row->last = last;
        row->k = k;
        row->v = v;
    }
}

/* Queries i .. i + n - 1 of one head of keys and values. */
static void read_head(const struct deq_attention *a, const struct deq_attention_rows *rows, size_t i, size_t n,
                      size_t head, struct deq_attention_scratch *own)
{
    const size_t Dh = a->kv.d_head, Dq = DEQ_ROUND_UP(Dh + 1, (size_t)16), group = group_of(&rows->heads),
                 columns = deq_rel_stride(a->reach), page = rows->heads.at + head;
    for (size_t j = 0; j < n; j++) {
        const size_t h = head * group + (i + j) % group;
        const float *q = rows->q + (i + j) / group * rows->ldq + h * Dh;
        if (a->dims.relative) {
            a->kern->add(own->qc + j * Dq, q, rows->r_w + h * Dh, Dh);
            a->kern->add(own->qr + j * Dq, q, rows->r_r + h * Dh, Dh);
        } else {
            memcpy(own->qc + j * Dq, q, Dh * sizeof(float));
        }
    }
    for (size_t j = 0, run; j < n; j += run)
        list_pages(a, rows, i + j, run = run_of(rows->rows, group, i + j, n - j), head, own, j);
    struct deq_attn_args args = {.row = own->row,
                                 .n = n,
                                 .d_head = Dh,
                                 .v_stride = a->kv.v_stride,
                                 .rel_stride = columns,
                                 .rel_zero = deq_rel_zero(a->reach),
                                 .scale = 1.0f / sqrtf((float)Dh)};
    if (a->dims.relative && a->kv.format == DEQ_KV_F32)
        args.rel = (const float *)a->rel + page * Dh * columns;
    else if (a->dims.relative)
        args.rel_pages = a->rel_pages + page * columns / P;
    (a->kv.format == DEQ_KV_F32 ? a->kern->attn : a->kern->attn_i16)(&args);
    for (size_t j = 0; j < n; j++) {
        const size_t h = head * group + (i + j) % group;
        memcpy(rows->av + ((i + j) / group * rows->heads.n + h) * Dh, own->row[j].out, Dh * sizeof(float));
    }
}

/* Positions that n queries from i on see. */
static size_t seen(const struct deq_attention *a, const struct deq_rows *rows, size_t group, size_t i, size_t n)
{
    size_t sum = 0;
    for (size_t j = i; j < i + n; j++) {
        const size_t t = rows->position[j / group];
        sum += t + 1 - first_seen(a, t);
    }
    return sum;
}

size_t deq_attention_work(const struct deq_attention *a, struct deq_heads heads, const struct deq_rows *rows)
{
    return (a->dims.relative ? 3 : 2) * heads.n * a->kv.d_head * seen(a, rows, 1, 0, rows->n);
}

/* A few queries together, head by head: rows of a window, and a group's queries, find what they share in the caches,
 * and with pairs any rows do the relative keys. Fewer where threads would have none. This order is cut where equally
 * many positions are seen on both sides. */
void deq_attention_read(const struct deq_attention *a, const struct deq_attention_rows *rows, unsigned thread,
                        unsigned n_threads)
{
    const struct deq_rows *in = rows->rows;
    const size_t heads = rows->heads.n_kv, group = group_of(&rows->heads), queries = in->n * group,
                 all = seen(a, in, group, 0, queries) * heads, from = all * thread / n_threads,
                 to = all * (thread + 1) / n_threads,
                 most = DEQ_MAX(DEQ_MIN(queries * heads / n_threads / 2, (size_t)DEQ_ATTN_ROWS), (size_t)1);
    for (size_t i = 0, at = 0, n; i < queries && at < to; i += n) {
        n = DEQ_MIN(queries - i, most);
        if (a->kv.format == DEQ_KV_F32)
            n = run_of(in, group, i, n);
        const size_t of_head = seen(a, in, group, i, n);
        for (size_t h = 0; h < heads; h++, at += of_head)
            if (at >= from && at < to)
                read_head(a, rows, i, n, h, &a->thread[thread]);
    }
}

void deq_attention_page_copy(const struct deq_attention *a, uint32_t to, uint32_t from)
{
    const size_t bytes = deq_attention_page_bytes(a);
    memcpy(a->pages + to * bytes, a->pages + from * bytes, bytes);
}

void deq_attention_page_get(const struct deq_attention *a, uint32_t page, uint32_t n, void *out)
{
    const struct deq_kv_layout *kv = &a->kv;
    const size_t bytes = deq_attention_page_bytes(a), scales = kv->format == DEQ_KV_I16 ? P : 0;
    memcpy(out, a->pages + page * bytes, bytes);
    for (size_t h = 0; h < kv->page_words / kv->head_words; h++) {
        /* a position is a column of K, its scales and V's, and a row of V */
        uint32_t *k = deq_kv_k(kv, out, h), *v = deq_kv_v(kv, out, h);
        for (size_t column = 0; column < kv->k_words + scales; column += P)
            memset(k + column + n, 0, (P - n) * sizeof *k);
        memset(v + scales + n * kv->v_stride, 0, (P - n) * kv->v_stride * sizeof *v);
    }
}

void deq_attention_page_put(const struct deq_attention *a, uint32_t page, const void *in)
{
    const size_t bytes = deq_attention_page_bytes(a);
    memcpy(a->pages + page * bytes, in, bytes);
}
