/* core/engine/prefix.c: the cache by itself. What sequences make of it: test_blocks.c. */
#include "core/engine/prefix.h"

#include "core/base/mem.h"
#include "core/cell/toy.h"
#include "tests/unit/test.h"

/* The cache by itself, over pages that hold nothing. */
struct shelf {
    struct deq_pages pages;
    struct deq_prefix cache;
    struct deq_cell cell;
    void *memory;
};

enum { PAGES = 8, BLOCK = 4, DIM = 3 }; /* the toy cell: pages of four positions, look-back one */

static void lay_out(struct shelf *s, struct deq_layout *l)
{
    deq_pages_lay_out(&s->pages, PAGES, l);
    deq_prefix_lay_out(&s->cache, PAGES, BLOCK, &s->cell, l);
}

static bool open_shelf(struct shelf *s)
{
    struct deq_layout l = {0};
    *s = (struct shelf){.cell = deq_toy_shape(&(struct deq_toy){.dim = DIM}, 0, PAGES)};
    lay_out(s, &l);
    l = (struct deq_layout){.base = s->memory = deq_alloc(l.bytes)};
    if (!s->memory)
        return false;
    lay_out(s, &l);
    deq_pages_init(&s->pages, PAGES, s->cell.page_tok);
    deq_prefix_init(&s->cache, &s->pages, &s->cell);
    return true;
}

/* A block of a sequence of its own, which closes. */
static void insert(struct shelf *s, uint64_t name, float state)
{
    const struct deq_hash key = {{name, ~name}};
    const float states[DIM] = {state, state, state};
    struct deq_ring r = {0};
    uint32_t from;
    REQUIRE(!deq_ring_open(&s->pages, 1, &r, NULL));
    for (bool done = false; !done && !(done = deq_ring_make_writable(&s->pages, &r, 0, &from));)
        REQUIRE(deq_prefix_evict(&s->cache));
    deq_prefix_insert(&s->cache, &key, &r, 0, 1, states, (struct deq_reached){0});
    deq_ring_close(&s->pages, &r);
}

static float found(const struct shelf *s, uint64_t name)
{
    const struct deq_hash key = {{name, ~name}};
    const struct deq_prefix_entry *e = deq_prefix_find(&s->cache, &key);
    return e ? e->state[DIM - 1] : -1;
}

TEST(prefix_keeps_what_was_used_last)
{
    struct shelf s;
    REQUIRE(open_shelf(&s));
    CHECK(!deq_prefix_evict(&s.cache)); /* nothing there to let go of */
    for (uint64_t i = 0; i < PAGES; i++)
        insert(&s, i, (float)i);
    CHECK_EQ(s.pages.n_free, 0);
    for (uint64_t i = 0; i < PAGES; i++)
        CHECK_EQ(found(&s, i), (float)i);
    const struct deq_hash first = {{0, ~0ull}};
    deq_prefix_touch(&s.cache, deq_prefix_find(&s.cache, &first));
    insert(&s, 100, 7); /* no page is free: the oldest goes, which is the second now */
    CHECK(found(&s, 0) == 0 && found(&s, 1) == -1 && found(&s, 2) == 2 && found(&s, 100) == 7);
    insert(&s, 5, 55); /* room was made for it, but it is there already */
    CHECK(found(&s, 2) == -1 && found(&s, 5) == 5);
    insert(&s, 101, 8);
    CHECK(found(&s, 3) == 3 && found(&s, 101) == 8);
    insert(&s, 102, 9);
    insert(&s, 103, 9);
    insert(&s, 104, 9);
    CHECK(found(&s, 3) == -1 && found(&s, 4) == -1 && found(&s, 6) == -1);
    CHECK(found(&s, 5) == 5 && found(&s, 0) == 0); /* both were used since */
    const struct deq_prefix_stats st = deq_prefix_stats(&s.cache);
    CHECK_EQ(st.bytes, st.entries * (s.cell.page_bytes + DIM * sizeof(float)));
    while (deq_prefix_evict(&s.cache))
        ;
    CHECK(s.pages.n_free == PAGES && deq_prefix_stats(&s.cache).entries == 0);
    deq_free(s.memory);
}

TEST(prefix_lets_go_of_pages_that_change)
{
    struct shelf s;
    struct deq_ring r = {0};
    uint32_t from;
    REQUIRE(open_shelf(&s));
    REQUIRE(!deq_ring_open(&s.pages, 1, &r, NULL) && deq_ring_make_writable(&s.pages, &r, 0, &from));
    const struct deq_hash a = {{1, 2}}, b = {{1, 3}}; /* one bucket */
    deq_prefix_insert(&s.cache, &a, &r, 0, 1, (float[DIM]){1}, (struct deq_reached){0});
    deq_prefix_insert(&s.cache, &b, &r, 0, 1, (float[DIM]){2}, (struct deq_reached){0});
    CHECK(!deq_prefix_evict(&s.cache)); /* a sequence holds the page: letting go would free none */
    insert(&s, 9, 3);
    deq_prefix_invalidate(&s.cache, r.page[0]);
    CHECK(!deq_prefix_find(&s.cache, &a) && !deq_prefix_find(&s.cache, &b) && found(&s, 9) == 3);
    CHECK_EQ(s.pages.cached[r.page[0]], 0);
    deq_ring_close(&s.pages, &r);
    deq_free(s.memory);
}
