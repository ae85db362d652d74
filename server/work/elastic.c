#include "server/work/elastic.h"

#include "core/base/base.h"

enum {
    GAPS = 100,                 /* a period has so many, or has lasted PERIOD_MAX_NS */
    LATE_SHARE = 100,           /* one in so many gaps may be late */
    LEVELS_MAX = 64,            /* 1.5^64 is more than tolerances range over */
};
static const uint64_t PERIOD_MIN_NS = 100000000, PERIOD_MAX_NS = 1000000000, CALM_NS = 2000000000;
static const double STEP = 1.5;

static bool exceeds(uint32_t n, uint32_t gaps)
{
    return n > 1 && (uint64_t)n * LATE_SHARE > gaps;
}

void elastic_gap(struct elastic *e, uint64_t gap_ns)
{
    e->gaps++;
    e->late += gap_ns > e->objective_ns;
    e->near += gap_ns > e->objective_ns / 5 * 3;
}

static bool is_over(const struct elastic *e, bool busy, uint64_t now_ns)
{
    const uint64_t ns = now_ns - e->began_ns, least = DEQ_MAX(PERIOD_MIN_NS, 2 * e->objective_ns);
    return ns >= least && (e->gaps >= GAPS || ns >= PERIOD_MAX_NS) && (e->gaps || !busy);
}

static unsigned next_level(struct elastic *e, unsigned highest, uint64_t now_ns)
{
    const bool late = exceeds(e->late, e->gaps);
    unsigned level = e->level;
    if (late || exceeds(e->near, e->gaps)) {
        e->calm_ns = 0;
        return late && level < highest ? level + 1 : level;
    }
    e->calm_ns = e->calm_ns ? e->calm_ns : e->began_ns;
    for (; level && now_ns - e->calm_ns >= CALM_NS; level--)
        e->calm_ns += CALM_NS;
    return level;
}

bool elastic_tick(struct elastic *e, unsigned highest, bool busy, uint64_t now_ns)
{
    if (!is_over(e, busy, now_ns))
        return false;
    unsigned level = next_level(e, highest, now_ns);
    if (highest) /* what is above has no effect, and would take its time to close */
        level = DEQ_MIN(level, highest);
    const bool changed = level != e->level;
    e->level = level;
    e->began_ns = now_ns;
    e->gaps = e->late = e->near = 0;
    return changed;
}

double elastic_factor(unsigned level)
{
    double f = 1;
    for (; level; level--)
        f *= STEP;
    return f;
}

float elastic_tol(float tol, float tol_max, unsigned level)
{
    const double opened = DEQ_MIN((double)tol * elastic_factor(level), (double)tol_max);
    return DEQ_MAX((float)opened, tol);
}

unsigned elastic_levels(float tol, float tol_max)
{
    unsigned n = 0;
    while (n < LEVELS_MAX && elastic_tol(tol, tol_max, n) < tol_max)
        n++;
    return n;
}
