/* server/work/elastic.c: the control loop, told times and gaps. */
#include "server/work/elastic.h"

#include "tests/unit/test.h"

enum { MS = 1000000, HIGHEST = 6 };

static struct elastic begin(unsigned objective_ms)
{
    return (struct elastic){.objective_ns = (uint64_t)objective_ms * MS};
}

/* For ms, a period of so many gaps of each length ends every 250 ms. Returns when it is over. */
static uint64_t feed(struct elastic *e, uint64_t now, uint64_t ms, unsigned n, double gap_ms, unsigned n_more,
                     double more_ms)
{
    for (const uint64_t end = now + ms * MS; now < end; now += 250 * MS) {
        for (unsigned i = 0; i < n; i++)
            elastic_gap(e, (uint64_t)(gap_ms * MS));
        for (unsigned i = 0; i < n_more; i++)
            elastic_gap(e, (uint64_t)(more_ms * MS));
        (void)elastic_tick(e, HIGHEST, true, now + 250 * MS);
    }
    return now;
}

TEST(elastic_opens_by_steps_and_closes_later)
{
    struct elastic e = begin(50);
    uint64_t now = feed(&e, 0, 250, 100, 60, 0, 0);
    CHECK_EQ(e.level, 1u);
    now = feed(&e, now, 500, 100, 60, 0, 0);
    CHECK_EQ(e.level, 3u);
    now = feed(&e, now, 5000, 100, 60, 0, 0);
    CHECK_EQ(e.level, HIGHEST); /* and no further */
    now = feed(&e, now, 10000, 100, 40, 0, 0);
    CHECK_EQ(e.level, HIGHEST); /* within the band it stays */
    now = feed(&e, now, 1750, 100, 20, 0, 0);
    CHECK_EQ(e.level, HIGHEST);
    now = feed(&e, now, 250, 100, 20, 0, 0);
    CHECK_EQ(e.level, HIGHEST - 1); /* two seconds of calm a level */
    now = feed(&e, now, 1000, 100, 20, 0, 0);
    now = feed(&e, now, 250, 100, 40, 0, 0); /* which begin anew */
    now = feed(&e, now, 1750, 100, 20, 0, 0);
    CHECK_EQ(e.level, HIGHEST - 1);
    now = feed(&e, now, 10250, 100, 20, 0, 0);
    CHECK_EQ(e.level, 0u);
}

/* 99 of 100 are to be in time; one that is late is no sign. */
TEST(elastic_looks_at_one_in_a_hundred)
{
    struct elastic e = begin(50);
    const uint64_t now = feed(&e, 0, 250, 396, 10, 4, 60);
    CHECK_EQ(e.level, 0u);
    (void)feed(&e, now, 250, 395, 10, 5, 60);
    CHECK_EQ(e.level, 1u);
    e = begin(50);
    (void)feed(&e, 0, 250, 395, 10, 4, 60); /* four of 399 are more than one in a hundred */
    CHECK_EQ(e.level, 1u);
    e = begin(50);
    for (unsigned i = 0; i < 20; i++)
        elastic_gap(&e, i ? 10 * MS : 60 * MS);
    CHECK(!elastic_tick(&e, HIGHEST, true, 1000 * MS) && e.level == 0 && e.gaps == 0);
    (void)feed(&e, 1000 * MS, 250, 148, 10, 2, 60); /* two are enough */
    CHECK_EQ(e.level, 1u);
}

/* A gap of just the objective is in time, and one of 0.6 of it is below the band. */
TEST(elastic_gaps)
{
    struct elastic e = begin(50);
    elastic_gap(&e, 30 * MS);
    CHECK(e.gaps == 1 && !e.near && !e.late);
    elastic_gap(&e, 30 * MS + 1);
    CHECK(e.gaps == 2 && e.near == 1 && !e.late);
    elastic_gap(&e, 50 * MS);
    CHECK(e.gaps == 3 && e.near == 2 && !e.late);
    elastic_gap(&e, 50 * MS + 1);
    CHECK(e.gaps == 4 && e.near == 3 && e.late == 1);
}

