/* The way of a response: pacing of slow readers, who is told what, and when. */
#include "server/net/channel.h"

#include "core/base/clock.h"

#include "tests/unit/test.h"

struct heard {
    int gone, paused, resumed, woken;
    struct wakeup wakeup;
};

static void on_gone(void *ctx)
{
    ((struct heard *)ctx)->gone++;
}

static void on_pace(void *ctx, bool pause)
{
    struct heard *h = ctx;
    h->paused += pause;
    h->resumed += !pause;
}

static void wake_all(struct wakeup *first)
{
    for (struct wakeup *w = first; w; w = w->next)
        ((struct heard *)((char *)w - offsetof(struct heard, wakeup)))->woken++;
}

static void on_wake(void *conn, struct wakeups *w)
{
    wakeups_add(w, &((struct heard *)conn)->wakeup, wake_all);
}

static bool put(struct channel *c, const char *text, size_t n)
{
    struct deq_buf b;
    deq_buf_init(&b, 1 << 20);
    deq_buf_add(&b, text, n);
    const bool ok = channel_write(c, &b);
    deq_buf_free(&b);
    return ok;
}

static size_t take(struct channel *c, size_t max)
{
    char out[4096];
    pthread_mutex_lock(&c->lock);
    const size_t n = channel_take(c, out, max);
    pthread_mutex_unlock(&c->lock);
    return n;
}

TEST(channel_paces_a_slow_reader)
{
    struct heard h = {0};
    struct channel *c = channel_new(&h, on_wake, 1000, NULL, 0);
    char text[300];
    memset(text, 'x', sizeof text);
    channel_listen(c, (struct channel_events){on_gone, on_pace, &h});
    channel_start_stream(c);
    CHECK(channel_streaming(c));
    for (int i = 0; i < 3; i++)
        CHECK(put(c, text, 300));
    CHECK(h.paused == 0);
    CHECK(put(c, text, 300) && h.paused == 1); /* 1,200 unread bytes of 1,000 */
    CHECK(put(c, text, 300) && h.paused == 1); /* what comes until the producer pauses still fits; told once */
    CHECK(take(c, 600) == 600 && h.resumed == 0);
    CHECK(take(c, 500) == 500 && h.resumed == 1);        /* half of the limit is read */
    CHECK(take(c, 4096) == 400 && h.resumed == 1 && take(c, 10) == 0 && h.gone == 0);
    c->suspended = true;
    CHECK(put(c, "y", 1) && h.woken == 1 && !c->suspended);
    channel_hang_up(c);
    channel_hang_up(c);
    CHECK(h.gone == 1 && !put(c, "z", 1));
    struct heard late = {0};
    channel_listen(c, (struct channel_events){on_gone, on_pace, &late});
    CHECK(late.gone == 1); /* it left before anybody listened */
    channel_unref(c);
    channel_unref(NULL);
}

/* Bytes come out as they went in, however they are cut, and what lies there is moved a few times only. */
TEST(channel_keeps_the_order_of_bytes)
{
    struct heard h = {0};
    struct channel *c = channel_new(&h, on_wake, 1000, NULL, 0);
    unsigned char out[700], next_in = 0, next_out = 0;
    bool same = true;
    channel_start_stream(c);
    for (unsigned i = 0; i < 3000; i++) {
        char text[600];
        const size_t n = i * 7919 % sizeof text, m = 1 + i * 104729 % sizeof out;
        for (size_t k = 0; k < n; k++)
            text[k] = (char)next_in++;
        CHECK(put(c, text, n));
        const size_t got = channel_take(c, (char *)out, m);
        for (size_t k = 0; k < got; k++)
            same = same && out[k] == next_out++;
    }
    for (size_t got; (got = channel_take(c, (char *)out, sizeof out));)
        for (size_t k = 0; k < got; k++)
            same = same && out[k] == next_out++;
    CHECK(same && next_out == next_in && !c->bytes.len);
    channel_unref(c);
}

