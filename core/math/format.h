/* How the numbers of a weight matrix are held, and what a product with them computes.
 *
 *   f32, bf16   floats: one output is one chain of fused multiply-adds over k = 0..K-1
 *   i16, i8     integers with a scale a row, w[n,k] ~ s_n q: the activations are rounded to 16 bits with a scale of
 *               their own row, x[m,k] ~ t_m p, and y[m,n] = s_n t_m * sum p q. The sum is exact, whatever the order, so
 *               no unit, tiling or split of K can change a bit; it is scaled in double and rounded to float last.
 *
 *       t_m = max|x_m| / 32512,  p = rint(x / t_m);    i16: s_n = max|w_n| / 32512,   i8: s_n = max|w_n| / 127
 *
 *   32512 = 127 * 256, so that both bytes of q are signed, q = 256 q1 + q0 with -128 <= q0 < 128: two planes of bytes.
 *   (The idea on matrix units: Ootomo, Ozaki, Yokota, "DGEMM on Integer Matrix Multiplication Unit", 2023.)
 *
 * Which formats a model is held in is its numeric class's to say (class.h; core/data/weights.h). */
#ifndef DEQ_MATH_FORMAT_H
#define DEQ_MATH_FORMAT_H

#include "core/base/base.h"
#include "core/math/class.h"

enum deq_format { DEQ_FORMAT_F32, DEQ_FORMAT_BF16, DEQ_FORMAT_I16, DEQ_FORMAT_I8, DEQ_FORMAT_COUNT };

enum {
    DEQ_PANEL = 64,         /* outputs of one packed panel */
    DEQ_PANEL_UNIT = 32,    /* outputs that one thread takes at least */
    DEQ_INT_TOP = 32512,    /* of a rounded activation, and of a weight of two bytes */
    DEQ_OPERAND_HEAD = 64,  /* bytes before a prepared row's numbers: its scale, a float */
};

static inline bool deq_format_is_int(enum deq_format f)
{
    return f >= DEQ_FORMAT_I16;
}

/* K as an integer panel has it: zeros fill it up to whole tiles of a matrix unit. */
static inline size_t deq_int_depth(size_t k)
{
    return DEQ_ROUND_UP(k, (size_t)64);
}

/* A panel of integers: one or two planes [K'/4, 64, 4] of signed bytes (q1, then q0), the scales [64] as float, the
 * sums over k [planes, 64] as int32 (what units that want unsigned activations subtract). */
struct deq_int_panel {
    const int8_t *plane[2]; /* the second: i16 alone */
    const float *scale;
    const int32_t *sum[2];
};

static inline size_t deq_int_planes(enum deq_format f)
{
    return f == DEQ_FORMAT_I16 ? 2 : 1;
}

static inline size_t deq_int_panel_bytes(enum deq_format f, size_t k)
{
    return DEQ_PANEL * (deq_int_planes(f) * (deq_int_depth(k) + sizeof(int32_t)) + sizeof(float));
}

static inline struct deq_int_panel deq_int_panel(enum deq_format f, const void *panel, size_t k)
{
    const size_t planes = deq_int_planes(f), plane = DEQ_PANEL * deq_int_depth(k);
    const int8_t *at = (const int8_t *)panel;
    const float *scale = (const float *)(const void *)(at + planes * plane);
    const int32_t *sum = (const int32_t *)(const void *)(scale + DEQ_PANEL);
    return (struct deq_int_panel){{at, planes == 2 ? at + plane : NULL}, scale,
                                  {sum, planes == 2 ? sum + DEQ_PANEL : NULL}};
}

/* Bytes of a prepared row. */
static inline size_t deq_int_operand_bytes(size_t k)
{
    return DEQ_OPERAND_HEAD + 2 * deq_int_depth(k);
}

/* The same of a model of that class: what a cell reserves. */
static inline size_t deq_class_operand_bytes(enum deq_class c, size_t k)
{
    return c == DEQ_CLASS_FLOAT32 ? 0 : deq_int_operand_bytes(k);
}

#endif
