#define _GNU_SOURCE
#include "server/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <linux/tcp.h> /* netinet/tcp.h lacks tcpi_bytes_received */
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "server/log.h"
#include "server/reply.h"

enum {
    CONNECTION_MEMORY = 64 << 10, /* libmicrohttpd's pool: request line and headers */
    HEADER_MAX_BYTES = 32 << 10,
    HEADERS_MAX = 100,
    REAPER_PERIOD_MS = 100,
    REPLY_MAX_BYTES = 1 << 30,    /* of a response that does not stream */
    SPARE_CONNECTIONS = 64, /* above our own limit, so that the refusal is an answer and not silence */
};

/* --- Channels --- */

struct channel *channel_new(size_t max_bytes)
{
    struct channel *c = DEQ_NEW(struct channel);
    if (!c)
        return NULL;
    pthread_mutex_init(&c->lock, NULL);
    deq_buf_init(&c->bytes, max_bytes);
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

/* with the lock */
static void wake(struct channel *c)
{
    if (c->suspended && c->conn) {
        c->suspended = false;
        MHD_resume_connection(c->conn);
    }
}

bool channel_write(struct channel *c, const void *bytes, size_t n)
{
    pthread_mutex_lock(&c->lock);
    bool ok = !c->gone && c->conn;
    if (ok) {
        if (!c->bytes.len)
            c->last_read_ns = deq_now_ns(); /* the reader had taken everything: its time starts now */
        ok = deq_buf_add(&c->bytes, bytes, n);
        c->last_write_ns = deq_now_ns();
        if (!ok) {
            if (c->on_gone)
                c->on_gone(c->on_gone_ctx);
            c->on_gone = NULL;
            c->gone = c->failed = true;
        }
        wake(c);
    }
    pthread_mutex_unlock(&c->lock);
    return ok;
}

void channel_start_stream(struct channel *c, size_t max_unread)
{
    pthread_mutex_lock(&c->lock);
    c->bytes.max = max_unread;
    c->streaming = true;
    c->status = 200;
    c->content_type = "text/event-stream; charset=utf-8";
    wake(c);
    pthread_mutex_unlock(&c->lock);
}

void channel_on_gone(struct channel *c, void (*fn)(void *ctx), void *ctx)
{
    pthread_mutex_lock(&c->lock);
    c->on_gone = fn;
    c->on_gone_ctx = ctx;
    if (fn && c->gone) { /* it left before anybody listened */
        c->on_gone = NULL;
        fn(ctx);
    }
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
    wake(c);
    pthread_mutex_unlock(&c->lock);
}

/* --- Connections --- */

enum phase { PHASE_HEADERS, PHASE_BODY, PHASE_WORK, PHASE_IDLE };

struct client { /* one socket */
    struct client *next, *prev;
    int fd;
    /* guarded by http.lock */
    enum phase phase;
    uint64_t deadline_ns;    /* of the phase; 0: none */
    uint64_t received_bytes; /* on this socket when it became idle */
    struct channel *channel; /* of the exchange in work */
    bool hangup_seen, refused;
};

struct http {
    const struct conf *conf;
    struct metrics *metrics;
    http_handler handler;
    void *ctx;
    struct MHD_Daemon *daemon;
    int listen_fd;
    pthread_t reaper;
    bool reaper_started;
    _Atomic bool stopping;
    pthread_mutex_t lock; /* the list of clients and their channels */
    struct client *clients;
    size_t n_clients;
    _Atomic size_t exchanges;
    _Atomic uint64_t next_request;
    uint64_t run_id; /* random: request ids of two runs differ */
};

struct request_state { /* libmicrohttpd's con_cls: one exchange */
    struct exchange x;
    struct http *http;
    struct client *client;
    struct MHD_Connection *conn;
    bool headers_checked, too_large, dispatched, answered;
    int early_status; /* decided from the headers; the body is read and thrown away */
    const char *early_code, *early_message;
};

static struct client *client_of(struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return i ? i->socket_context : NULL;
}

/* with http.lock */
static void set_phase_locked(struct client *cl, enum phase phase, uint64_t timeout_ms)
{
    cl->deadline_ns = timeout_ms ? deq_now_ns() + timeout_ms * 1000000u : 0;
    cl->phase = phase;
}

static void set_phase(struct http *h, struct client *cl, enum phase phase, uint64_t timeout_ms)
{
    if (!cl)
        return;
    pthread_mutex_lock(&h->lock);
    set_phase_locked(cl, phase, timeout_ms);
    pthread_mutex_unlock(&h->lock);
}

static uint64_t received_bytes(int fd)
{
    struct tcp_info t = {0};
    socklen_t len = sizeof t;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &t, &len) == 0 ? t.tcpi_bytes_received : 0;
}