/* A whole answer counts against the budget until its channel is gone, and is not copied on its way. */
TEST(channel_holds_a_whole_answer)
{
    struct heard h = {0};
    struct deq_budget budget;
    struct deq_buf b;
    deq_budget_init(&budget, 1 << 20);
    struct channel *c = channel_new(&h, on_wake, 10, &budget, 1);
    b = (struct deq_buf){.max = 1 << 20, .allowance = &c->allowance};
    for (unsigned i = 0; i < 30000; i++)
        deq_buf_fmt(&b, "%c", 'a' + (int)(i % 26));
    const char *const data = b.data;
    CHECK(deq_budget_used(&budget) == b.cap && b.cap > 30000);
    channel_give(c, &b);
    channel_finish(c, 200, "text/plain", false);
    CHECK(c->bytes.data == data && !b.data && c->status == 200 && deq_budget_used(&budget) == c->bytes.cap &&
          h.paused == 0);
    char out[20000];
    CHECK(channel_read(c, 0, out, sizeof out) == 20000 && channel_read(c, 20000, out, sizeof out) == 10000 &&
          out[0] == 'a' + 20000 % 26);
    channel_unref(c);
    CHECK(deq_budget_used(&budget) == 0);
    pthread_mutex_destroy(&budget.lock);
}

/* A stream that finds no memory keeps what it had, says so, and still has its last words. */
TEST(channel_without_memory)
{
    struct heard h = {0};
    struct deq_budget budget;
    struct deq_buf failed = {.failed = true};
    char text[600] = {0}, out[600];
    deq_budget_init(&budget, 1500);
    struct channel *c = channel_new(&h, on_wake, 4000, &budget, 1);
    channel_start_stream(c);
    CHECK(put(c, text, 600) && !channel_starved(c));
    CHECK(!put(c, text, 600) && channel_starved(c) && h.gone == 0 && c->bytes.len == 600);
    channel_last_words(c, "no memory");
    channel_finish(c, 503, NULL, false);
    CHECK(channel_take(c, out, 600) == 600 && channel_take(c, out, 4) == 4 && channel_take(c, out, 600) == 5 &&
          !memcmp(out, "emory", 5));
    CHECK(channel_take(c, out, 600) == 0);
    channel_unref(c);
    c = channel_new(&h, on_wake, 4000, NULL, 1);
    channel_start_stream(c);
    CHECK(!channel_write(c, &failed) && channel_starved(c));
    channel_unref(c);
    pthread_mutex_destroy(&budget.lock);
}

/* A least rate over a window in which there always was something to take; and silence. */
TEST(channel_knows_slow_readers)
{
    struct heard h = {0};
    struct channel *c = channel_new(&h, on_wake, 1 << 20, NULL, 0);
    char text[4000] = {0};
    const uint64_t second = 1000000000;
    channel_start_stream(c);
    CHECK(!channel_slow(c, deq_now_ns() + 100 * second, 2000, 100)); /* nothing to read */
    for (int i = 0; i < 3; i++)
        CHECK(put(c, text, sizeof text));
    const uint64_t t = c->window_ns;
    CHECK(!channel_slow(c, t + 2 * second, 2000, 100));
    CHECK(channel_slow(c, t + 2 * second + 1, 2000, 100)); /* took nothing */
    CHECK(take(c, 199) == 199);
    c->window_ns = t;
    c->last_read_ns = t + second;
    CHECK(channel_slow(c, t + 2 * second + 1, 2000, 100)); /* 199 bytes in two seconds */
    c->window_ns = t;
    c->window_bytes = 199;
    CHECK(take(c, 1) == 1);
    c->last_read_ns = t + second;
    CHECK(!channel_slow(c, t + 2 * second + 1, 2000, 100) && c->window_bytes == 0);
    c->last_read_ns = t + 4 * second;
    CHECK(channel_slow(c, t + 4 * second + 2, 2000, 100)); /* the next window, without any */
    while (take(c, 4096))
        ;
    CHECK(!channel_slow(c, t + 100 * second, 2000, 100));
    /* its time starts now */
    CHECK(put(c, text, 10) && c->window_ns > t && !channel_slow(c, c->window_ns + second, 2000, 100));
    channel_unref(c);
}

