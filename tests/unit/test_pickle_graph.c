/* core/data/pickle_graph.c: values by number; items in the order in which they were put, in however many goes. */
#include "core/data/pickle_graph.h"

#include "core/base/mem.h"
#include "tests/unit/test.h"

static size_t read_items(const struct deq_pickle *p, uint32_t container, uint32_t *out, size_t cap)
{
    struct deq_pickle_place place = {0};
    size_t n = 0;
    uint32_t value;
    while (deq_pickle_next(p, deq_pickle_at(p, container), &place, &value))
        if (n++ < cap)
            out[n - 1] = value;
    return n;
}

TEST(pickle_graph_items)
{
    enum { PUTS = 200 };
    struct deq_pickle *p = DEQ_NEW(struct deq_pickle);
    uint32_t list, dict, tuple, out[3 * PUTS];
    REQUIRE(p);
    CHECK(deq_pickle_add(p, (struct deq_pickle_value){.kind = DEQ_PICKLE_LIST}, &list));
    CHECK(deq_pickle_add(p, (struct deq_pickle_value){.kind = DEQ_PICKLE_DICT}, &dict));
    CHECK(deq_pickle_add(p, (struct deq_pickle_value){.kind = DEQ_PICKLE_TUPLE}, &tuple));
    CHECK(list == 0 && dict == 1 && tuple == 2 && deq_pickle_count(p) == 3);
    CHECK(read_items(p, list, out, 3) == 0 && !deq_pickle_tuple(p, deq_pickle_at(p, tuple)));
    const uint32_t three[] = {7, 8, 9};
    CHECK(deq_pickle_put(p, tuple, three, 3) && deq_pickle_put(p, dict, three, 0));
    for (uint32_t i = 0; i < PUTS; i++) { /* by turns, so that the chunks of both lie between each other */
        const uint32_t x[] = {3 * i, 3 * i + 1, 3 * i + 2};
        CHECK(deq_pickle_put(p, list, x, 3) && deq_pickle_put(p, dict, x, 1));
    }
    CHECK_EQ(deq_pickle_at(p, list)->items.n, 3u * PUTS);
    CHECK_EQ(read_items(p, list, out, 3 * PUTS), 3ul * PUTS);
    size_t wrong = 0;
    for (uint32_t i = 0; i < 3 * PUTS; i++)
        wrong += out[i] != i;
    CHECK_EQ(read_items(p, dict, out, PUTS), (size_t)PUTS);
    for (uint32_t i = 0; i < PUTS; i++)
        wrong += out[i] != 3 * i;
    CHECK_EQ(wrong, 0ul);
    CHECK(!memcmp(deq_pickle_tuple(p, deq_pickle_at(p, tuple)), three, sizeof three));
    deq_pickle_free(p);
}

TEST(pickle_graph_many_values)
{
    enum { MANY = 1000 };
    struct deq_pickle *p = DEQ_NEW(struct deq_pickle);
    uint32_t at;
    size_t wrong = 0;
    REQUIRE(p);
    for (int64_t i = 0; i < MANY; i++)
        wrong += !deq_pickle_add(p, (struct deq_pickle_value){.kind = DEQ_PICKLE_INT, .integer = i}, &at) || at != i;
    for (uint32_t i = 0; i < MANY; i++)
        wrong += deq_pickle_at(p, i)->integer != i;
    CHECK_EQ(wrong, 0ul);
    CHECK_EQ(deq_pickle_count(p), (uint32_t)MANY);
    deq_pickle_free(p);
}