static void on_connection(void *cls, struct MHD_Connection *conn, void **socket_context, enum MHD_ConnectionNotificationCode code)
{
    struct http *h = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        struct client *cl = DEQ_NEW(struct client);
        const union MHD_ConnectionInfo *i = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
        *socket_context = cl;
        if (!cl || !i) {
            deq_free(cl);
            *socket_context = NULL;
            return;
        }
        cl->fd = i->connect_fd;
        const int one = 1;
        const unsigned gone_ms = h->conf->stream_stall_ms;
        (void)setsockopt(cl->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
        (void)setsockopt(cl->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &gone_ms, sizeof gone_ms);
        pthread_mutex_lock(&h->lock);
        set_phase_locked(cl, PHASE_HEADERS, h->conf->header_timeout_ms);
        cl->next = h->clients;
        if (h->clients)
            h->clients->prev = cl;
        h->clients = cl;
        h->n_clients++;
        cl->refused = h->n_clients > h->conf->max_connections;
        pthread_mutex_unlock(&h->lock);
        atomic_fetch_add(&h->metrics->connections, 1);
    } else if (*socket_context) {
        struct client *cl = *socket_context;
        pthread_mutex_lock(&h->lock);
        if (cl->prev)
            cl->prev->next = cl->next;
        else
            h->clients = cl->next;
        if (cl->next)
            cl->next->prev = cl->prev;
        h->n_clients--;
        pthread_mutex_unlock(&h->lock);
        atomic_fetch_sub(&h->metrics->connections, 1);
        deq_free(cl);
        *socket_context = NULL;
    }
}

/* The client is not there any more: producers stop, the connection ends. */
static void channel_hang_up(struct channel *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->on_gone)
        c->on_gone(c->on_gone_ctx); /* with the lock, so that its context cannot vanish meanwhile */
    c->on_gone = NULL;
    c->gone = c->failed = true;
    wake(c);
    pthread_mutex_unlock(&c->lock);
}

/* --- The reaper --- */

struct watched {
    struct channel *channel; /* referenced */
    bool hangup, error;
};

static void watch_streams(struct http *h, struct watched *w, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct channel *c = w[i].channel;
        pthread_mutex_lock(&c->lock);
        const uint64_t now = deq_now_ns(); /* with the lock: the channel's times lie before it */
        const bool streaming = c->streaming, done = c->done;
        const bool stalled = c->bytes.len && now - c->last_read_ns > h->conf->stream_stall_ms * 1000000ull;
        const bool silent = streaming && !done && now - c->last_write_ns > h->conf->stream_ping_ms * 1000000ull;
        pthread_mutex_unlock(&c->lock);
        if (w[i].error || stalled || (w[i].hangup && !streaming))
            channel_hang_up(c);
        /* a half-closed client may still read a stream: a comment finds out, a dead peer answers it with a reset */
        else if (silent || (w[i].hangup && !done))
            (void)channel_write(c, ": ping\n\n", 8);
        channel_unref(c);
    }
}

