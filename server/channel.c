#include "server/channel.h"

#include <string.h>

#include "core/base/clock.h"
#include "core/base/mem.h"

enum { SLACK_BYTES = 4 << 20 }; /* the events of one step of the engine, after the limit was passed */

struct channel *channel_new(void *conn, void (*resume)(void *conn), size_t max_bytes, size_t stream_limit)
{
    struct channel *c = DEQ_NEW(struct channel);
    if (!c)
        return NULL;
    pthread_mutex_init(&c->lock, NULL);
    deq_buf_init(&c->bytes, max_bytes);
    c->conn = conn;
    c->resume = resume;
    c->limit = stream_limit;
    c->slack = SLACK_BYTES;
    c->refs = 1;
    c->last_write_ns = c->last_read_ns = deq_now_ns();
    return c;
}

void channel_ref(struct channel *c)
{
    pthread_mutex_lock(&c->lock);
    c->refs++;
    pthread_mutex_unlock(&c->lock);
}

void channel_unref(struct channel *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    const bool last = --c->refs == 0;
    pthread_mutex_unlock(&c->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&c->lock);
    deq_buf_free(&c->bytes);
    deq_free(c);
}

void channel_wake(struct channel *c)
{
    if (c->suspended && c->conn) {
        c->suspended = false;
        c->resume(c->conn);
    }
}

/* with the lock */
static void now_gone(struct channel *c)
{
    if (!c->gone && c->on.gone)
        c->on.gone(c->on.ctx);
    c->gone = c->failed = true;
}

/* with the lock */
static void pace(struct channel *c, bool pause)
{
    if (c->paused == pause)
        return;
    c->paused = pause;
    if (c->on.pace)
        c->on.pace(c->on.ctx, pause);
}

bool channel_write(struct channel *c, const void *bytes, size_t n)
{
    pthread_mutex_lock(&c->lock);
    bool ok = !c->gone && !c->done && c->conn;
    if (ok) {
        const uint64_t now = deq_now_ns();
        if (!c->bytes.len)
            c->last_read_ns = now; /* the reader had taken everything: its time starts now */
        ok = deq_buf_add(&c->bytes, bytes, n);
        c->last_write_ns = now;
        if (!ok)
            now_gone(c);
        else if (c->streaming && c->bytes.len > c->limit)
            pace(c, true);
        channel_wake(c);
    }
    pthread_mutex_unlock(&c->lock);
    return ok;
}

void channel_start_stream(struct channel *c)
{
    pthread_mutex_lock(&c->lock);
    if (!c->streaming && !c->done && !c->settled) {
        c->bytes.max = c->limit + c->slack;
        c->streaming = true;
        c->status = 200;
        c->content_type = "text/event-stream; charset=utf-8";
        c->last_write_ns = deq_now_ns();
        channel_wake(c);
    }
    pthread_mutex_unlock(&c->lock);
}

bool channel_streaming(struct channel *c)
{
    pthread_mutex_lock(&c->lock);
    const bool streaming = c->streaming;
    pthread_mutex_unlock(&c->lock);
    return streaming;
}

bool channel_settle(struct channel *c)
{
    pthread_mutex_lock(&c->lock);
    c->settled = true;
    const bool streaming = c->streaming;
    pthread_mutex_unlock(&c->lock);
    return streaming;
}

void channel_retry_after(struct channel *c, unsigned ms)
{
    pthread_mutex_lock(&c->lock);
    c->retry_after_ms = ms;
    pthread_mutex_unlock(&c->lock);
}

void channel_no_retry(struct channel *c)
{
    pthread_mutex_lock(&c->lock);
    c->no_retry = true;
    pthread_mutex_unlock(&c->lock);
}

void channel_listen(struct channel *c, struct channel_events on)
{
    pthread_mutex_lock(&c->lock);
    c->on = on;
    if (c->gone && on.gone) /* it left before anybody listened */
        on.gone(on.ctx);
    pthread_mutex_unlock(&c->lock);
}

void channel_finish(struct channel *c, int status, const char *content_type, bool failed)
{
    pthread_mutex_lock(&c->lock);
    c->done = true;
    c->failed = c->failed || failed;
    if (!c->streaming) {
        c->status = status;
        c->content_type = content_type;
    }
    channel_wake(c);
    pthread_mutex_unlock(&c->lock);
}

void channel_hang_up(struct channel *c)
{
    pthread_mutex_lock(&c->lock);
    now_gone(c);
    channel_wake(c);
    pthread_mutex_unlock(&c->lock);
}

size_t channel_take(struct channel *c, char *out, size_t max)
{
    const size_t n = DEQ_MIN(c->bytes.len, max);
    if (!n)
        return 0;
    memcpy(out, c->bytes.data, n);
    deq_buf_drop_front(&c->bytes, n);
    c->last_read_ns = deq_now_ns();
    if (c->bytes.len <= c->limit / 2)
        pace(c, false);
    return n;
}
