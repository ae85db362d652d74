/* core/math/peak.c and peak_body.h: at every level of the machine the loops are run as often as they are told. */
#include "core/math/peak.h"

#include "core/math/kern.h"
#include "tests/unit/levels.h"
#include "tests/unit/test.h"

static void run(void *ctx, size_t n)
{
    const struct deq_unit *unit = ctx;
    unit->run(n);
}

static void read_memory(void *ctx, size_t n)
{
    static char memory[64 * DEQ_PEAK_READ];
    const struct deq_peak *peak = ctx;
    while (n--)
        peak->read(memory, sizeof memory);
}

/* Eight times the rounds take about eight times the time; a loop that the compiler saw through takes no time at all. */
#define CHECK_RUNS(work, ctx, n) CHECK(test_growth(work, ctx, n) > 4)

TEST(peak_levels)
{
    const struct deq_kern *now = deq_kern();
    find_levels();
    for (int i = 0; i < LEVELS_OF_MACHINES; i++) {
        if (!levels[i])
            continue;
        deq_kern_force(level_names[i]);
        struct deq_peak peak = *deq_peak();
        CHECK_EQ(peak.level, level_names[i]);
        CHECK(peak.floats.madds && peak.integers.madds && peak.per_byte);
        CHECK_RUNS(run, &peak.floats, 50000);
        CHECK_RUNS(run, &peak.integers, 50000);
        CHECK_RUNS(read_memory, &peak, 500);
    }
    deq_kern_force(now->name);
}
