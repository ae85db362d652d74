/* Connections sleep while there is nothing for them: libmicrohttpd leaves a suspended one alone until it is resumed,
 * which wakes its thread. Those that are woken together are resumed by that thread itself, but for one that is resumed
 * for all of them: so a thread of many connections is woken once, and finds all of them.
 *
 * From its claim (channel_wake) to its resumption a connection is nobody's but the waker's: it stays suspended. */
#include "server/net/http_impl.h"

void http_sleep(struct request_state *s)
{
    s->x.channel->suspended = true;
    MHD_suspend_connection(s->conn);
}

static struct request_state *sleeper_of(struct wakeup *w)
{
    return (struct request_state *)((char *)w - offsetof(struct request_state, wakeup));
}

static void resume_each(struct wakeup *first)
{
    for (struct wakeup *next; first; first = next) {
        next = first->next; /* once resumed it may go */
        MHD_resume_connection(sleeper_of(first)->conn);
    }
}

/* The first of each thread, behind which the others of that thread wait. */
static void wake_threads(struct wakeup *all)
{
    while (all) {
        struct request_state *s = sleeper_of(all);
        struct wakeup **link = &all->next, *others = NULL, **end = &others;
        while (*link) {
            struct wakeup *w = *link;
            if (pthread_equal(sleeper_of(w)->thread, s->thread)) {
                link = &w->next;
                continue;
            }
            *link = w->next;
            w->next = NULL;
            *end = w;
            end = &w->next;
        }
        s->followers = s->wakeup.next;
        all = others;
        MHD_resume_connection(s->conn);
    }
}

void http_wake(void *state, struct wakeups *w)
{
    wakeups_add(w, &((struct request_state *)state)->wakeup, wake_threads);
}

void http_wake_followers(struct request_state *s)
{
    struct wakeup *followers = s->followers;
    s->followers = NULL;
    resume_each(followers);
}
