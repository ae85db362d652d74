/* server/work/flush.c on a clock of its own: who goes out at the end of which step. */
#include "server/work/flush.h"

#include "core/base/base.h"
#include "tests/unit/test.h"

enum { STREAMS_MAX = 64, STEPS = 4000 };

/* What a run of steps did; each stream has a token every `every` steps, and they begin one step after the other. */
struct run {
    uint64_t flushes, rounds, tokens; /* rounds: steps behind which something was flushed */
    uint64_t longest_ns;              /* that a token was held */
    uint64_t ns;
};

static struct run run(size_t n, uint64_t step_us, unsigned every, uint32_t interval_ms)
{
    static struct flush_stream streams[STREAMS_MAX];
    static uint64_t held_since[STREAMS_MAX];
    struct run r = {0};
    const uint64_t begin = 1000000000000ull, step_ns = step_us * 1000;
    for (size_t i = 0; i < n; i++)
        streams[i] = (struct flush_stream){0};
    for (uint64_t t = 1; t <= STEPS; t++) {
        const uint64_t now = begin + t * step_ns, before = r.flushes;
        size_t have = 0;
        for (size_t i = 0; i < n; i++)
            if (t > i && (t - i) % every == 0) {
                r.tokens++;
                if (streams[i].has == FLUSH_NOTHING) {
                    streams[i].has = FLUSH_NEW;
                    held_since[i] = now;
                }
            }
        for (size_t i = 0; i < n; i++)
            have += streams[i].has != FLUSH_NOTHING;
        const struct flush f = flush_begin(now, step_ns, interval_ms, have);
        for (size_t i = 0; i < n; i++) {
            const bool first = !streams[i].flushed_ns && streams[i].has != FLUSH_NOTHING;
            const bool goes = flush_goes(&f, &streams[i]);
            CHECK(goes || !first); /* the first token leaves at once */
            r.flushes += goes;
            if (goes)
                r.longest_ns = DEQ_MAX(r.longest_ns, now - held_since[i]);
        }
        r.rounds += r.flushes > before;
    }
    r.ns = STEPS * step_ns;
    return r;
}

/* Up to ten streams every 10 ms are a thousand a second; more of them wait for a tick of 20 ms, 40 ms, ..., which is
 * the one nearest to the end of a step. */
TEST(flush_has_a_tick_for_many)
{
    enum { MS = 1000000 };
    const uint64_t at = 5000ull * 20 * MS;
    CHECK_EQ(flush_begin(at, 0, 10, 1).interval_ns, 10ull * MS);
    CHECK_EQ(flush_begin(at, 0, 10, 10).tick, 0ull);
    CHECK_EQ(flush_begin(at, 0, 10, 11).tick, 5000ull);
    CHECK_EQ(flush_begin(at, 0, 10, 20).tick, 5000ull);
    CHECK_EQ(flush_begin(at, 0, 10, 21).tick, 2500ull);
    CHECK_EQ(flush_begin(at, 0, 10, 41).tick, 1250ull);
    CHECK_EQ(flush_begin(at, 0, 1000, 1000).tick, 0ull);
    CHECK_EQ(flush_begin(at - 3 * MS, 6 * MS, 10, 11).tick, 5000ull);
    CHECK_EQ(flush_begin(at - 3 * MS, 6 * MS - 2, 10, 11).tick, 4999ull);
    CHECK_EQ(flush_begin(at, 6 * MS, 0, 11).tick, 0ull);
}

TEST(flush_delays_no_slow_stream)
{
    CHECK_EQ(run(1, 12000, 1, 10).longest_ns, 0);
    CHECK_EQ(run(32, 12000, 1, 10).longest_ns, 0); /* though all together are more than so many a second */
    CHECK_EQ(run(32, 3000, 4, 10).longest_ns, 0);  /* a token every 12 ms, in four steps */
    CHECK_EQ(run(64, 5000, 2, 10).longest_ns, 0);  /* just so */
    CHECK_EQ(run(64, 100, 1, 0).longest_ns, 0);
    CHECK_EQ(run(8, 6000, 1, 10).longest_ns, 0); /* the next step ends too late */
}

TEST(flush_holds_fast_streams)
{
    const struct run one = run(1, 1000, 1, 10), few = run(8, 700, 1, 10), many = run(32, 1000, 1, 10);
    CHECK_EQ(one.flushes, 1 + (STEPS - 1) / 9); /* ten steps behind the one before it would be too late */
    CHECK(few.longest_ns <= 10000000 && few.flushes <= few.tokens / 13);
    /* of 32 streams every four intervals, until the end of the step that is nearest */
    CHECK(many.longest_ns <= 40500000);
    const uint64_t ticks = many.ns / 40000000;
    CHECK(many.flushes >= (ticks - 1) * 32 && many.flushes <= (ticks + 6) * 32); /* those at the beginning on top */
    CHECK(ticks * 32 <= many.ns / 1000000 * FLUSHES_PER_S / 1000);
}

/* However they began, many go out together. */
TEST(flush_gathers_many_streams)
{
    const struct run r = run(32, 1000, 1, 10);
    CHECK(r.rounds <= r.ns / 40000000 + 32);
    CHECK_EQ(run(64, 100, 1, 0).rounds, STEPS);
}
