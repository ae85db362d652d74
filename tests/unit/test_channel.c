/* The way of a response: pacing of slow readers, who is told what, and when. */
#include "server/channel.h"

#include "tests/unit/test.h"

struct heard {
    int gone, paused, resumed, woken;
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

static void on_wake(void *conn)
{
    ((struct heard *)conn)->woken++;
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
    struct channel *c = channel_new(&h, on_wake, 1 << 20, 1000);
    char text[300];
    memset(text, 'x', sizeof text);
    channel_listen(c, (struct channel_events){on_gone, on_pace, &h});
    channel_start_stream(c);
    CHECK(channel_streaming(c));
    for (int i = 0; i < 3; i++)
        CHECK(channel_write(c, text, 300));
    CHECK(h.paused == 0);
    CHECK(channel_write(c, text, 300) && h.paused == 1); /* 1,200 unread bytes of 1,000 */
    CHECK(channel_write(c, text, 300) && h.paused == 1); /* what comes until the producer pauses still fits; told once */
    CHECK(take(c, 600) == 600 && h.resumed == 0);
    CHECK(take(c, 500) == 500 && h.resumed == 1);        /* half of the limit is read */
    CHECK(take(c, 4096) == 400 && h.resumed == 1 && take(c, 10) == 0 && h.gone == 0);
    c->suspended = true;
    CHECK(channel_write(c, "y", 1) && h.woken == 1 && !c->suspended);
    channel_hang_up(c);
    channel_hang_up(c);
    CHECK(h.gone == 1 && !channel_write(c, "z", 1));
    struct heard late = {0};
    channel_listen(c, (struct channel_events){on_gone, on_pace, &late});
    CHECK(late.gone == 1); /* it left before anybody listened */
    channel_unref(c);
    channel_unref(NULL);
}

TEST(channel_that_is_not_a_stream_takes_its_maximum)
{
    struct heard h = {0};
    struct channel *c = channel_new(&h, on_wake, 100, 10);
    char text[101] = {0};
    channel_listen(c, (struct channel_events){on_gone, on_pace, &h});
    CHECK(channel_write(c, text, 100) && h.paused == 0); /* the limit is for streams */
    CHECK(!channel_write(c, text, 1) && h.gone == 1);
    channel_finish(c, 200, "application/json", false);
    CHECK(c->done && c->failed && c->status == 200);
    channel_ref(c);
    channel_unref(c);
    channel_unref(c);
}
