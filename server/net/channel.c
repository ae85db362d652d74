#include "server/net/channel.h"

#include <stdio.h>
#include <string.h>

#include "core/base/bug.h"
#include "core/base/clock.h"
#include "core/base/mem.h"

enum {
    SLACK_BYTES = 4 << 20,   /* the events of one step of the engine, after the limit was passed */
    WHOLE_MAX_BYTES = 1 << 30,
};

struct channel *channel_new(void *conn, void (*resume)(void *conn, struct wakeups *w), size_t stream_limit,
                            struct deq_budget *budget, uint64_t owner)
{
    struct channel *c = DEQ_NEW(struct channel);
    if (!c)
        return NULL;
    pthread_mutex_init(&c->lock, NULL);
    deq_allowance_open(&c->allowance, budget, owner);
    deq_buf_init(&c->bytes, WHOLE_MAX_BYTES);
    c->bytes.allowance = &c->allowance;
    c->conn = conn;
    c->resume = resume;
    c->limit = stream_limit;
    c->slack = SLACK_BYTES;
    c->refs = 1;
    c->last_write_ns = c->last_read_ns = c->window_ns = deq_now_ns();
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
    DEQ_BUG_ON(!c->refs);
    const bool last = --c->refs == 0;
    pthread_mutex_unlock(&c->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&c->lock);
    deq_buf_free(&c->bytes);
    deq_allowance_close(&c->allowance);
    deq_free(c);
}

void channel_wake(struct channel *c, struct wakeups *w)
{
    if (c->suspended && c->conn) {
        c->suspended = false;
        c->resume(c->conn, w);
    }
}

/* What was said with the lock held is told without it: the connection takes it at once. */
static void unlock_and_wake(struct channel *c, struct wakeups *w)
{
    pthread_mutex_unlock(&c->lock);
    wakeups_end(w);
}

/* Caller holds c->lock. */
static void now_gone(struct channel *c)
{
    if (!c->gone && c->on.gone)
        c->on.gone(c->on.ctx);
    c->gone = c->failed = true;
}

/* Caller holds c->lock. */
static void pace(struct channel *c, bool pause)
{
    if (c->paused == pause)
        return;
    c->paused = pause;
    if (c->on.pace)
        c->on.pace(c->on.ctx, pause);
}

/* Of a stream: bytes that wait for the socket. Caller holds c->lock. */
static size_t written(const struct channel *c)
{
    if (DEQ_BUG_ON(c->sent > c->bytes.len))
        return 0;
    return c->bytes.len - c->sent;
}

/* And those that wait to be written. Caller holds c->lock. */
static size_t unread(const struct channel *c)
{
    return written(c) + c->unrendered;
}

/* Whether there is a reader for more; if it had taken everything, its time starts now. Caller holds c->lock. */
static bool begin_more(struct channel *c, uint64_t now)
{
    if (c->gone || c->done || !c->conn)
        return false;
    if (!unread(c)) {
        c->window_ns = c->last_read_ns = now;
        c->window_bytes = 0;
    }
    return true;
}

/* Caller holds c->lock. */
static void end_more(struct channel *c, uint64_t now, struct wakeups *w)
{
    c->last_write_ns = now;
    if (c->streaming && unread(c) > c->limit)
        pace(c, true);
    channel_wake(c, w);
}

/* Caller holds c->lock. */
static bool append(struct channel *c, const char *bytes, size_t n, struct wakeups *w)
{
    const uint64_t now = deq_now_ns();
    if (!begin_more(c, now) || !deq_buf_try(&c->bytes, bytes, n))
        return false;
    end_more(c, now, w);
    return true;
}

static void drop(const struct channel_source *source)
{
    if (source->drop)
        source->drop(source->ctx);
}

void channel_set_source(struct channel *c, struct channel_source source)
{
    pthread_mutex_lock(&c->lock);
    const struct channel_source before = c->conn ? c->source : source;
    if (c->conn)
        c->source = source;
    pthread_mutex_unlock(&c->lock);
    drop(&before);
}

bool channel_news(struct channel *c, size_t bytes, struct wakeups *w)
{
    struct wakeups alone = {0};
    const uint64_t now = deq_now_ns();
    pthread_mutex_lock(&c->lock);
    const bool ok = begin_more(c, now);
    if (ok) {
        c->news = true;
        c->unrendered += DEQ_MAX(bytes, (size_t)1);
        end_more(c, now, w ? w : &alone);
    }
    unlock_and_wake(c, &alone);
    return ok;
}

bool channel_render(struct channel *c)
{
    if (!c->news || !c->source.render)
        return false;
    const struct channel_source source = c->source;
    c->news = false;
    c->unrendered = 0;
    pthread_mutex_unlock(&c->lock);
    source.render(source.ctx);
    pthread_mutex_lock(&c->lock);
    if (unread(c) <= c->limit / 2)
        pace(c, false);
    return true;
}

