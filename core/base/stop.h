/* What takes long asks whether it is still wanted. */
#ifndef DEQ_BASE_STOP_H
#define DEQ_BASE_STOP_H

#include <stdbool.h>

/* asked(ctx) is called now and then by the thread that works; true: given up, by DEQ_ECANCELED. asked NULL: never. */
struct deq_stop {
    bool (*asked)(void *ctx);
    void *ctx;
};

#endif