static void *reaper_main(void *arg)
{
    struct http *h = arg;
    const size_t cap = (size_t)h->conf->max_connections + SPARE_CONNECTIONS;
    struct pollfd *fds = DEQ_NEW_ARRAY(struct pollfd, cap);
    struct client **polled = DEQ_NEW_ARRAY(struct client *, cap);
    struct watched *watched = DEQ_NEW_ARRAY(struct watched, cap);
    while (fds && polled && watched && !atomic_load(&h->stopping)) {
        const uint64_t now = deq_now_ns();
        size_t n = 0, n_watched = 0;
        pthread_mutex_lock(&h->lock);
        for (struct client *cl = h->clients; cl && n < cap; cl = cl->next) {
            /* libmicrohttpd does not tell that a further request began on an idle connection: its first bytes do */
            if (cl->phase == PHASE_IDLE && received_bytes(cl->fd) != cl->received_bytes)
                set_phase_locked(cl, PHASE_HEADERS, h->conf->header_timeout_ms);
            if (cl->deadline_ns && now > cl->deadline_ns)
                (void)shutdown(cl->fd, SHUT_RDWR); /* libmicrohttpd counts inactivity only; this deadline is absolute */
            if (!cl->channel)
                continue;
            fds[n] = (struct pollfd){.fd = cl->fd, .events = POLLRDHUP};
            polled[n++] = cl;
        }
        /* with the lock held no fd can be closed and taken by another connection in between */
        const int ready = n ? poll(fds, n, 0) : 0;
        for (size_t i = 0; i < n && ready >= 0; i++) {
            struct client *cl = polled[i];
            const short e = fds[i].revents;
            const bool fresh = (e & POLLRDHUP) && !cl->hangup_seen;
            cl->hangup_seen = cl->hangup_seen || fresh;
            channel_ref(cl->channel);
            watched[n_watched++] = (struct watched){cl->channel, fresh, (e & (POLLHUP | POLLERR)) != 0};
        }
        pthread_mutex_unlock(&h->lock);
        watch_streams(h, watched, n_watched);
        const struct timespec nap = {.tv_nsec = REAPER_PERIOD_MS * 1000000};
        nanosleep(&nap, NULL);
    }
    deq_free(fds);
    deq_free(polled);
    deq_free(watched);
    return NULL;
}

/* --- Requests --- */

/* Refuses what could mean one thing to us and another to a proxy in front (request smuggling), and headers that no honest client sends. */
struct header_check {
    unsigned content_length, transfer_encoding, count;
    size_t bytes;
    uint64_t length;
    const char *problem;
};

static enum MHD_Result check_header(void *cls, enum MHD_ValueKind kind, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct header_check *c = cls;
    (void)kind;
    c->count++;
    c->bytes += key_len + value_len;
    for (size_t i = 0; i < value_len; i++)
        if (((unsigned char)value[i] < 0x20 && value[i] != '\t') || value[i] == 0x7f)
            c->problem = "a header holds a control character";
    for (size_t i = 0; i < key_len; i++)
        if ((unsigned char)key[i] <= 0x20 || (unsigned char)key[i] >= 0x7f)
            c->problem = "a header's name holds a blank or a control character";
    if (key_len == 14 && !strcasecmp(key, "Content-Length")) {
        c->content_length++;
        if (!value_len || value_len > 18 || strspn(value, "0123456789") != value_len)
            c->problem = "Content-Length is not a number";
        else
            c->length = strtoull(value, NULL, 10);
    }
    if (key_len == 17 && !strcasecmp(key, "Transfer-Encoding")) {
        c->transfer_encoding++;
        if (value_len != 7 || strcasecmp(value, "chunked"))
            c->problem = "Transfer-Encoding other than chunked";
    }
    return MHD_YES;
}

static void refuse(struct request_state *s, int status, const char *code, const char *message)
{
    if (!s->early_status) {
        s->early_status = status;
        s->early_code = code;
        s->early_message = message;
    }
}

static bool printable_id(const char *id)
{
    size_t n = 0;
    for (; id[n]; n++)
        if (id[n] < 0x21 || id[n] > 0x7e || id[n] == '"' || id[n] == '\\')
            return false;
    return n > 0 && n <= 128;
}

