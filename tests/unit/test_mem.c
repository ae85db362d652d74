/* core/base/mem.c: blocks, what is held, and the points at which memory runs out for tests. */
#include "core/base/mem.h"

#include <stdio.h>
#include <unistd.h>

#include "tests/unit/test.h"

TEST(mem_blocks)
{
    bool zero = true, aligned = true;
    for (size_t n = 0; n < 300; n += 7) {
        unsigned char *p = deq_alloc(n);
        aligned = aligned && p && (uintptr_t)p % 64 == 0;
        for (size_t i = 0; p && i < n; i++)
            zero = zero && !p[i];
        if (p)
            memset(p, 0xa5, n); /* so that a reused block is not zero by luck */
        deq_free(p);
    }
    CHECK(zero);
    CHECK(aligned);
    CHECK(!deq_alloc_array(SIZE_MAX / 2, 3));
    CHECK(!deq_alloc(SIZE_MAX));
    deq_free(NULL);

    char *s = deq_strdup("hello");
    CHECK(s && !strcmp(s, "hello"));
    s = deq_realloc(s, 6, 1000);
    CHECK(s && !strcmp(s, "hello"));
    s = deq_realloc(s, 1000, 3);
    CHECK(s && !memcmp(s, "hel", 3));
    deq_free(s);
    void *q = deq_realloc(NULL, 0, 10);
    CHECK(q != NULL);
    deq_free(q);
}

TEST(mem_counts_what_is_held)
{
    const uint64_t before = deq_mem_live();
    deq_mem_peak_restart();
    char *a = deq_alloc(1 << 20), *b = deq_alloc(1000);
    const uint64_t both = deq_mem_live() - before;
    CHECK(a && b && both >= (1 << 20) + 1000 && both < (1 << 20) + 8192); /* malloc rounds up, large blocks to a page */
    deq_free(a);
    b = deq_realloc(b, 1000, 5000);
    CHECK(b && deq_mem_live() - before >= 5000 && deq_mem_live() - before < 6000);
    CHECK(deq_mem_peak() - before == both);
    deq_free(b);
    CHECK(deq_mem_live() == before);
    deq_mem_peak_restart();
    CHECK(deq_mem_peak() == before);
}

/* Of the mapping that p lies in: whether huge pages were asked for. */
static bool asked_for_huge_pages(const void *p)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    bool here = false, asked = false;
    while (f && fgets(line, sizeof line, f)) {
        unsigned long begin, end;
        if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
            here = begin <= (uintptr_t)p && (uintptr_t)p < end;
        else if (here && !strncmp(line, "VmFlags:", 8))
            asked = strstr(line, " hg") != NULL;
    }
    if (f)
        fclose(f);
    return asked;
}

TEST(mem_large_blocks_ask_for_huge_pages)
{
    if (access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK))
        SKIP("a system without huge pages");
    char *large = deq_alloc(4 << 20);
    CHECK(large && asked_for_huge_pages(large) && asked_for_huge_pages(large + (4 << 20) - 1));
    deq_free(large);
}

TEST(mem_fault_points)
{
    uint64_t before = deq_mem_calls();
    deq_free(deq_alloc(1));
    deq_free(deq_alloc_array(2, 2));
    CHECK(deq_mem_calls() == before + 2);

    bool got[6];
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        deq_mem_fault(3, for_ever);
        for (int i = 0; i < 6; i++) {
            void *p = deq_alloc(8);
            got[i] = p != NULL;
            deq_free(p);
        }
        deq_mem_fault(0, false);
        CHECK(got[0] && got[1] && !got[2]);
        CHECK(got[3] == !for_ever && got[4] == !for_ever && got[5] == !for_ever);
    }
    char *p = deq_strdup("stays");
    deq_mem_fault(1, false);
    CHECK(!deq_realloc(p, 6, 100));
    deq_mem_fault(0, false);
    CHECK(!strcmp(p, "stays"));
    deq_free(p);
    p = deq_alloc(1);
    CHECK(p != NULL);
    deq_free(p);
}
