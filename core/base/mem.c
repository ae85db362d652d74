#include "core/base/mem.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static _Atomic uint64_t calls, bytes_asked;
static _Atomic uint64_t live_bytes, peak_bytes; /* by malloc_usable_size: what free() can still ask for */
static _Atomic uint64_t fault_at; /* call number that fails; 0 = none */
static _Atomic bool fault_for_ever, count_plain;

static bool fault_now(void)
{
    uint64_t n = atomic_fetch_add(&calls, 1) + 1, at = atomic_load(&fault_at);
    return at && (n == at || (n > at && atomic_load(&fault_for_ever)));
}

static void count(const void *p)
{
    const uint64_t n = malloc_usable_size((void *)p), live = atomic_fetch_add(&live_bytes, n) + n;
    uint64_t peak = atomic_load(&peak_bytes);
    while (live > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, live)) {
        ;
    }
}

void *deq_alloc(size_t bytes)
{
    size_t rounded = DEQ_ROUND_UP(bytes ? bytes : 1, 64);
    void *p = fault_now() || bytes > SIZE_MAX - 128 ? NULL : aligned_alloc(64, rounded);
    if (!p)
        return NULL;
    atomic_fetch_add(&bytes_asked, bytes);
    count(p);
    return memset(p, 0, rounded);
}

void *deq_alloc_plain(size_t bytes)
{
    return atomic_load(&count_plain) && fault_now() ? NULL : malloc(bytes ? bytes : 1);
}

void deq_free_plain(void *p)
{
    free(p);
}

void *deq_alloc_array(size_t n, size_t size_bytes)
{
    size_t bytes;
    return deq_mul_size(n, size_bytes, &bytes) ? deq_alloc(bytes) : NULL;
}

void *deq_realloc(void *p, size_t old_bytes, size_t new_bytes)
{
    void *q = deq_alloc(new_bytes);
    if (!q)
        return NULL;
    if (p)
        memcpy(q, p, DEQ_MIN(old_bytes, new_bytes));
    deq_free(p);
    return q;
}

void deq_free(void *p)
{
    atomic_fetch_sub(&live_bytes, malloc_usable_size(p)); /* 0 of NULL */
    free(p);
}

char *deq_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *copy = deq_alloc(n);
    if (copy)
        memcpy(copy, s, n);
    return copy;
}

uint64_t deq_mem_calls(void)
{
    return atomic_load(&calls);
}

uint64_t deq_mem_bytes(void)
{
    return atomic_load(&bytes_asked);
}

uint64_t deq_mem_live(void)
{
    return atomic_load(&live_bytes);
}

uint64_t deq_mem_peak(void)
{
    return atomic_load(&peak_bytes);
}

void deq_mem_peak_restart(void)
{
    atomic_store(&peak_bytes, atomic_load(&live_bytes));
}

void deq_mem_count_plain(bool on)
{
    atomic_store(&count_plain, on);
}

void deq_mem_fault(uint64_t nth, bool for_ever)
{
    atomic_store(&fault_for_ever, for_ever);
    atomic_store(&fault_at, nth ? atomic_load(&calls) + nth : 0);
}
