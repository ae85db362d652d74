/* The way of a response from the engine to a connection: bytes with a lock around them. Two owners, the connection and
 * the request; the last one to let go frees it. Bytes are appended, and the connection's reader takes them.
 *
 * The engine's thread writes no JSON: it says that there is news, and about how much, and the connection's own thread
 * has its source render that into bytes once it comes to take them (struct channel_source). Both count as unread.
 *
 * A reader that is slower than the engine fills the channel: past `limit` bytes the producer is asked to pause, and to
 * go on once half of them are read. What it writes until it pauses still fits (SLACK). Whoever reads less than a least
 * rate counts as gone, of streams and of whole answers.
 *
 * All bytes of the exchange, its body, what its answer is built from and what is unread of it, count against one
 * allowance of the server's budget, which the channel has to its end. A producer that finds no memory says so
 * (`starved`) and ends the answer by an error; for that there are `last_words`. Callbacks run with the lock held and
 * must only take note: lock order is channel, then scheduler. Connections are woken without it. */
#ifndef DEQ_SERVER_CHANNEL_H
#define DEQ_SERVER_CHANNEL_H

#include <pthread.h>

#include "core/base/buf.h"
#include "server/wakeups.h"

enum { CHANNEL_TIMING_BYTES = 256 };

struct channel_events {
    void (*gone)(void *ctx);             /* the client left; once */
    void (*pace)(void *ctx, bool pause); /* the reader is slow; or has caught up */
    void *ctx;
};

/* Who renders, on the connection's thread and without the channel's lock. */
struct channel_source {
    void (*render)(void *ctx); /* writes what is there by now */
    void (*drop)(void *ctx);   /* it is not called again; once */
    void *ctx;
};

struct channel {
    pthread_mutex_t lock;
    void *conn;                 /* NULL once the connection is done; guarded by lock, like everything below */
    void (*resume)(void *conn, struct wakeups *w); /* puts it among those that are to be woken */
    struct deq_allowance allowance; /* its own lock */
    struct deq_buf bytes;       /* of a stream, not yet handed to the socket; of a whole response, all of it */
    size_t sent;                /* of the bytes, handed to the socket */
    struct channel_source source;
    size_t unrendered;          /* bytes, about, that its source has */
    bool news;                  /* it has something to render */
    const char *last_words;     /* a literal behind them, or what is left of it, or NULL: what needs no memory */
    size_t limit;               /* unread bytes of a stream before its producer pauses */
    size_t slack;               /* more bytes that it may write until it has paused */
    unsigned refs;
    bool suspended;             /* the connection sleeps until there is something for it */
    bool dispatched;            /* the request has been read, or is in work: may_stream is known */
    bool may_stream;            /* the request wants events: when it waits long, the stream may begin with a comment */
    bool streaming;             /* headers are out or may go out: bytes flow as they come */
    bool settled;               /* the form of the answer is decided */
    bool paused;                /* the producer was asked to pause */
    bool done;                  /* nothing more will come */
    bool failed;                /* end the connection without a clean end */
    bool sending;               /* a whole response is on its way, and its reader is watched */
    bool starved;               /* bytes were lost for want of memory */
    bool gone;                  /* the client left or stalled: producers stop */
    bool no_retry;              /* the same request would fail again */
    int status;                 /* of a response that does not stream */
    const char *content_type;
    unsigned retry_after_ms;    /* 0: no such header */
    char timing[CHANNEL_TIMING_BYTES]; /* header Server-Timing, or "" */
    uint64_t last_write_ns, last_read_ns;
    uint64_t window_ns, window_bytes; /* since then something lay unread all the time, and so much of it was taken */
    struct channel_events on;
};

/* conn and resume: how to wake the reader. stream_limit: unread bytes of a stream. budget: what the exchange's memory
 * counts against, or NULL; owner: whose it is, as the budget tells them apart. */
struct channel *channel_new(void *conn, void (*resume)(void *conn, struct wakeups *w), size_t stream_limit,
                            struct deq_budget *budget, uint64_t owner);
void channel_ref(struct channel *c);
void channel_unref(struct channel *c);
/* Who renders from now on; zeroed: nobody. The one before is dropped, or this one, when the connection is done. */
void channel_set_source(struct channel *c, struct channel_source source);
/* The source has something to render, so many bytes more, about. False when nobody reads any more. w: the connection
 * is woken with others; NULL: at once. */
bool channel_news(struct channel *c, size_t bytes, struct wakeups *w);
/* The connection is done: nobody is there, and nothing is rendered any more. On its thread. */
void channel_disconnect(struct channel *c);
/* Appends to a stream and wakes the connection. False when nobody reads any more, or there was no memory: then it is
 * starved. */
bool channel_write(struct channel *c, const struct deq_buf *bytes);
/* A comment, which keeps a silent stream open and finds out whether somebody is there. */
void channel_ping(struct channel *c);
/* A whole response: takes the buffer's memory. It must not have failed. */
void channel_give(struct channel *c, struct deq_buf *bytes);
/* A literal that is sent behind all bytes, whatever memory there is. */
void channel_last_words(struct channel *c, const char *text);
bool channel_starved(struct channel *c);
int channel_status(struct channel *c); /* of an answer that is finished */
/* Streaming starts: the connection may send its headers now. Nothing happens when it has started, or is done. */
void channel_start_stream(struct channel *c);
bool channel_streaming(struct channel *c);
/* From now on it streams only if it does already: the answer that is being written has one form. Returns which. */
bool channel_settle(struct channel *c);
/* When it may be tried again: headers of a response that does not stream. */
void channel_retry_after(struct channel *c, unsigned ms);
/* Header Server-Timing, of a stream before it starts. */
void channel_timing(struct channel *c, const char *text);
/* The same request would fail again: the client should not try. */
void channel_no_retry(struct channel *c);
/* Who is told; zeroed: nobody any more. May call `gone` at once. */
void channel_listen(struct channel *c, struct channel_events on);
/* The end of a stream, or a whole response of `status`. failed: the connection is cut instead of ended cleanly. */
void channel_finish(struct channel *c, int status, const char *content_type, bool failed);
/* The client is not there any more: producers stop, the connection ends. */
void channel_hang_up(struct channel *c);

/* Of what follows the caller holds c->lock. */

/* The connection is woken with w's, if it sleeps. */
void channel_wake(struct channel *c, struct wakeups *w);
/* Renders what is new, if anything is; unlocks meanwhile. On the connection's thread. */
bool channel_render(struct channel *c);
/* Takes up to max bytes of a stream for the socket. */
size_t channel_take(struct channel *c, char *out, size_t max);
/* Copies up to max bytes of a whole response from `at` on. */
size_t channel_read(struct channel *c, size_t at, char *out, size_t max);
/* The reader could have taken something for window_ms, and took nothing, or less than so many bytes a second. */
bool channel_slow(struct channel *c, uint64_t now_ns, unsigned window_ms, uint64_t bytes_per_s);

#endif
