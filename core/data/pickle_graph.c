#include "core/data/pickle_graph.h"

#include <string.h>

#include "core/base/mem.h"

bool deq_pickle_reserve(void *array_at, size_t n, size_t more, size_t size, size_t *cap)
{
    void *old, *grown;
    memcpy(&old, array_at, sizeof old);
    if (n + more <= *cap)
        return true;
    const size_t want = DEQ_MAX(*cap ? 2 * *cap : 64, n + more);
    grown = deq_realloc(old, n * size, want * size);
    if (!grown)
        return false;
    memcpy(array_at, &grown, sizeof grown);
    *cap = want;
    return true;
}

bool deq_pickle_add(struct deq_pickle *p, struct deq_pickle_value v, uint32_t *ret_value)
{
    if (!deq_pickle_reserve(&p->values, p->n_values, 1, sizeof *p->values, &p->cap_values))
        return false;
    p->values[p->n_values] = v;
    *ret_value = (uint32_t)p->n_values++;
    return true;
}

bool deq_pickle_put(struct deq_pickle *p, uint32_t container, const uint32_t *items, size_t n)
{
    const size_t chunk = p->n_cells ? p->n_cells : 1;
    struct deq_pickle_value *v = &p->values[container];
    if (!n)
        return true;
    if (!deq_pickle_reserve(&p->cells, p->n_cells, n + 3, sizeof *p->cells, &p->cap_cells))
        return false;
    p->cells[chunk] = 0;
    p->cells[chunk + 1] = (uint32_t)n;
    memcpy(p->cells + chunk + 2, items, n * sizeof *p->cells);
    p->n_cells = chunk + 2 + n;
    if (v->items.first)
        p->cells[v->items.last] = (uint32_t)chunk;
    else
        v->items.first = (uint32_t)chunk;
    v->items.last = (uint32_t)chunk;
    v->items.n += (uint32_t)n;
    return true;
}

void deq_pickle_free(struct deq_pickle *p)
{
    if (!p)
        return;
    deq_free(p->values);
    deq_free(p->cells);
    deq_free(p);
}

uint32_t deq_pickle_root(const struct deq_pickle *p)
{
    return p->root;
}

uint32_t deq_pickle_count(const struct deq_pickle *p)
{
    return (uint32_t)p->n_values;
}

const struct deq_pickle_value *deq_pickle_at(const struct deq_pickle *p, uint32_t value)
{
    return &p->values[value];
}

const char *deq_pickle_text(const struct deq_pickle *p, const struct deq_pickle_value *string)
{
    return (const char *)p->bytes + string->text.at;
}

const uint32_t *deq_pickle_tuple(const struct deq_pickle *p, const struct deq_pickle_value *tuple)
{
    return tuple->items.n ? p->cells + tuple->items.first + 2 : NULL;
}

bool deq_pickle_next(const struct deq_pickle *p, const struct deq_pickle_value *container,
                     struct deq_pickle_place *place, uint32_t *ret_value)
{
    if (!place->chunk) {
        place->chunk = container->items.first;
        place->i = 0;
    } else if (place->i == p->cells[place->chunk + 1]) {
        place->chunk = p->cells[place->chunk];
        place->i = 0;
    }
    if (!place->chunk)
        return false;
    *ret_value = p->cells[place->chunk + 2 + place->i++];
    return true;
}
