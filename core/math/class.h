/* Numeric classes: what the products of a model are computed in. A class is part of what a model computes: its bits are
 * the same at every CPU level, in any batch, on any number of threads; between classes they differ (format.h says how).
 */
#ifndef DEQ_MATH_CLASS_H
#define DEQ_MATH_CLASS_H

enum deq_class {
    DEQ_CLASS_FLOAT32, /* weights as their file has them, float32 or bf16; sums in float32 */
    DEQ_CLASS_INT16,   /* weights and activations in 16 bits: as good as float32 for every purpose */
    DEQ_CLASS_INT8,    /* weights inside the cell and the predictor in 8 bits, both ends and activations in 16 */
    DEQ_CLASS_COUNT
};
#define DEQ_CLASS_CHOICES "float32|int16|int8" /* in that order */

const char *deq_class_name(enum deq_class c);

#endif
