#include "server/work/fair.h"

#include <math.h>

enum { PROBES = 16, PATIENCE_MS = 2000 };

struct account *fair_account(struct fair *f, uint64_t id)
{
    struct account *a = NULL;
    for (size_t i = 0; i < PROBES; i++) {
        struct account *b = &f->account[(id + i) & (FAIR_ACCOUNTS - 1)];
        if (b->id == id)
            return b;
        if (!b->in_flight && (!a || b->virtual_time < a->virtual_time))
            a = b;
    }
    if (!a)
        return &f->account[(id + PROBES - 1) & (FAIR_ACCOUNTS - 1)];
    *a = (struct account){.id = id};
    return a;
}

/* --- Order --- */

void fair_forget(const struct fair_job *j)
{
    j->account->oldest_ns = UINT64_MAX;
}

void fair_see(const struct fair_job *j)
{
    j->account->oldest_ns = DEQ_MIN(j->account->oldest_ns, j->arrived_ns);
}

static int64_t level(const struct fair_job *j, uint64_t now_ns)
{
    return j->priority - (int64_t)((now_ns - DEQ_MIN(j->arrived_ns, now_ns)) / 1000000000u);
}

bool fair_before(const struct fair *f, const struct fair_job *a, const struct fair_job *b, uint64_t now_ns)
{
    const int pa = a->across ? a->priority : 0, pb = b->across ? b->priority : 0;
    if (pa != pb)
        return pa < pb;
    if (a->account != b->account) {
        const double ta = fmax(a->account->virtual_time, f->now), tb = fmax(b->account->virtual_time, f->now);
        if (ta < tb || ta > tb)
            return ta < tb;
        if (a->account->oldest_ns != b->account->oldest_ns)
            return a->account->oldest_ns < b->account->oldest_ns;
        return a->account < b->account;
    }
    const int64_t la = level(a, now_ns), lb = level(b, now_ns);
    return la != lb ? la < lb : a->arrived_ns < b->arrived_ns;
}

void fair_charge(struct fair *f, struct account *a, double tokens)
{
    f->now = fmax(a->virtual_time, f->now);
    a->virtual_time = f->now + tokens;
}

uint64_t fair_places(const struct account *a, uint64_t places)
{
    return a->waiting ? places - places / 8 : places;
}

/* --- Places --- */

struct fair_room fair_plus(const struct fair_room *a, const struct fair_room *b)
{
    return (struct fair_room){a->sequences + b->sequences, a->rows + b->rows, a->pages + b->pages};
}

struct fair_room fair_minus(const struct fair_room *a, const struct fair_room *b)
{
    return (struct fair_room){a->sequences - b->sequences, a->rows - b->rows, a->pages - b->pages};
}

uint32_t fair_with_eighth(uint32_t configured)
{
    return configured + configured / 8;
}

/* (n + n/8) / 9 is n/8 again */
static struct fair_room eighth(const struct fair_room *all)
{
    return (struct fair_room){all->sequences / 9, all->rows / 9, all->pages / 9};
}

struct fair_room fair_configured(const struct fair_room *all)
{
    const struct fair_room kept = eighth(all);
    return fair_minus(all, &kept);
}

static bool fits(const struct fair_room *a, const struct fair_room *b)
{
    return a->sequences <= b->sequences && a->rows <= b->rows && a->pages <= b->pages;
}

bool fair_may_begin(const struct account *a, const struct fair_room *held, const struct fair_room *all)
{
    const struct fair_room configured = fair_configured(all);
    return !a->running || fits(held, &configured);
}

bool fair_may_overtake(const struct account *a, const struct fair_room *overtakers, const struct fair_room *first,
                       const struct fair_room *all)
{
    const struct fair_room kept = eighth(all), configured = fair_minus(all, &kept);
    return !a->running && fits(overtakers, &kept) && fits(first, &configured);
}

void fair_reader_is(struct fair_reader *r, bool slow, uint64_t now_ns)
{
    if (slow == r->slow)
        return;
    if (!slow)
        r->total_ns += now_ns - r->since_ns;
    r->since_ns = now_ns;
    r->slow = slow;
}