static void check_headers(struct request_state *s)
{
    struct header_check c = {0};
    MHD_get_connection_values_n(s->conn, MHD_HEADER_KIND, check_header, &c);
    if (c.content_length > 1 || c.transfer_encoding > 1 || (c.content_length && c.transfer_encoding))
        c.problem = "Content-Length or Transfer-Encoding given twice or together";
    if (c.problem)
        refuse(s, 400, "invalid_header", c.problem);
    if (c.count > HEADERS_MAX || c.bytes > HEADER_MAX_BYTES)
        refuse(s, 431, "headers_too_large", "the headers are too many or too large");
    if (c.length > s->http->conf->max_body_bytes)
        refuse(s, 413, "body_too_large", "the body exceeds server.max_body_bytes");
    if (s->client && s->client->refused)
        refuse(s, 503, "too_many_connections", "all connections are taken");
    const char *id = MHD_lookup_connection_value(s->conn, MHD_HEADER_KIND, "X-Request-Id");
    if (id && printable_id(id))
        snprintf(s->x.request_id, sizeof s->x.request_id, "%s", id);
    else
        snprintf(s->x.request_id, sizeof s->x.request_id, "%016llx",
                 (unsigned long long)deq_rng_u64(s->http->run_id, 0, atomic_fetch_add(&s->http->next_request, 1)));
}

static void common_headers(const struct request_state *s, struct MHD_Response *r, const char *content_type)
{
    MHD_add_response_header(r, "Content-Type", content_type);
    MHD_add_response_header(r, "X-Request-Id", s->x.request_id);
}

static void retry_headers(struct MHD_Response *r, const char *retry_after_ms)
{
    if (!retry_after_ms[0])
        return;
    char whole[24];
    snprintf(whole, sizeof whole, "%lu", DEQ_MAX((strtoul(retry_after_ms, NULL, 10) + 999) / 1000, 1ul));
    MHD_add_response_header(r, "Retry-After", whole);
    MHD_add_response_header(r, "retry-after-ms", retry_after_ms);
}

static enum MHD_Result send_response(struct request_state *s, int status, struct MHD_Response *r)
{
    if (!r)
        return MHD_NO;
    if (status >= 100 && status < METRIC_CODES)
        atomic_fetch_add(&s->http->metrics->http_responses[status], 1);
    const enum MHD_Result ok = MHD_queue_response(s->conn, (unsigned)status, r);
    MHD_destroy_response(r);
    s->answered = true;
    return ok;
}

static enum MHD_Result send_bytes(struct request_state *s, int status, const char *content_type, const char *data, size_t n, bool close_after)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(n, (void *)data, MHD_RESPMEM_MUST_COPY);
    if (r) {
        common_headers(s, r, content_type ? content_type : "application/json");
        retry_headers(r, s->x.retry_after_ms);
        if (s->x.allow)
            MHD_add_response_header(r, "Allow", s->x.allow);
        for (size_t i = 0; i < DEQ_COUNT(s->x.header_name); i++)
            if (s->x.header_name[i][0])
                MHD_add_response_header(r, s->x.header_name[i], s->x.header_value[i]);
        if (close_after)
            MHD_add_response_header(r, "Connection", "close");
    }
    return send_response(s, status, r);
}

static enum MHD_Result send_error(struct request_state *s, int status, const char *code, const char *message)
{
    struct deq_buf b;
    deq_buf_init(&b, 4096);
    reply_error(&b, status, code, NULL, message);
    const enum MHD_Result ok = send_bytes(s, status, NULL, b.data ? b.data : "", b.len, true);
    deq_buf_free(&b);
    return ok;
}

/* Gives a stream's bytes to the socket, or sleeps. Returning 0 without sleeping would spin. */
static ssize_t stream_reader(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct channel *c = cls;
    ssize_t n = 0;
    (void)pos;
    pthread_mutex_lock(&c->lock);
    if (c->failed) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (c->bytes.len) {
        n = (ssize_t)DEQ_MIN(c->bytes.len, max);
        memcpy(buf, c->bytes.data, (size_t)n);
        deq_buf_drop_front(&c->bytes, (size_t)n);
        c->last_read_ns = deq_now_ns();
    } else if (c->done) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (c->conn) {
        c->suspended = true;
        MHD_suspend_connection(c->conn);
    }
    pthread_mutex_unlock(&c->lock);
    return n;
}

