/* Documents that the validation text shares with the training text: what was seen in training says nothing of what was
 * learned.
 *
 * Lines stand for paragraphs, and one of fewer than DEQ_OVERLAP_LINE_MIN bytes proves nothing ("The end.", a title).
 * A document is shared when half of its bytes in longer lines, or more, also stand in the training text, line for
 * line. */
#ifndef DEQ_TRAIN_OVERLAP_H
#define DEQ_TRAIN_OVERLAP_H

#include "core/base/base.h"
#include "core/base/err.h"

enum { DEQ_OVERLAP_LINE_MIN = 40 };

struct deq_overlap {
    size_t documents, shared; /* those with long lines; of them those that are shared */
    size_t line;              /* where the first shared one begins, from 1 */
};

/* valid: one file; train: '\n'-separated; both below dir. */
enum deq_rc deq_overlap_find(const char *dir, const char *valid, const char *train, struct deq_overlap *ret,
                             struct deq_err *err);

#endif
