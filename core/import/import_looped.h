/* Both halves of the looped models' import: import_looped.c reads configurations, import_looped_weights.c entries. */
#ifndef DEQ_IMPORT_LOOPED_H
#define DEQ_IMPORT_LOOPED_H

#include "core/cell/looped.h"
#include "core/import/source.h"

/* A configuration that ties both ends may come with the head's matrix too: then it must hold the same numbers. */
enum deq_rc deq_import_looped_ties(struct deq_import_job *j);
enum deq_rc deq_import_looped_weights(struct deq_import_job *j);

#endif