static void stream_free(void *cls)
{
    channel_unref(cls);
}

/* The channel has something to say: a stream begins, a whole response is there, or the client left. */
static enum MHD_Result answer_from_channel(struct request_state *s)
{
    struct channel *c = s->x.channel;
    pthread_mutex_lock(&c->lock);
    if (c->failed && !c->streaming) {
        pthread_mutex_unlock(&c->lock);
        return MHD_NO; /* nobody is there to read an answer */
    }
    if (c->streaming) {
        pthread_mutex_unlock(&c->lock);
        struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, stream_reader, c, stream_free);
        if (!r)
            return MHD_NO;
        channel_ref(c);
        common_headers(s, r, c->content_type);
        MHD_add_response_header(r, "Cache-Control", "no-cache");
        MHD_add_response_header(r, "X-Accel-Buffering", "no");
        return send_response(s, 200, r);
    }
    if (c->done) {
        const int status = c->status;
        const char *type = c->content_type;
        memcpy(s->x.retry_after_ms, c->retry_after_ms, sizeof s->x.retry_after_ms);
        pthread_mutex_unlock(&c->lock);
        return send_bytes(s, status, type, c->bytes.data ? c->bytes.data : "", c->bytes.len, false); /* done: nobody writes any more */
    }
    c->suspended = true;
    MHD_suspend_connection(c->conn);
    pthread_mutex_unlock(&c->lock);
    return MHD_YES;
}

static enum MHD_Result dispatch(struct request_state *s)
{
    struct http *h = s->http;
    s->dispatched = true;
    s->x.channel = channel_new(REPLY_MAX_BYTES);
    if (!s->x.channel)
        return send_error(s, 500, "internal_error", "out of memory");
    s->x.channel->conn = s->conn;
    set_phase(h, s->client, PHASE_WORK, 0);
    if (s->client) {
        pthread_mutex_lock(&h->lock);
        s->client->channel = s->x.channel;
        s->client->hangup_seen = false;
        pthread_mutex_unlock(&h->lock);
    }
    h->handler(h->ctx, &s->x);
    if (s->x.status)
        return send_bytes(s, s->x.status, s->x.content_type, s->x.reply.data ? s->x.reply.data : "", s->x.reply.len, false);
    return answer_from_channel(s);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url, const char *method, const char *version,
                                  const char *upload, size_t *upload_len, void **con_cls)
{
    struct http *h = cls;
    struct request_state *s = *con_cls;
    (void)version;
    if (!s) { /* first call: headers only */
        s = DEQ_NEW(struct request_state);
        if (!s)
            return MHD_NO;
        *con_cls = s;
        atomic_fetch_add(&h->exchanges, 1);
        s->http = h;
        s->conn = conn;
        s->client = client_of(conn);
        s->x.method = method;
        s->x.path = url;
        s->x.accept = MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Accept");
        s->x.arrived_ns = deq_now_ns();
        deq_buf_init(&s->x.body, h->conf->max_body_bytes);
        deq_buf_init(&s->x.reply, (size_t)64 << 20);
        set_phase(h, s->client, PHASE_BODY, h->conf->body_timeout_ms);
        check_headers(s);
        /* answered before the body: what follows on this connection cannot be trusted or is not wanted */
        if (s->early_status)
            return send_error(s, s->early_status, s->early_code, s->early_message);
        return MHD_YES;
    }
    if (*upload_len) {
        if (!s->too_large && !deq_buf_add(&s->x.body, upload, *upload_len)) {
            s->too_large = true; /* a chunked body; the rest is read and thrown away, since an answer in the middle would be lost */
            deq_buf_free(&s->x.body);
        }
        *upload_len = 0;
        return MHD_YES;
    }
    if (s->answered)
        return MHD_YES;
    if (s->too_large)
        return send_error(s, 413, "body_too_large", "the body exceeds server.max_body_bytes");
    return s->dispatched ? answer_from_channel(s) : dispatch(s);
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **con_cls, enum MHD_RequestTerminationCode code)
{
    struct http *h = cls;
    struct request_state *s = *con_cls;
    (void)conn;
    (void)code;
    if (!s)
        return;
    struct channel *c = s->x.channel;
    if (s->client) {
        pthread_mutex_lock(&h->lock);
        s->client->channel = NULL;
        s->client->received_bytes = received_bytes(s->client->fd);
        /* the sum bounds a next request whose first bytes came along with this one */
        set_phase_locked(s->client, PHASE_IDLE, (uint64_t)h->conf->idle_timeout_ms + h->conf->header_timeout_ms);
        pthread_mutex_unlock(&h->lock);
    }
    if (c) {
        channel_hang_up(c); /* tells the job, when there still is one */
        pthread_mutex_lock(&c->lock);
        c->conn = NULL;
        pthread_mutex_unlock(&c->lock);
        channel_unref(c);
    }
    deq_buf_free(&s->x.body);
    deq_buf_free(&s->x.reply);
    deq_free(s);
    *con_cls = NULL;
    atomic_fetch_sub(&h->exchanges, 1);
}