uint64_t fair_slow_ns(const struct fair_reader *r, uint64_t now_ns)
{
    return r->total_ns + (r->slow ? now_ns - r->since_ns : 0);
}

bool fair_gives_way(const struct fair_reader *r, uint64_t began_ns, uint64_t now_ns)
{
    const uint64_t slow_ns = fair_slow_ns(r, now_ns);
    return r->slow && slow_ns >= PATIENCE_MS * 1000000ull && 2 * slow_ns > now_ns - began_ns;
}

/* --- Sharing a step --- */

struct share {
    uint64_t id;
    double rows, weight;
};

/* Finds each seat's caller, and the rows that each caller could take part with. Returns the number of callers. */
static size_t callers_of(struct fair_seat *const *seat, size_t n, struct share *caller)
{
    size_t callers = 0;
    for (size_t k = 0; k < n; k++) {
        size_t i = 0;
        while (i < callers && caller[i].id != seat[k]->caller && i < FAIR_CALLERS - 1)
            i++;
        if (i == callers)
            caller[callers++] = (struct share){.id = seat[k]->caller, .weight = seat[k]->weight};
        seat[k]->caller_index = i;
        seat[k]->throttled = false;
        caller[i].rows += seat[k]->idle ? 0 : seat[k]->rows;
    }
    return callers;
}

/* Caller i is above its share: at least one of its jobs takes part, then what fits, longest wait first. */
static void rotate(struct fair_seat *const *seat, size_t n, size_t i, double budget)
{
    bool first = true;
    for (size_t k = 0; k < n; k++)
        seat[k]->throttled = seat[k]->throttled || (seat[k]->caller_index == i && !seat[k]->must);
    for (;;) {
        struct fair_seat *next = NULL;
        for (size_t k = 0; k < n; k++)
            if (seat[k]->caller_index == i && seat[k]->throttled && !seat[k]->idle &&
                (!next || seat[k]->last_turn < next->last_turn))
                next = seat[k];
        if (!next || (!first && next->rows > budget))
            return;
        budget -= next->rows;
        next->throttled = first = false;
    }
}

bool fair_takes_part(const struct fair_seat *seat)
{
    return seat->must || !(seat->throttled || seat->idle);
}

bool fair_share(struct fair_seat *const *seat, size_t n, double free_rows, uint64_t turn)
{
    struct share caller[FAIR_CALLERS];
    const size_t callers = callers_of(seat, n, caller);
    double least = INFINITY;
    bool throttled = false;
    for (size_t i = 0; i < callers; i++)
        if (caller[i].rows > 0)
            least = fmin(least, caller[i].rows / caller[i].weight);
    for (size_t i = 0; i < callers && callers > 1; i++) {
        const double budget = least * caller[i].weight + free_rows;
        if (caller[i].rows > budget)
            rotate(seat, n, i, budget);
    }
    for (size_t k = 0; k < n; k++) {
        throttled = throttled || seat[k]->throttled;
        if (fair_takes_part(seat[k]))
            seat[k]->last_turn = turn;
    }
    return throttled;
}

/* --- The cost of a step --- */

void step_cost_add(struct step_cost *c, double rows, double seconds)
{
    const double keep = 0.995;
    c->w = keep * c->w + 1;
    c->x = keep * c->x + rows;
    c->y = keep * c->y + seconds;
    c->xx = keep * c->xx + rows * rows;
    c->xy = keep * c->xy + rows * seconds;
}

double step_cost_free_rows(const struct step_cost *c)
{
    const double det = c->w * c->xx - c->x * c->x;
    if (det <= 1e-9 * c->w * c->xx) /* steps of one size only: nothing is known */
        return 0;
    const double each = (c->w * c->xy - c->x * c->y) / det, fixed = (c->y - each * c->x) / c->w;
    return each > 0 && fixed > 0 ? DEQ_MIN(fixed / each, 65536.0) : 0;
}
