/* The way of a response from the engine to a connection: bytes with a lock around them. Two owners, the connection and the request; the last one
 * to let go frees it. The engine's thread appends, the connection's reader takes.
 *
 * A reader that is slower than the engine fills the channel: past `limit` bytes the producer is asked to pause, and to go on once half of them are
 * read. What it writes until it pauses still fits (SLACK). Whoever reads nothing for too long counts as gone.
 * Callbacks run with the lock held and must only take note: lock order is channel, then scheduler. */
#ifndef DEQ_SERVER_CHANNEL_H
#define DEQ_SERVER_CHANNEL_H

#include <pthread.h>

#include "core/base/buf.h"

struct channel_events {
    void (*gone)(void *ctx);             /* the client left; once */
    void (*pace)(void *ctx, bool pause); /* the reader is slow; or has caught up */
    void *ctx;
};

struct channel {
    pthread_mutex_t lock;
    void *conn;                 /* NULL once the connection is done; guarded by lock, like everything below */
    void (*resume)(void *conn); /* wakes the connection */
    struct deq_buf bytes;       /* body not yet handed to the socket */
    size_t limit;               /* unread bytes of a stream before its producer pauses */
    size_t slack;               /* more bytes that it may write until it has paused */
    unsigned refs;
    bool suspended;             /* the connection sleeps until there is something for it */
    bool understood;            /* the request has been read, or is in work: may_stream is known */
    bool may_stream;            /* the request wants events: if it waits long, the stream may begin early with a comment */
    bool streaming;             /* headers are out or may go out: bytes flow as they come */
    bool settled;               /* the form of the answer is decided */
    bool paused;                /* the producer was asked to pause */
    bool done;                  /* nothing more will come */
    bool failed;                /* end the connection without a clean end */
    bool gone;                  /* the client left or stalled: producers stop */
    bool no_retry;              /* the same request would fail again */
    int status;                 /* of a response that does not stream */
    const char *content_type;
    unsigned retry_after_ms;    /* 0: no such header */
    uint64_t last_write_ns, last_read_ns;
    struct channel_events on;
};

/* conn and resume: how to wake the reader. max_bytes: of a whole response; a stream is bound by its limit. */
struct channel *channel_new(void *conn, void (*resume)(void *conn), size_t max_bytes, size_t stream_limit);
void channel_ref(struct channel *c);
void channel_unref(struct channel *c);
/* Appends and wakes the connection. False when nobody reads any more. */
bool channel_write(struct channel *c, const void *bytes, size_t n);
/* Streaming starts: the connection may send its headers now. Nothing happens when it has started, or is done. */
void channel_start_stream(struct channel *c);
bool channel_streaming(struct channel *c);
/* From now on it streams only if it does already: the answer that is being written has one form. Returns which. */
bool channel_settle(struct channel *c);
/* When it may be tried again: headers of a response that does not stream. */
void channel_retry_after(struct channel *c, unsigned ms);
/* The same request would fail again: the client should not try. */
void channel_no_retry(struct channel *c);
/* Who is told; zeroed: nobody any more. May call `gone` at once. */
void channel_listen(struct channel *c, struct channel_events on);
/* The end of a stream, or a whole response of `status`. failed: the connection is cut instead of ended cleanly. */
void channel_finish(struct channel *c, int status, const char *content_type, bool failed);
/* The client is not there any more: producers stop, the connection ends. */
void channel_hang_up(struct channel *c);
/* With the lock: wakes the connection if it sleeps. */
void channel_wake(struct channel *c);
/* With the lock: takes up to max bytes for the socket. */
size_t channel_take(struct channel *c, char *out, size_t max);

#endif