/* Percent-decoding is refused altogether: no path of ours needs it, and "%00" would cut the string. */
static size_t keep_escapes(void *cls, struct MHD_Connection *conn, char *s)
{
    (void)cls;
    (void)conn;
    return strlen(s);
}

static void on_error(void *cls, const char *fmt, va_list ap)
{
    char text[512];
    (void)cls;
    vsnprintf(text, sizeof text, fmt, ap);
    text[strcspn(text, "\r\n")] = 0;
    log_line(LOG_DEBUG, "libmicrohttpd", "{s:s}", "text", text);
}

/* --- Start and stop --- */

enum deq_rc http_parse_listen(const char *text, struct sockaddr_storage *ret, socklen_t *ret_len, struct deq_err *err)
{
    char host[128];
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    const unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
    memset(ret, 0, sizeof *ret);
    if (!colon || !colon[1] || *end || strspn(colon + 1, "0123456789") != strlen(colon + 1) || port > 65535)
        return deq_fail(err, DEQ_EINVAL, "server.listen: \"%s\" is not ADDRESS:PORT", text);
    size_t n = (size_t)(colon - text);
    const bool v6 = n >= 2 && text[0] == '[' && text[n - 1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(v6 ? n - 2 : n), v6 ? text + 1 : text);
    struct sockaddr_in *a4 = (struct sockaddr_in *)ret;
    struct sockaddr_in6 *a6 = (struct sockaddr_in6 *)ret;
    if (!v6 && inet_pton(AF_INET, strcmp(host, "localhost") ? host : "127.0.0.1", &a4->sin_addr) == 1) {
        a4->sin_family = AF_INET;
        a4->sin_port = htons((uint16_t)port);
        *ret_len = sizeof *a4;
    } else if (v6 && inet_pton(AF_INET6, host, &a6->sin6_addr) == 1) {
        a6->sin6_family = AF_INET6;
        a6->sin6_port = htons((uint16_t)port);
        *ret_len = sizeof *a6;
    } else {
        return deq_fail(err, DEQ_EINVAL, "server.listen: \"%s\" is not an IPv4 address, [IPv6 address] or localhost", host);
    }
    return DEQ_OK;
}

