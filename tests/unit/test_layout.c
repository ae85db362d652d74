/* Counting and cutting are one walk: the same bytes, parts apart and aligned, sums that do not fit are told. */
#include "core/base/layout.h"

#include "core/base/mem.h"
#include "tests/unit/test.h"

struct parts {
    char *a;
    double *b;
    uint32_t *none;
    char *c;
};

static void lay_out(struct parts *p, struct deq_layout *l)
{
    DEQ_PART(l, p->a, 3);
    DEQ_PART(l, p->b, 9);
    DEQ_PART(l, p->none, 0);
    DEQ_PART(l, p->c, 65);
}

TEST(layout_counts_what_it_cuts)
{
    struct parts p;
    struct deq_layout l = {0};
    lay_out(&p, &l);
    CHECK(l.bytes == 64 + 128 + 0 + 128 && !p.a && !p.b && !p.c);
    char *block = deq_alloc(l.bytes);
    struct deq_layout cut = {.base = block};
    lay_out(&p, &cut);
    CHECK(cut.bytes == l.bytes && p.a == block && (char *)p.b == block + 64 && p.c == block + 192 && p.none);
    deq_free(block);
}

TEST(layout_too_large)
{
    struct deq_layout l = {0};
    double *x;
    DEQ_PART(&l, x, SIZE_MAX / 4);
    CHECK(l.bytes == SIZE_MAX && !x);
    DEQ_PART(&l, x, 1);
    CHECK(l.bytes == SIZE_MAX && !x);
    l = (struct deq_layout){.bytes = SIZE_MAX - 100};
    DEQ_PART(&l, x, 16);
    CHECK(l.bytes == SIZE_MAX);
}
