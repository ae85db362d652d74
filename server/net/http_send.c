/* What goes back: an endpoint's own answer, a whole response or a stream out of a channel, and their headers. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "server/net/http_impl.h"

enum { PIECE_BYTES = 64 << 10 /* of a large answer */ };

/* libmicrohttpd's limit on silence; watch.c keeps the exact ones. */
unsigned http_silence_s(const struct conf *c)
{
    return (DEQ_MAX(c->idle_timeout_ms, DEQ_MAX(c->stream_stall_ms, c->body_timeout_ms)) + 999) / 1000 + 1;
}

void http_ask_before_reading(struct request_state *s, bool yes)
{
    (void)MHD_set_connection_option(s->conn, MHD_CONNECTION_OPTION_TIMEOUT, http_silence_s(s->http->conf) + yes);
}

static enum MHD_Result send_response(struct request_state *s, int status, struct MHD_Response *r)
{
    if (!r)
        return MHD_NO;
    if (status >= 100 && status < METRIC_CODES)
        atomic_fetch_add(&s->http->metrics->http_responses[s->x.probe][status], 1);
    if (s->dispatched)
        http_ask_before_reading(s, false);
    const enum MHD_Result ok = MHD_queue_response(s->conn, (unsigned)status, r);
    MHD_destroy_response(r);
    s->answered = true;
    return ok;
}

struct reply_headers {
    const char *content_type, *allow, *etag;
    const struct reply_header *more;
    bool authenticate, no_retry, close;
    unsigned retry_after_ms;
    char timing[CHANNEL_TIMING_BYTES]; /* or "" */
};

/* For a page of another site: it may read the answer. Never with credentials: a page that has a key sends it itself. */
static void add_origin(const struct exchange *x, struct MHD_Response *r)
{
    if (x->origin) {
        MHD_add_response_header(r, "Access-Control-Allow-Origin", x->origin);
        MHD_add_response_header(r, "Access-Control-Expose-Headers",
                                "X-Request-Id, Retry-After, retry-after-ms, Server-Timing");
    }
    if (!x->preflight)
        return;
    MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE");
    if (x->ask_headers && x->ask_headers[0])
        MHD_add_response_header(r, "Access-Control-Allow-Headers", x->ask_headers);
    if (x->ask_private)
        MHD_add_response_header(r, "Access-Control-Allow-Private-Network", "true");
    MHD_add_response_header(r, "Access-Control-Max-Age", "600");
}

static void add_headers(const struct request_state *s, struct MHD_Response *r, const struct reply_headers *f)
{
    if (!s->x.preflight)
        MHD_add_response_header(r, "Content-Type", f->content_type ? f->content_type : "application/json");
    if (s->http->conf->cors_origins[0])
        MHD_add_response_header(r, "Vary",
                                s->x.preflight ? "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
                                               : "Origin");
    add_origin(&s->x, r);
    MHD_add_response_header(r, "X-Request-Id", s->x.request_id);
    if (f->retry_after_ms) {
        char text[24];
        snprintf(text, sizeof text, "%u", (f->retry_after_ms + 999) / 1000);
        MHD_add_response_header(r, "Retry-After", text);
        snprintf(text, sizeof text, "%u", f->retry_after_ms);
        MHD_add_response_header(r, "retry-after-ms", text);
    }
    if (f->timing[0])
        MHD_add_response_header(r, "Server-Timing", f->timing);
    if (f->allow)
        MHD_add_response_header(r, "Allow", f->allow);
    if (f->etag && f->etag[0])
        MHD_add_response_header(r, "ETag", f->etag);
    for (const struct reply_header *h = f->more; h && h->name; h++)
        MHD_add_response_header(r, h->name, h->value);
    if (s->x.accept_encoding)
        MHD_add_response_header(r, "Accept-Encoding", s->x.accept_encoding);
    if (f->authenticate)
        MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (f->no_retry)
        MHD_add_response_header(r, "x-should-retry", "false");
    if (f->close || s->last_request || atomic_load(&s->http->closing)) {
        MHD_add_response_header(r, "Connection", "close");
        watch_last_answer(s->http->watch, s->client);
    }
}

/* Gives a whole response's bytes to the socket. */
static ssize_t whole_reader(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct channel *c = cls;
    pthread_mutex_lock(&c->lock);
    const ssize_t n = c->failed ? MHD_CONTENT_READER_END_WITH_ERROR : (ssize_t)channel_read(c, (size_t)pos, buf, max);
    pthread_mutex_unlock(&c->lock);
    return n;
}

