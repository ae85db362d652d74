#include "core/form/readings.h"

#include <string.h>

static void copy_reading(struct deq_reading *to, const struct deq_reading *from)
{
    memcpy(to, from, offsetof(struct deq_reading, below) + from->depth * sizeof *from->below);
}

static bool equal_readings(const struct deq_reading *x, const struct deq_reading *y)
{
    return x->place == y->place && x->depth == y->depth && !memcmp(x->below, y->below, x->depth * sizeof *x->below);
}

/* Each once, and no more than there is room for. */
static void add(struct deq_readings *set, const struct deq_reading *r)
{
    for (uint32_t i = 0; i < set->n; i++)
        if (equal_readings(&set->at[i], r))
            return;
    if (set->n < DEQ_FORM_READINGS)
        copy_reading(&set->at[set->n++], r);
}

/* Where r may go on without a byte, as far as there is depth for. */
static void add_entries(const struct deq_automaton *a, struct deq_readings *set, const struct deq_reading *r)
{
    const struct deq_form_place *p = &a->place[r->place];
    const uint16_t *e = a->entries + p->entry;
    if (p->ends && !r->depth)
        add(set, r);
    for (uint32_t i = 0; i < p->n_entries; i++, e += 2 + e[1]) {
        struct deq_reading in;
        bool fits = r->depth + e[1] <= DEQ_FORM_DEPTH;
        copy_reading(&in, r);
        for (uint16_t k = 0; fits && k < e[1]; k++) {
            fits = a->place[e[2 + k]].need + in.depth <= DEQ_FORM_DEPTH;
            in.below[in.depth++] = e[2 + k];
        }
        in.place = e[0];
        if (fits && a->place[e[0]].need_bytes + in.depth <= DEQ_FORM_DEPTH)
            add(set, &in);
    }
}

/* The same of r and of where its callers go on, as long as its rule may end. */
static void settle(const struct deq_automaton *a, struct deq_readings *set, struct deq_reading *r)
{
    add_entries(a, set, r);
    while (a->place[r->place].ends && r->depth) {
        r->place = r->below[--r->depth];
        add_entries(a, set, r);
    }
}

void deq_readings_begin(const struct deq_automaton *a, struct deq_readings *ret)
{
    struct deq_reading r = {.place = a->start};
    ret->n = 0;
    settle(a, ret, &r);
}

void deq_readings_settle(const struct deq_automaton *a, const struct deq_reading *r, uint16_t place,
                         struct deq_readings *to)
{
    struct deq_reading in;
    copy_reading(&in, r);
    in.place = place;
    to->n = 0;
    settle(a, to, &in);
}

bool deq_readings_step(const struct deq_automaton *a, const struct deq_readings *from, unsigned char byte,
                       struct deq_readings *to)
{
    to->n = 0;
    for (uint32_t i = 0; i < from->n; i++) {
        struct deq_reading r;
        const uint16_t place = deq_reading_next(a, &from->at[i], from->at[i].place, byte);
        if (!place)
            continue;
        copy_reading(&r, &from->at[i]);
        r.place = place;
        settle(a, to, &r);
    }
    return to->n;
}

bool deq_readings_whole(const struct deq_automaton *a, const struct deq_readings *r)
{
    for (uint32_t i = 0; i < r->n; i++)
        if (!r->at[i].depth && a->place[r->at[i].place].ends)
            return true;
    return false;
}

bool deq_readings_ended(const struct deq_automaton *a, const struct deq_readings *r)
{
    for (uint32_t i = 0; i < r->n; i++)
        if (a->place[r->at[i].place].need_bytes + r->at[i].depth <= DEQ_FORM_DEPTH)
            return false;
    return true;
}

void deq_readings_copy(struct deq_readings *to, const struct deq_readings *from)
{
    to->n = from->n;
    for (uint32_t i = 0; i < from->n; i++)
        copy_reading(&to->at[i], &from->at[i]);
}

bool deq_readings_equal(const struct deq_readings *x, const struct deq_readings *y)
{
    bool same = x->n == y->n;
    for (uint32_t i = 0; same && i < x->n; i++)
        same = equal_readings(&x->at[i], &y->at[i]);
    return same;
}
