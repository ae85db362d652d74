#define _GNU_SOURCE
#include "core/base/mem.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE_BYTES = 4 << 10, HUGE_PAGE_BYTES = 2 << 20 };

#include "core/base/fault.h"

static _Atomic uint64_t calls, bytes_asked;
static _Atomic uint64_t live_blocks, live_bytes, peak_bytes; /* by malloc_usable_size: what free() can still ask for */
static _Atomic bool count_plain;

static bool fault_now(void)
{
    atomic_fetch_add(&calls, 1);
    return deq_fault(DEQ_FAULT_ALLOC);
}

static void count(const void *p)
{
    const uint64_t n = malloc_usable_size((void *)p), live = atomic_fetch_add(&live_bytes, n) + n;
    uint64_t peak = atomic_load(&peak_bytes);
    atomic_fetch_add(&live_blocks, 1);
    while (live > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, live)) {
        ;
    }
}

/* Weights and caches are read from end to end: with pages of 4 KB the reader waits for an entry of the page table every
 * 4 KB, and the processor's own reading ahead ends there. No more becomes resident than the zeros make so, since huge
 * are only pages that lie within the block as a whole. Where the system has none to give, nothing is lost. */
static void ask_for_huge_pages(char *p, size_t bytes)
{
    char *begin = p - (uintptr_t)p % PAGE_BYTES;
    if (bytes >= HUGE_PAGE_BYTES)
        (void)madvise(begin, DEQ_ROUND_UP((size_t)(p + bytes - begin), (size_t)PAGE_BYTES), MADV_HUGEPAGE);
}

void *deq_alloc(size_t bytes)
{
    size_t rounded = DEQ_ROUND_UP(bytes ? bytes : 1, 64);
    void *p = fault_now() || bytes > SIZE_MAX - 128 ? NULL : aligned_alloc(64, rounded);
    if (!p)
        return NULL;
    atomic_fetch_add(&bytes_asked, bytes);
    count(p);
    ask_for_huge_pages(p, rounded);
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
    if (!p) /* LeakSanitizer's malloc_usable_size takes no NULL */
        return;
    atomic_fetch_sub(&live_blocks, 1);
    atomic_fetch_sub(&live_bytes, malloc_usable_size(p));
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

uint64_t deq_mem_blocks(void)
{
    return atomic_load(&live_blocks);
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
    deq_fault_set(DEQ_FAULT_ALLOC, nth, for_ever);
}
