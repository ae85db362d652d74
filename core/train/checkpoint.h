/* Checkpoints: weights, AdamW's moments, the place in the run and its recipe, in one safetensors file that is replaced
 * atomically.
 * Everything random in a run is a function of (seed, step), so this is all that an exact continuation needs. */
#ifndef DEQ_TRAIN_CHECKPOINT_H
#define DEQ_TRAIN_CHECKPOINT_H

#include "core/data/weights.h"

/* Counts stay below 2^53, so that every reader of JSON has them exactly. */
struct deq_progress {
    uint64_t step;      /* optimiser steps done */
    uint64_t tokens;    /* tokens trained on */
    double seconds;     /* machine time of training so far */
    double cpu_seconds; /* and the time of all its threads */
    uint64_t skipped;   /* of the steps, those left out because something was not finite */
};

/* w, m, v: the same layout. recipe: its text, or NULL. DEQ_ENUMERIC: something is not finite; the file stays as it
 * was. */
enum deq_rc deq_checkpoint_save(const char *path, const struct deq_weights *w, const float *m, const float *v,
                                const struct deq_progress *p, const char *recipe, struct deq_err *err);
/* Fills w, m, v; every tensor must fit, and every number of the metadata be one that a run can have written. */
enum deq_rc deq_checkpoint_load(const char *path, struct deq_weights *w, float *m, float *v, struct deq_progress *ret,
                                struct deq_err *err);

/* The text of the recipe, the caller's, deq_free; NULL: the checkpoint has none. */
enum deq_rc deq_checkpoint_recipe(const char *path, char **ret, struct deq_err *err);

#endif
