/* The floor everything stands on: the legend of dimension letters, checked size arithmetic, small helpers.
 *
 * Legend used in every comment of the project:
 *   B  sequences in a batch          T   positions of a sequence      R   rows (positions being solved) in one step
 *   D  width of the state z          H   attention heads              Dh  width of one head (H*Dh need not equal D)
 *   F  inner width of the FFN        V   vocabulary                   L   blocks inside one evaluation of f
 *   W  attention window (positions)  M   solver memory                K   summed (inner) dimension of a product
 * A shape is written [rows, columns], row-major, last index fastest. Sizes of memory end in _bytes, of time in
 * _ms/_us/_ns, of text in _tok (tokens) or _bytes. */
#ifndef DEQ_BASE_BASE_H
#define DEQ_BASE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __FAST_MATH__
#error "-ffast-math turns isnan() into 0; a diverging solver would go unnoticed"
#endif

#define DEQ_MIN(a, b) ((a) < (b) ? (a) : (b))
#define DEQ_MAX(a, b) ((a) > (b) ? (a) : (b))
#define DEQ_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define DEQ_ROUND_UP(n, to) (((n) + (to) - 1) / (to) * (to))

/* a*b and a+b, or false when they do not fit. */
static inline bool deq_mul_size(size_t a, size_t b, size_t *ret)
{
    return !__builtin_mul_overflow(a, b, ret);
}

static inline bool deq_add_size(size_t a, size_t b, size_t *ret)
{
    return !__builtin_add_overflow(a, b, ret);
}

#endif
