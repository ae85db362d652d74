/* Wake-ups that happen together. Who has news for many sleepers gathers them and wakes them once all is said: woken one
 * by one, a thread that serves many of them would run for the first, and sleep again before the second is told. A list
 * on the stack of who gathers; its end is outside of all locks, and sleepers sleep until then. */
#ifndef DEQ_SERVER_WAKEUPS_H
#define DEQ_SERVER_WAKEUPS_H

#include <stddef.h>

struct wakeup { /* in the sleeper; in one list at a time */
    struct wakeup *next;
};

struct wakeups { /* zeroed: none */
    struct wakeup *first;
    void (*wake)(struct wakeup *first); /* all of a list; the same function for all of it */
};

static inline void wakeups_add(struct wakeups *w, struct wakeup *one, void (*wake)(struct wakeup *first))
{
    one->next = w->first;
    w->first = one;
    w->wake = wake;
}

static inline void wakeups_end(struct wakeups *w)
{
    if (w->first)
        w->wake(w->first);
    w->first = NULL;
}

#endif