void channel_disconnect(struct channel *c)
{
    struct wakeups w = {0};
    pthread_mutex_lock(&c->lock);
    const struct channel_source source = c->source;
    now_gone(c);
    channel_wake(c, &w);
    c->conn = NULL;
    c->source = (struct channel_source){0};
    unlock_and_wake(c, &w);
    drop(&source);
}

bool channel_write(struct channel *c, const struct deq_buf *bytes)
{
    struct wakeups w = {0};
    pthread_mutex_lock(&c->lock);
    const bool ok = !bytes->failed && append(c, bytes->data, bytes->len, &w);
    c->starved = c->starved || (!ok && !c->gone);
    unlock_and_wake(c, &w);
    return ok;
}

void channel_ping(struct channel *c)
{
    struct wakeups w = {0};
    pthread_mutex_lock(&c->lock);
    (void)append(c, ": ping\n\n", 8, &w);
    unlock_and_wake(c, &w);
}

void channel_give(struct channel *c, struct deq_buf *bytes)
{
    pthread_mutex_lock(&c->lock);
    deq_buf_move(&c->bytes, bytes);
    pthread_mutex_unlock(&c->lock);
}

void channel_last_words(struct channel *c, const char *text)
{
    struct wakeups w = {0};
    pthread_mutex_lock(&c->lock);
    c->last_words = text;
    channel_wake(c, &w);
    unlock_and_wake(c, &w);
}

bool channel_starved(struct channel *c)
{
    pthread_mutex_lock(&c->lock);
    const bool starved = c->starved;
    pthread_mutex_unlock(&c->lock);
    return starved;
}

int channel_status(struct channel *c)
{
    pthread_mutex_lock(&c->lock);
    const int status = c->status;
    pthread_mutex_unlock(&c->lock);
    return status;
}

void channel_start_stream(struct channel *c)
{
    struct wakeups w = {0};
    pthread_mutex_lock(&c->lock);
    if (!c->streaming && !c->done && !c->settled) {
        c->bytes.max = c->limit + c->slack;
        c->streaming = true;
        c->status = 200;
        c->content_type = "text/event-stream; charset=utf-8";
        c->last_write_ns = deq_now_ns();
        channel_wake(c, &w);
    }
    unlock_and_wake(c, &w);
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

void channel_timing(struct channel *c, const char *text)
{
    pthread_mutex_lock(&c->lock);
    snprintf(c->timing, sizeof c->timing, "%s", text);
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
    struct wakeups w = {0};
    pthread_mutex_lock(&c->lock);
    DEQ_BUG_ON(c->done); /* a request ends once */
    c->done = true;
    c->failed = c->failed || failed;
    if (!c->streaming) {
        c->status = status;
        c->content_type = content_type;
    }
    channel_wake(c, &w);
    unlock_and_wake(c, &w);
}

void channel_hang_up(struct channel *c)
{
    struct wakeups w = {0};
    pthread_mutex_lock(&c->lock);
    now_gone(c);
    channel_wake(c, &w);
    unlock_and_wake(c, &w);
}

size_t channel_take(struct channel *c, char *out, size_t max)
{
    if (!written(c) && c->last_words) {
        const size_t n = DEQ_MIN(strlen(c->last_words), max);
        memcpy(out, c->last_words, n);
        c->last_words += n;
        return n;
    }
    const size_t n = DEQ_MIN(written(c), max);
    if (!n)
        return 0;
    memcpy(out, c->bytes.data + c->sent, n);
    c->sent += n;
    c->window_bytes += n;
    c->last_read_ns = deq_now_ns();
    /* the memory of what came in one piece, like a prompt's scores, goes; else each byte is moved once at most */
    if (!written(c) && c->bytes.cap > c->limit + SLACK_BYTES) {
        deq_buf_free(&c->bytes);
        c->sent = 0;
    } else if (2 * c->sent >= c->bytes.len) {
        deq_buf_drop_front(&c->bytes, c->sent);
        c->sent = 0;
    }
    if (unread(c) <= c->limit / 2)
        pace(c, false);
    return n;
}

size_t channel_read(struct channel *c, size_t at, char *out, size_t max)
{
    const size_t n = DEQ_MIN(c->bytes.len - DEQ_MIN(at, c->bytes.len), max);
    memcpy(out, c->bytes.data + at, n);
    c->sent = at + n;
    c->window_bytes += n;
    c->last_read_ns = deq_now_ns();
    return n;
}

bool channel_slow(struct channel *c, uint64_t now_ns, unsigned window_ms, uint64_t bytes_per_s)
{
    const uint64_t window_ns = window_ms * 1000000ull;
    if (!unread(c) || !(c->streaming || c->sending))
        return false;
    if (now_ns - c->last_read_ns > window_ns)
        return true;
    if (now_ns - c->window_ns <= window_ns)
        return false;
    const bool slow = c->window_bytes < bytes_per_s * window_ms / 1000;
    c->window_ns = now_ns;
    c->window_bytes = 0;
    return slow;
}
