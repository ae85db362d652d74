/* Requests with large bodies, which a thread of their own reads and hands to the router, one after the other: hundreds
 * of connections wait for each of libmicrohttpd's threads. Nobody waits for it: a connection that ends meanwhile leaves
 * its request behind, and the worker frees it.
 *
 * Lock order: channel, then work_lock. */
#define _GNU_SOURCE
#include <string.h>

#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/mem.h"
#include "server/net/http_impl.h"
#include "server/patience.h"

enum { LARGE_BODIES_MAX = 64 };

void http_state_free(struct request_state *s)
{
    deq_buf_free(&s->x.body);
    deq_buf_free(&s->x.reply);
    channel_unref(s->x.channel); /* last: it has their allowance */
    deq_free(s->words);
    deq_free(s);
}

/* The handler, on whichever thread. */
void http_handle(struct request_state *s)
{
    struct channel *c = s->x.channel;
    static _Thread_local struct patience patience;
    s->http->handler.handle(s->http->handler.ctx, &s->x);
    patience_after(&patience, s->x.status == 429, deq_now_ns());
    deq_buf_free(&s->x.body); /* what is to be known of it is in the request's struct now */
    pthread_mutex_lock(&c->lock);
    c->dispatched = true;
    pthread_mutex_unlock(&c->lock);
}

/* Reads and hands over one large body after the other. */
static void *worker_main(void *arg)
{
    struct http *h = arg;
    for (;;) {
        pthread_mutex_lock(&h->work_lock);
        while (!h->work && !h->worker_stop)
            pthread_cond_wait(&h->work_there, &h->work_lock);
        struct request_state *s = h->work;
        if (!s) {
            pthread_mutex_unlock(&h->work_lock);
            return NULL;
        }
        h->work = s->next;
        if (!h->work)
            h->work_end = &h->work;
        pthread_mutex_unlock(&h->work_lock);
        struct channel *c = s->x.channel;
        channel_ref(c);
        pthread_mutex_lock(&c->lock);
        const bool gone = c->gone;
        pthread_mutex_unlock(&c->lock);
        if (!gone) /* else nobody waits for it; also when the server ends and hung up on everybody */
            http_handle(s);
        pthread_mutex_lock(&c->lock);
        pthread_mutex_lock(&h->work_lock);
        const bool orphan = s->orphan;
        s->working = false; /* from here on s may go */
        h->n_work--;
        pthread_mutex_unlock(&h->work_lock);
        struct wakeups w = {0};
        channel_wake(c, &w);
        pthread_mutex_unlock(&c->lock);
        wakeups_end(&w);
        channel_unref(c);
        if (orphan)
            http_state_free(s);
    }
}

/* The connection's buffer goes with the connection, which does not wait for the worker. */
static bool keep_words(struct request_state *s)
{
    const size_t n_method = strlen(s->x.method) + 1, n_path = strlen(s->x.path) + 1;
    s->words = deq_alloc(n_method + n_path);
    if (!s->words)
        return false;
    memcpy(s->words, s->x.method, n_method);
    memcpy(s->words + n_method, s->x.path, n_path);
    s->x.method = s->words;
    s->x.path = s->words + n_method;
    return true;
}

enum large_body http_body_hand_over(struct request_state *s)
{
    struct http *h = s->http;
    struct channel *c = s->x.channel;
    enum large_body verdict = LARGE_TAKEN;
    if (!keep_words(s))
        return LARGE_NO_MEMORY;
    pthread_mutex_lock(&c->lock);
    pthread_mutex_lock(&h->work_lock);
    if (c->gone) {
        verdict = LARGE_GONE;
    } else if (h->n_work >= LARGE_BODIES_MAX) {
        verdict = LARGE_TOO_MANY;
    } else {
        h->n_work++;
        s->working = true;
        *h->work_end = s;
        h->work_end = &s->next;
        pthread_cond_signal(&h->work_there);
        http_sleep(s);
    }
    pthread_mutex_unlock(&h->work_lock);
    pthread_mutex_unlock(&c->lock);
    return verdict;
}

bool http_body_working(struct request_state *s)
{
    pthread_mutex_lock(&s->http->work_lock);
    const bool working = s->working;
    pthread_mutex_unlock(&s->http->work_lock);
    return working;
}

bool http_body_leave(struct request_state *s)
{
    pthread_mutex_lock(&s->http->work_lock);
    const bool orphan = s->orphan = s->working;
    pthread_mutex_unlock(&s->http->work_lock);
    return orphan;
}

bool http_body_start(struct http *h)
{
    pthread_mutex_init(&h->work_lock, NULL);
    pthread_cond_init(&h->work_there, NULL);
    h->work_end = &h->work;
    h->worker_started = DEQ_THREAD(pthread_create(&h->worker, NULL, worker_main, h)) == 0;
    if (h->worker_started)
        (void)pthread_setname_np(h->worker, "bodies");
    return h->worker_started;
}

void http_body_stop(struct http *h)
{
    if (h->worker_started) {
        pthread_mutex_lock(&h->work_lock);
        h->worker_stop = true;
        pthread_cond_signal(&h->work_there);
        pthread_mutex_unlock(&h->work_lock);
        pthread_join(h->worker, NULL);
    }
    pthread_mutex_destroy(&h->work_lock);
    pthread_cond_destroy(&h->work_there);
}
