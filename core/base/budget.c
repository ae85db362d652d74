#include "core/base/budget.h"

#include "core/base/bug.h"

void deq_budget_init(struct deq_budget *b, uint64_t max_bytes)
{
    *b = (struct deq_budget){.max_bytes = max_bytes};
    pthread_mutex_init(&b->lock, NULL);
}

uint64_t deq_budget_used(struct deq_budget *b)
{
    pthread_mutex_lock(&b->lock);
    const uint64_t used = b->used_bytes;
    pthread_mutex_unlock(&b->lock);
    return used;
}

void deq_allowance_open(struct deq_allowance *a, struct deq_budget *b, uint64_t owner)
{
    *a = (struct deq_allowance){.budget = b, .owner = owner};
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    a->next = b->open;
    if (b->open)
        b->open->prev = a;
    b->open = a;
    pthread_mutex_unlock(&b->lock);
}

static uint64_t charged(const struct deq_allowance *a)
{
    return DEQ_MAX(a->reserved_bytes, a->taken_bytes);
}

/* Caller holds a->budget->lock. */
static bool change(struct deq_allowance *a, uint64_t reserved, uint64_t taken)
{
    struct deq_budget *b = a->budget;
    const uint64_t before = charged(a), after = DEQ_MAX(reserved, taken);
    if (after > before) {
        const uint64_t more = after - before;
        uint64_t others = 0; /* that the same owner has */
        if (more > b->max_bytes - b->used_bytes)
            return false;
        for (const struct deq_allowance *o = b->open; o; o = o->next)
            others += o != a && o->owner == a->owner ? charged(o) : 0;
        if (others && others + after > b->max_bytes - b->used_bytes - more)
            return false;
    }
    b->used_bytes += after - before; /* modulo: it may shrink */
    a->reserved_bytes = reserved;
    a->taken_bytes = taken;
    return true;
}

void deq_allowance_close(struct deq_allowance *a)
{
    struct deq_budget *b = a->budget;
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    DEQ_BUG_ON(a->taken_bytes);
    (void)change(a, 0, 0);
    if (a->prev)
        a->prev->next = a->next;
    else
        b->open = a->next;
    if (a->next)
        a->next->prev = a->prev;
    pthread_mutex_unlock(&b->lock);
    a->budget = NULL;
}

/* reserve, take: what is added to either, modulo. */
static bool add(struct deq_allowance *a, uint64_t reserve, uint64_t take)
{
    if (!a || !a->budget)
        return true;
    pthread_mutex_lock(&a->budget->lock);
    const bool ok = change(a, a->reserved_bytes + reserve, a->taken_bytes + take);
    pthread_mutex_unlock(&a->budget->lock);
    return ok;
}

bool deq_allowance_reserve(struct deq_allowance *a, uint64_t bytes)
{
    return add(a, bytes, 0);
}

void deq_allowance_unreserve(struct deq_allowance *a, uint64_t bytes)
{
    (void)add(a, -bytes, 0);
}

bool deq_allowance_take(struct deq_allowance *a, uint64_t bytes)
{
    return add(a, 0, bytes);
}

void deq_allowance_give(struct deq_allowance *a, uint64_t bytes)
{
    (void)add(a, 0, -bytes);
}