/* Writes as many bytes as it was asked for, once, and then the end. */
struct writer {
    struct channel *c;
    size_t bytes;
    int rendered, dropped;
};

static void on_render(void *ctx)
{
    struct writer *w = ctx;
    char text[600] = {0};
    w->rendered++;
    if (w->bytes)
        CHECK(put(w->c, text, w->bytes));
    else
        channel_finish(w->c, 200, NULL, false);
}

static void on_drop(void *ctx)
{
    ((struct writer *)ctx)->dropped++;
}

/* News counts as unread before it is rendered, which is when the reader comes. */
TEST(channel_renders_when_it_is_read)
{
    struct heard h = {0};
    struct channel *c = channel_new(&h, on_wake, 500, NULL, 0);
    struct writer w = {.c = c, .bytes = 550};
    channel_listen(c, (struct channel_events){on_gone, on_pace, &h});
    channel_set_source(c, (struct channel_source){on_render, on_drop, &w});
    channel_start_stream(c);
    CHECK(!channel_render(c) && w.rendered == 0);
    c->suspended = true;
    CHECK(channel_news(c, 400, NULL) && h.woken == 1 && h.paused == 0 && w.rendered == 0);
    CHECK(channel_news(c, 101, NULL) && h.paused == 1);
    CHECK(channel_slow(c, c->last_read_ns + 3000000000, 2000, 1)); /* nobody came for it */
    CHECK(take(c, 600) == 0); /* no bytes yet */
    pthread_mutex_lock(&c->lock);
    CHECK(channel_render(c) && w.rendered == 1 && h.resumed == 0 && !channel_render(c));
    pthread_mutex_unlock(&c->lock);
    CHECK(take(c, 600) == 550 && h.resumed == 1);
    w.bytes = 0;
    CHECK(channel_news(c, 0, NULL)); /* something all the same */
    pthread_mutex_lock(&c->lock);
    CHECK(channel_render(c) && c->done && w.rendered == 2);
    pthread_mutex_unlock(&c->lock);
    CHECK(!channel_news(c, 1, NULL) && w.dropped == 0);
    channel_disconnect(c);
    CHECK(w.dropped == 1 && h.gone == 1);
    channel_set_source(c, (struct channel_source){on_render, on_drop, &w}); /* too late: it is let go at once */
    CHECK(w.dropped == 2 && !channel_news(c, 1, NULL));
    channel_unref(c);
    CHECK(w.dropped == 2);
}

/* Whoever has news for several readers wakes them once all is said, each once. */
TEST(channel_readers_are_woken_together)
{
    enum { READERS = 3 };
    struct heard h[READERS] = {0};
    struct channel *c[READERS];
    struct wakeups together = {0};
    for (int i = 0; i < READERS; i++) {
        c[i] = channel_new(&h[i], on_wake, 500, NULL, 0);
        channel_start_stream(c[i]);
        c[i]->suspended = i < 2; /* the last one is awake */
        CHECK(channel_news(c[i], 1, &together) && channel_news(c[i], 1, &together));
        CHECK(!h[0].woken && !c[i]->suspended);
    }
    channel_hang_up(c[0]); /* it is woken already */
    wakeups_end(&together);
    wakeups_end(&together);
    CHECK(h[0].woken == 1 && h[1].woken == 1 && h[2].woken == 0);
    for (int i = 0; i < READERS; i++) {
        channel_disconnect(c[i]);
        channel_unref(c[i]);
    }
}
