/* What is measured: a model directory, or a shape (shape.h), for which one is made that is gone again when it is
 * closed. It is held once, since it may take gigabytes: as weights alone or as a model of the library, whichever is
 * asked for. */
#ifndef DEQ_MODELS_CLI_BENCH_SUBJECT_H
#define DEQ_MODELS_CLI_BENCH_SUBJECT_H

#include "core/cell/kind.h"
#include "core/deq.h"

struct bench_subject {
    const char *name;         /* as it was asked for */
    char dir[4096];           /* the model directory */
    bool shape;               /* whose dir is removed at the end */
    struct deq_arch *arch;    /* in the class that was asked for */
    uint64_t parameters;
    struct deq_weights *weights; /* packed; NULL: bench_subject_weights was not the last call */
    struct deq_model *model;     /* the same of bench_subject_model */
};

/* Whether there is a shape or a directory of that name: before anything takes time. */
enum deq_rc bench_subject_find(const char *name, struct deq_err *err);
enum { BENCH_CLASS_OWN = DEQ_CLASS_COUNT };
/* numeric: enum deq_class, or BENCH_CLASS_OWN. Nothing is loaded yet. */
enum deq_rc bench_subject_open(const char *name, int numeric, struct bench_subject *ret, struct deq_err *err);
enum deq_rc bench_subject_weights(struct bench_subject *s, struct deq_err *err);
enum deq_rc bench_subject_model(struct bench_subject *s, struct deq_err *err);
void bench_subject_close(struct bench_subject *s);

const char *bench_format_name(enum deq_format f);

#endif