static enum deq_rc listen_on(const char *text, int *ret_fd, char *ret_address, struct deq_err *err)
{
    struct sockaddr_storage addr;
    socklen_t len;
    char host[INET6_ADDRSTRLEN];
    enum deq_rc rc = http_parse_listen(text, &addr, &len, err);
    if (rc)
        return rc;
    const int fd = socket(addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    if (fd >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, len) < 0 || listen(fd, 1024) < 0 || getsockname(fd, (struct sockaddr *)&addr, &len) < 0) {
        rc = deq_fail(err, DEQ_EIO, "server.listen: cannot listen on %s: %s", text, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    if (addr.ss_family == AF_INET) {
        const struct sockaddr_in *a = (struct sockaddr_in *)&addr;
        snprintf(ret_address, 64, "%s:%u", inet_ntop(AF_INET, &a->sin_addr, host, sizeof host), ntohs(a->sin_port));
    } else {
        const struct sockaddr_in6 *a = (struct sockaddr_in6 *)&addr;
        snprintf(ret_address, 64, "[%s]:%u", inet_ntop(AF_INET6, &a->sin6_addr, host, sizeof host), ntohs(a->sin6_port));
    }
    *ret_fd = fd;
    return DEQ_OK;
}

enum deq_rc http_start(const struct conf *conf, struct metrics *m, http_handler handler, void *ctx, struct http **ret, char *ret_address,
                       struct deq_err *err)
{
    struct http *h = DEQ_NEW(struct http);
    if (!h)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the server");
    h->conf = conf;
    h->metrics = m;
    h->handler = handler;
    h->ctx = ctx;
    h->listen_fd = -1;
    h->run_id = deq_now_ns() ^ deq_mix64((uint64_t)getpid() ^ deq_wall_ms());
    pthread_mutex_init(&h->lock, NULL);
    enum deq_rc rc = listen_on(conf->listen, &h->listen_fd, ret_address, err);
    if (rc)
        goto out;
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, h, MHD_OPTION_LISTEN_SOCKET,
        h->listen_fd, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)DEQ_MAX(conf->http_threads, 2u), MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)(conf->max_connections + SPARE_CONNECTIONS), MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned)conf->max_connections_per_address,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)((conf->idle_timeout_ms + 999) / 1000), MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, h, MHD_OPTION_EXTERNAL_LOGGER, on_error,
        NULL, MHD_OPTION_END);
    if (!h->daemon) {
        rc = deq_fail(err, DEQ_EIO, "server.listen: the HTTP server does not start on %s", conf->listen);
        goto out;
    }
    if (pthread_create(&h->reaper, NULL, reaper_main, h)) {
        rc = deq_fail(err, DEQ_EIO, "cannot start a thread");
        goto out;
    }
    h->reaper_started = true;
    *ret = h;
    return DEQ_OK;
out:
    http_stop(h);
    return rc;
}

void http_stop_accepting(struct http *h)
{
    (void)MHD_quiesce_daemon(h->daemon);
    (void)shutdown(h->listen_fd, SHUT_RDWR); /* else new clients would connect and hang */
}

size_t http_open_exchanges(const struct http *h)
{
    return atomic_load(&h->exchanges);
}

void http_stop(struct http *h)
{
    if (!h)
        return;
    atomic_store(&h->stopping, true);
    if (h->reaper_started)
        pthread_join(h->reaper, NULL);
    if (h->daemon) {
        /* stopping with a sleeping connection aborts the process: wake them all, then wait for them */
        for (int tries = 0; tries < 200 && atomic_load(&h->exchanges); tries++) {
            struct channel *open[64];
            size_t n = 0;
            pthread_mutex_lock(&h->lock);
            for (struct client *cl = h->clients; cl && n < DEQ_COUNT(open); cl = cl->next)
                if (cl->channel) {
                    channel_ref(cl->channel);
                    open[n++] = cl->channel;
                }
            pthread_mutex_unlock(&h->lock);
            for (size_t i = 0; i < n; i++) {
                channel_hang_up(open[i]);
                channel_unref(open[i]);
            }
            const struct timespec nap = {.tv_nsec = 10000000};
            nanosleep(&nap, NULL);
        }
        MHD_stop_daemon(h->daemon);
    }
    if (h->listen_fd >= 0)
        close(h->listen_fd);
    pthread_mutex_destroy(&h->lock);
    deq_free(h);
}
