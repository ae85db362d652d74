/* One walk over the parts of an object, made twice: the first time it counts (base NULL), the second time it cuts the
 * parts out of one block of that many bytes. So what is declared and what is taken cannot differ, and one allocation
 * can fail where twenty could.
 *
 *     static void lay_out(struct thing *t, struct deq_layout *l)
 *     {
 *         DEQ_PART(l, t->x, n);
 *         DEQ_PART(l, t->y, m);
 *     }
 */
#ifndef DEQ_BASE_LAYOUT_H
#define DEQ_BASE_LAYOUT_H

#include "core/base/base.h"

struct deq_layout {
    char *base;     /* NULL: count only, parts are NULL */
    size_t bytes;   /* of the parts so far; SIZE_MAX once they do not fit */
};

/* n things of `size` bytes, at a multiple of 64 bytes. */
static inline void *deq_layout_part(struct deq_layout *l, size_t n, size_t size)
{
    const size_t at = l->bytes;
    size_t bytes;
    if (!deq_mul_size(n, size, &bytes) || bytes > SIZE_MAX - 64 ||
        !deq_add_size(at, DEQ_ROUND_UP(bytes, (size_t)64), &l->bytes))
        l->bytes = SIZE_MAX;
    return l->base && l->bytes != SIZE_MAX ? l->base + at : NULL;
}

#define DEQ_PART(l, pointer, n) ((pointer) = deq_layout_part((l), (n), sizeof *(pointer)))

#endif
