/* What the pickle machine (pickle.c) makes: values by number, and the items of containers. pickle_graph.c also has
 * pickle.h's readers of what was made; others see no more than those. */
#ifndef DEQ_DATA_PICKLE_GRAPH_H
#define DEQ_DATA_PICKLE_GRAPH_H

#include "core/data/pickle.h"

struct deq_pickle {
    const unsigned char *bytes;
    struct deq_pickle_value *values;
    size_t n_values, cap_values;
    /* Items of the containers, in chunks [next chunk or 0, n, n value numbers]: one chunk for a tuple, one for every
     * time that something was put into a list or dictionary. Cell 0 is unused so that 0 can mean none. */
    uint32_t *cells;
    size_t n_cells, cap_cells;
    uint32_t root;
};

/* Room for `more` further elements of `size` bytes in *array, which doubles. False: no memory, and all is as it was. */
bool deq_pickle_reserve(void *array_at, size_t n, size_t more, size_t size, size_t *cap);
/* A further value. False: no memory */
bool deq_pickle_add(struct deq_pickle *p, struct deq_pickle_value v, uint32_t *ret_value);
/* Value numbers behind the items of a container, in order. False: no memory */
bool deq_pickle_put(struct deq_pickle *p, uint32_t container, const uint32_t *items, size_t n);

#endif
