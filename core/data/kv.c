#include "core/data/kv.h"

#include <string.h>

#include "core/base/mem.h"

static void shape(const struct deq_arch *a, struct deq_kv_pool *p)
{
    p->n_head = a->n_head;
    p->d_head = a->d_head;
    p->v_stride = DEQ_ROUND_UP((size_t)a->d_head, 16);
    p->k_floats = (size_t)a->n_head * a->d_head * DEQ_KV_PAGE_TOK;
    p->block_floats = p->k_floats + (size_t)a->n_head * DEQ_KV_PAGE_TOK * p->v_stride;
    p->page_floats = p->block_floats * a->n_block;
}

uint64_t deq_kv_page_bytes(const struct deq_arch *a)
{
    struct deq_kv_pool p;
    shape(a, &p);
    return p.page_floats * sizeof(float);
}

uint32_t deq_kv_pages_needed(const struct deq_arch *a, size_t positions, uint32_t row_window)
{
    const size_t all = (positions + DEQ_KV_PAGE_TOK - 1) / DEQ_KV_PAGE_TOK;
    /* pages touched at once: from the first position that the front row sees to the last row of the window */
    const size_t ring = ((size_t)a->attn_window + row_window - 2) / DEQ_KV_PAGE_TOK + 2;
    return (uint32_t)DEQ_MIN(all, ring);
}

enum deq_rc deq_kv_pool_new(const struct deq_arch *a, uint64_t bytes, struct deq_kv_pool **ret, struct deq_err *err)
{
    struct deq_kv_pool *p = DEQ_NEW(struct deq_kv_pool);
    if (!p)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the cache");
    shape(a, p);
    const uint64_t n = bytes / (p->page_floats * sizeof(float));
    if (!n || n > UINT32_MAX) {
        deq_free(p);
        return deq_fail(err, DEQ_EINVAL, "cache of %llu bytes: a page of 16 positions takes %llu", (unsigned long long)bytes,
                        (unsigned long long)deq_kv_page_bytes(a));
    }
    p->n_pages = p->n_free = (uint32_t)n;
    p->data = deq_alloc_array(n, p->page_floats * sizeof(float));
    p->free = DEQ_NEW_ARRAY(uint32_t, n);
    p->holders = DEQ_NEW_ARRAY(uint32_t, n);
    p->cached = DEQ_NEW_ARRAY(uint32_t, n);
    if (!p->data || !p->free || !p->holders || !p->cached) {
        deq_kv_pool_free(p);
        return deq_fail(err, DEQ_ENOMEM, "no memory for a cache of %llu bytes", (unsigned long long)bytes);
    }
    for (uint32_t i = 0; i < p->n_pages; i++)
        p->free[i] = p->n_pages - 1 - i;
    *ret = p;
    return DEQ_OK;
}

void deq_kv_pool_free(struct deq_kv_pool *p)
{
    if (!p)
        return;
    deq_free(p->data);
    deq_free(p->free);
    deq_free(p->holders);
    deq_free(p->cached);
    deq_free(p);
}

enum deq_rc deq_kv_open(struct deq_kv_pool *p, uint32_t n, struct deq_kv_seq *ret, struct deq_err *err)
{
    if (n > p->n_pages - p->n_reserved)
        return deq_fail(err, DEQ_EFULL, "%u cache pages are needed, %u of %u are not reserved", n, p->n_pages - p->n_reserved, p->n_pages);
    uint32_t *ring = DEQ_NEW_ARRAY(uint32_t, n);
    if (!ring)
        return deq_fail(err, DEQ_ENOMEM, "no memory for a sequence");
    memset(ring, 0xff, n * sizeof *ring); /* DEQ_KV_NONE */
    p->n_reserved += n;
    *ret = (struct deq_kv_seq){ring, n};
    return DEQ_OK;
}

static void free_if_unused(struct deq_kv_pool *p, uint32_t number)
{
    if (!p->holders[number] && !p->cached[number])
        p->free[p->n_free++] = number;
}

static void hold(struct deq_kv_pool *p, uint32_t number)
{
    p->n_held += !p->holders[number]++;
}

static void let_go(struct deq_kv_pool *p, uint32_t number)
{
    p->n_held -= !--p->holders[number];
    free_if_unused(p, number);
}

void deq_kv_close(struct deq_kv_pool *p, struct deq_kv_seq *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->ring[i] != DEQ_KV_NONE)
            let_go(p, s->ring[i]);
    p->n_reserved -= s->n;
    deq_free(s->ring);
    *s = (struct deq_kv_seq){0};
}

bool deq_kv_claim(struct deq_kv_pool *p, struct deq_kv_seq *s, size_t position)
{
    uint32_t *slot = &s->ring[position / DEQ_KV_PAGE_TOK % s->n];
    const uint32_t old = *slot;
    if (old != DEQ_KV_NONE && p->holders[old] == 1 && !p->cached[old])
        return true;
    if (!p->n_free)
        return false;
    const uint32_t own = p->free[--p->n_free];
    if (position % DEQ_KV_PAGE_TOK) /* earlier positions of the page are final: they come along */
        memcpy(p->data + own * p->page_floats, p->data + old * p->page_floats, p->page_floats * sizeof(float));
    hold(p, own);
    if (old != DEQ_KV_NONE)
        let_go(p, old);
    *slot = own;
    return true;
}

void deq_kv_share(struct deq_kv_pool *p, struct deq_kv_seq *s, size_t page, uint32_t number)
{
    uint32_t *slot = &s->ring[page % s->n];
    hold(p, number);
    if (*slot != DEQ_KV_NONE)
        let_go(p, *slot);
    *slot = number;
}

void deq_kv_cache(struct deq_kv_pool *p, uint32_t number)
{
    p->cached[number]++;
}

void deq_kv_uncache(struct deq_kv_pool *p, uint32_t number)
{
    p->cached[number]--;
    free_if_unused(p, number);
}
