#include "core/base/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static _Atomic uint64_t calls, bytes_asked;
static _Atomic uint64_t fault_at; /* call number that fails; 0 = none */
static _Atomic bool fault_for_ever;

static bool fault_now(void)
{
    uint64_t n = atomic_fetch_add(&calls, 1) + 1, at = atomic_load(&fault_at);
    return at && (n == at || (n > at && atomic_load(&fault_for_ever)));
}

void *deq_alloc(size_t bytes)
{
    if (fault_now() || bytes > SIZE_MAX - 128)
        return NULL;
    size_t rounded = DEQ_ROUND_UP(bytes ? bytes : 1, 64);
    void *p = aligned_alloc(64, rounded);
    if (!p)
        return NULL;
    atomic_fetch_add(&bytes_asked, bytes);
    return memset(p, 0, rounded);
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
    free(p);
    return q;
}

void deq_free(void *p)
{
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

void deq_mem_fault(uint64_t nth, bool for_ever)
{
    atomic_store(&fault_for_ever, for_ever);
    atomic_store(&fault_at, nth ? atomic_load(&calls) + nth : 0);
}
