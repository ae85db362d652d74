/* What a request may be told of the rows behind its text (deq_request.want_trace): when each entered the window, how it
 * left, and the residual after each of its evaluations. Of rows that pick tokens, from the prompt's last position on.
 *
 * Steps are the sequence's own: 1 is the first in which a position of the prompt's last block takes part, whether the
 * blocks before were solved or came from the prefix cache, and steps in which the sequence waited for others do not
 * count. So a trace is a function of the request alone, as its text is. A row is evaluated in every step from the one
 * it enters in to the one that it leaves at: left - entered + 1 evaluations. */
#ifndef DEQ_ENGINE_TRACE_H
#define DEQ_ENGINE_TRACE_H

#include <stdbool.h>
#include <stdint.h>

enum { DEQ_TRACE_RESIDUALS = 256 }; /* of a row with more evaluations: the first, and in the last place the last */

enum deq_fate {
    DEQ_ROW_COMMITTED,   /* it became final and picked a token */
    DEQ_ROW_MISGUESSED,  /* the token that it stood for, or one before it, is not what is picked: it enters again */
    DEQ_ROW_NOT_FINITE,  /* a row before it, or it itself, became infinite or not a number: it enters again */
    DEQ_ROW_LEFT_OPEN,   /* the text ended */
    DEQ_FATES
};

struct deq_trace {
    enum deq_fate fate;
    uint32_t entered, left; /* the first and the last step that it took part in */
    bool guessed;           /* COMMITTED: the row behind it is in the window already, with the token that it picked */
    const float *residual;  /* [n], oldest first; borrowed until the callback returns */
    uint32_t n;             /* min(evaluations, DEQ_TRACE_RESIDUALS) */
};

#endif