/* Few gaps gather for a second; a period is two objectives long, whatever their number. */
TEST(elastic_periods)
{
    struct elastic e = begin(50);
    for (unsigned i = 0; i < 5; i++)
        elastic_gap(&e, 60 * MS);
    CHECK(!elastic_tick(&e, HIGHEST, true, 999 * MS) && elastic_tick(&e, HIGHEST, true, 1000 * MS));
    for (unsigned i = 0; i < 500; i++)
        elastic_gap(&e, 60 * MS);
    CHECK(!elastic_tick(&e, HIGHEST, true, 1099 * MS) && elastic_tick(&e, HIGHEST, true, 1100 * MS));
    e = begin(400);
    for (unsigned i = 0; i < 500; i++)
        elastic_gap(&e, 500 * MS);
    CHECK(!elastic_tick(&e, HIGHEST, true, 799 * MS) && elastic_tick(&e, HIGHEST, true, 800 * MS));
    e = begin(10); /* and 100 ms at least, for 100 gaps; a second for fewer */
    for (unsigned i = 0; i < 100; i++)
        elastic_gap(&e, 60 * MS);
    CHECK(!elastic_tick(&e, HIGHEST, true, 100 * MS - 1) && elastic_tick(&e, HIGHEST, true, 100 * MS));
    for (unsigned i = 0; i < 99; i++)
        elastic_gap(&e, 60 * MS);
    CHECK(!elastic_tick(&e, HIGHEST, true, 1100 * MS - 1) && elastic_tick(&e, HIGHEST, true, 1100 * MS));
}

/* Nothing comes: with nothing under way that is calm, as long as it lasted; while a long prompt is read it is none. */
TEST(elastic_silence)
{
    struct elastic e = begin(50);
    uint64_t now = feed(&e, 0, 1250, 100, 60, 0, 0);
    CHECK_EQ(e.level, 5u);
    CHECK(!elastic_tick(&e, HIGHEST, true, now + 60000ull * MS) && e.level == 5);
    CHECK(elastic_tick(&e, HIGHEST, false, now + 4100ull * MS));
    CHECK_EQ(e.level, 3u);
    CHECK(elastic_tick(&e, HIGHEST, false, now + 3600000ull * MS));
    CHECK_EQ(e.level, 0u);
    e = begin(50);
    now = feed(&e, 0, 250, 100, 60, 0, 0);
    CHECK(!elastic_tick(&e, HIGHEST, false, now + 2000ull * MS - 1) && e.level == 1); /* two seconds, to the last */
    CHECK(elastic_tick(&e, HIGHEST, false, now + 3000ull * MS) && e.level == 0);
}

/* Of texts that allow nothing, or less than the level, nothing more is asked. */
TEST(elastic_keeps_to_what_has_an_effect)
{
    struct elastic e = begin(50);
    const uint64_t now = feed(&e, 0, 1250, 100, 60, 0, 0);
    elastic_gap(&e, 60 * MS);
    CHECK(elastic_tick(&e, 2, true, now + 1000 * MS) && e.level == 2);
    for (unsigned i = 0; i < 100; i++)
        elastic_gap(&e, 60 * MS);
    CHECK(!elastic_tick(&e, 0, true, now + 2000 * MS) && e.level == 2);
    e = begin(50);
    for (unsigned i = 0; i < 100; i++)
        elastic_gap(&e, 60 * MS);
    CHECK(!elastic_tick(&e, 0, true, 1000 * MS) && e.level == 0);
}

TEST(elastic_tolerances)
{
    CHECK_EQ(elastic_tol(0.1f, 0.5f, 0), 0.1f);
    CHECK_EQ(elastic_tol(0.1f, 0.5f, 1), 0.15f);
    CHECK_EQ(elastic_tol(0.1f, 0.5f, 4), 0.5f);
    CHECK_EQ(elastic_tol(0.6f, 0.5f, 3), 0.6f); /* never below what was asked */
    CHECK(elastic_levels(0.1f, 0.5f) == 4 && elastic_levels(0.5f, 0.5f) == 0 && elastic_levels(0.6f, 0.5f) == 0);
    const unsigned n = elastic_levels(1e-7f, 10);
    CHECK(elastic_tol(1e-7f, 10, n) == 10 && elastic_tol(1e-7f, 10, n - 1) < 10);
    CHECK_EQ(elastic_levels(1e-30f, 10), 64u); /* the most, though it is not as open then */
}
