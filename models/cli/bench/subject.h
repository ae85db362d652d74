/* What is measured: a model directory, or a shape, for which one is made with seeded random weights and is gone again
 * when it is closed.
 *
 *     S  2.1 M parameters   D 256, 8 heads of 32, F 1024, V 4,096
 *     M  7.9 M              D 512, 8 heads of 64, F 2048, V 8,192
 *     W  97.8 M             D 700, 10 heads of 70, F 48,000, V 267,735 in four clusters: the paper's on WikiText-103
 *
 * All are of locuslab/deq's form (post-norm, one block), see 2,048 positions, and are solved to 1e-3 as their authors
 * do; the weights are so small that the equilibrium is reached in about ten evaluations. */
#ifndef DEQ_MODELS_CLI_BENCH_SUBJECT_H
#define DEQ_MODELS_CLI_BENCH_SUBJECT_H

#include "core/cell/kind.h"

struct bench_subject {
    const char *name;         /* as it was asked for */
    char dir[4096];           /* the model directory */
    bool shape;               /* whose dir is removed at the end */
    struct deq_arch *arch;    /* in the class that was asked for */
    struct deq_weights *weights; /* packed */
};

/* Whether there is a shape or a directory of that name: before anything takes time. */
enum deq_rc bench_subject_find(const char *name, struct deq_err *err);
enum { BENCH_CLASS_OWN = DEQ_CLASS_COUNT };
/* numeric: enum deq_class, or BENCH_CLASS_OWN. */
enum deq_rc bench_subject_open(const char *name, int numeric, struct bench_subject *ret, struct deq_err *err);
void bench_subject_close(struct bench_subject *s);

const char *bench_format_name(enum deq_format f);

#endif