static void release_channel(void *cls)
{
    channel_unref(cls);
}

/* What the channel has, from its own memory, which stays counted until it is sent. A large one is read piece by piece,
 * so that its reader can be watched; a small one is in the system's buffers at once. */
static enum MHD_Result send_whole(struct request_state *s, int status, const struct reply_headers *f)
{
    struct channel *c = s->x.channel;
    struct MHD_Response *r;
    pthread_mutex_lock(&c->lock);
    const size_t n = c->bytes.len;
    char *data = n ? c->bytes.data : (char *)(c->last_words ? c->last_words : "");
    c->sending = n > PIECE_BYTES;
    c->window_ns = c->last_read_ns = deq_now_ns();
    pthread_mutex_unlock(&c->lock);
    if (n > PIECE_BYTES)
        r = MHD_create_response_from_callback(n, PIECE_BYTES, whole_reader, c, release_channel);
    else
        r = MHD_create_response_from_buffer_with_free_callback_cls(n ? n : strlen(data), data, release_channel, c);
    if (r) {
        channel_ref(c);
        add_headers(s, r, f);
    }
    return send_response(s, status, r);
}

enum MHD_Result http_send_reply(struct request_state *s, bool close_after)
{
    struct exchange *x = &s->x;
    if (x->reply.failed) { /* not even an error could be written */
        x->status = 503;
        x->reply_type = NULL;
        x->retry_after_ms = s->http->handler.retry_ms;
        channel_last_words(x->channel, s->http->handler.no_memory);
    } else {
        channel_give(x->channel, &x->reply);
    }
    const struct reply_headers f = {.content_type = x->reply_type,
                                    .allow = x->allow,
                                    .etag = x->etag,
                                    .more = x->headers,
                                    .authenticate = x->authenticate,
                                    .retry_after_ms = x->retry_after_ms,
                                    .close = close_after};
    return send_whole(s, x->status, &f);
}

enum MHD_Result http_send_error(struct request_state *s, int status, const char *code, const char *message)
{
    deq_buf_free(&s->x.reply);
    s->x.status = 0;
    http_refuse(s, status, code, message);
    return http_send_reply(s, true);
}

/* Gives a stream's bytes to the socket, or sleeps. Returning 0 without sleeping would spin. */
static ssize_t stream_reader(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct channel *c = cls;
    ssize_t n = 0;
    (void)pos;
    if (c->conn)
        http_wake_followers(c->conn);
    pthread_mutex_lock(&c->lock);
    while (!c->failed && (n = (ssize_t)channel_take(c, buf, max)) == 0 && channel_render(c))
        ;
    if (c->failed) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (!n) {
        if (c->done) {
            n = MHD_CONTENT_READER_END_OF_STREAM;
        } else if (c->conn) {
            http_sleep(c->conn);
        }
    }
    pthread_mutex_unlock(&c->lock);
    return n;
}

enum MHD_Result http_send_channel(struct request_state *s)
{
    struct channel *c = s->x.channel;
    pthread_mutex_lock(&c->lock);
    while (!c->streaming && channel_render(c))
        ;
    if (c->failed && !c->streaming) {
        pthread_mutex_unlock(&c->lock);
        return MHD_NO; /* nobody is there to read an answer */
    }
    struct reply_headers f = {.content_type = c->content_type};
    memcpy(f.timing, c->timing, sizeof f.timing);
    if (c->streaming) {
        pthread_mutex_unlock(&c->lock);
        struct MHD_Response *r =
            MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, stream_reader, c, release_channel);
        if (!r)
            return MHD_NO;
        channel_ref(c);
        add_headers(s, r, &f);
        MHD_add_response_header(r, "Cache-Control", "no-cache");
        MHD_add_response_header(r, "X-Accel-Buffering", "no");
        return send_response(s, 200, r);
    }
    if (c->done) {
        f.retry_after_ms = c->retry_after_ms;
        f.no_retry = c->no_retry;
        pthread_mutex_unlock(&c->lock);
        return send_whole(s, c->status, &f); /* done: nobody writes any more */
    }
    http_sleep(s);
    pthread_mutex_unlock(&c->lock);
    return MHD_YES;
}
