#define _GNU_SOURCE
#include "server/net/http_impl.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "server/log.h"
#include "server/net/watch.h"

enum {
    CONNECTION_MEMORY = 64 << 10, /* libmicrohttpd's pool: request line and headers */
    SPARE_CONNECTIONS = 64, /* above our own limit, so that the refusal is an answer, and probes are answered */
    ADMIN_CONNECTIONS = 64,
    REQUESTS_PER_CONNECTION = 1000, /* then it is closed: a client that never leaves finds another replica some time */
    STOP_MS = 1000, /* at the end, so that answers under way get out of the hands of libmicrohttpd */
    LARGE_BODY_BYTES = 64 << 10, /* larger ones: http_body.c */
    REPLY_MAX_BYTES = 64 << 20, /* of an endpoint's own answer */
};

static struct socket_state *socket_of(struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return i ? i->socket_context : NULL;
}

static void on_connection(void *cls, struct MHD_Connection *conn, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    const struct listener *l = cls;
    struct http *h = l->http;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *i = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
        struct socket_state *s = DEQ_NEW(struct socket_state);
        *socket_context = s;
        atomic_fetch_add(&h->metrics->connections, 1);
        if (!s || !i)
            return;
        s->refused = !l->admin && atomic_fetch_add(&h->connections, 1) >= h->conf->max_connections;
        s->client = watch_add(h->watch, i->connect_fd, s->refused, l->tls);
    } else {
        struct socket_state *s = *socket_context;
        atomic_fetch_sub(&h->metrics->connections, 1);
        if (!s)
            return;
        if (s->client)
            watch_remove(h->watch, s->client);
        if (!l->admin)
            atomic_fetch_sub(&h->connections, 1);
        deq_free(s);
        *socket_context = NULL;
    }
}

/* --- Requests --- */

/* After the handler: its answer, or what the channel has. */
static enum MHD_Result answer(struct request_state *s)
{
    struct channel *c = s->x.channel;
    pthread_mutex_lock(&c->lock);
    const bool working = http_body_working(s), gone = c->gone;
    if (working && !gone) { /* the channel has something already; the handler is not back yet */
        http_sleep(s);
    }
    pthread_mutex_unlock(&c->lock);
    if (working)
        return gone ? MHD_NO : MHD_YES;
    return s->x.status ? http_send_reply(s, s->x.overfull) : http_send_channel(s);
}

/* To the worker, asleep until it is done. */
static enum MHD_Result hand_over(struct request_state *s)
{
    switch (http_body_hand_over(s)) {
    case LARGE_TAKEN: return MHD_YES;
    case LARGE_GONE: return MHD_NO;
    case LARGE_NO_MEMORY: return http_send_error(s, 500, "internal_error", "out of memory");
    case LARGE_TOO_MANY: break;
    }
    s->x.retry_after_ms = 1000;
    http_refuse(s, 429, "queue_full", "too many large requests are waiting; try again later");
    return http_send_reply(s, false);
}

static enum MHD_Result dispatch(struct request_state *s)
{
    struct http *h = s->http;
    s->dispatched = true;
    http_ask_before_reading(s, true);
    watch_phase(h->watch, s->client, WATCH_WORK);
    watch_channel(h->watch, s->client, s->x.channel);
    if (s->x.body.len > LARGE_BODY_BYTES)
        return hand_over(s);
    http_handle(s);
    return answer(s);
}

/* The headers are there: a request begins. One that is refused before its body ends the connection, unless the body is
 * short: what follows behind it cannot be trusted, or is not wanted. */
static enum MHD_Result begin_request(const struct listener *l, struct MHD_Connection *conn, const char *url,
                                     const char *method, const char *version, struct request_state **ret)
{
    struct http *h = l->http;
    struct socket_state *socket_state = socket_of(conn);
    struct request_state *s;
    /* no memory for it, or for its watcher, without whom nobody would wake it */
    if (!socket_state || !socket_state->client || !(s = DEQ_NEW(struct request_state)))
        return MHD_NO;
    *ret = s;
    atomic_fetch_add(&h->exchanges, 1);
    s->http = h;
    s->conn = conn;
    s->thread = pthread_self();
    s->client = socket_state->client;
    s->x.method = method;
    s->x.path = url;
    s->x.admin_listener = l->admin;
    s->x.overfull = socket_state->refused;
    s->last_request = ++socket_state->requests >= REQUESTS_PER_CONNECTION;
    s->x.arrived_ns = deq_now_ns();
    deq_buf_init(&s->x.body, h->conf->max_body_bytes);
    s->x.body_limit = "server.max_body_bytes";
    deq_buf_init(&s->x.reply, REPLY_MAX_BYTES);
    http_check_head(s, l, socket_state, version);
    s->x.channel = channel_new(s, http_wake, h->conf->stream_buffer_bytes, h->handler.budget, s->x.caller.id);
    if (!s->x.channel)
        return MHD_NO;
    s->x.body.allowance = &s->x.channel->allowance;
    if (!s->x.probe && !s->x.status) /* a probe is answered whatever others hold */
        s->x.reply.allowance = s->x.body.allowance;
    watch_body(h->watch, s->client, s->x.request_id, !strcmp(version, "HTTP/1.1"));
    s->refused = s->x.status && !s->close_after_reply && s->body_bytes <= DISCARD_MAX_BYTES;
    return s->x.status && !s->refused ? http_send_reply(s, true) : MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                                  const char *version, const char *upload, size_t *upload_len, void **con_cls)
{
    struct request_state *s = *con_cls;
    if (!s) {
        const enum MHD_Result ok = begin_request(cls, conn, url, method, version, &s);
        *con_cls = s;
        return ok;
    }
    http_wake_followers(s);
    if (*upload_len) {
        if (!s->refused && !s->x.body.failed && !deq_buf_add(&s->x.body, upload, *upload_len)) {
            /* a chunked body, or no memory; the rest is read and thrown away, since an answer in the middle would be
             * lost */
            s->too_large = s->x.body.full;
            s->starved = !s->too_large;
        }
        *upload_len = 0;
        return MHD_YES;
    }
    if (s->answered)
        return MHD_YES;
    if (s->refused)
        return http_send_reply(s, false);
    if (s->too_large) {
        http_refuse_body(s);
        return http_send_reply(s, true); /* what is left of the body is no request */
    }
    if (s->starved) {
        s->x.retry_after_ms = s->http->handler.retry_ms;
        return http_send_error(s, 503, "out_of_memory", "out of memory; try again later");
    }
    return s->dispatched ? answer(s) : dispatch(s);
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **con_cls, enum MHD_RequestTerminationCode code)
{
    struct http *h = ((const struct listener *)cls)->http;
    struct request_state *s = *con_cls;
    (void)conn;
    (void)code;
    if (!s)
        return;
    struct channel *c = s->x.channel;
    http_wake_followers(s);
    watch_channel(h->watch, s->client, NULL);
    watch_phase(h->watch, s->client, WATCH_IDLE);
    if (c)
        channel_disconnect(c); /* tells the job, when there still is one */
    if (!http_body_leave(s))
        http_state_free(s);
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

__attribute__((format(printf, 2, 0))) static void on_error(void *cls, const char *fmt, va_list ap)
{
    char text[512];
    (void)cls;
    vsnprintf(text, sizeof text, fmt, ap);
    text[strcspn(text, "\r\n")] = 0;
    log_line(LOG_DEBUG, "libmicrohttpd", log_text("text", text));
}

/* --- Start and stop --- */

enum deq_rc http_check_conf(const struct conf *c, struct deq_err *err)
{
    struct listen_address a, admin;
    enum deq_rc rc = origin_check_origins("server.cors_origins", c->cors_origins, err);
    if (!rc)
        rc = origin_check_hosts("server.hosts", c->hosts, err);
    if (!rc)
        rc = listen_parse("server.listen", c->listen, &a, err);
    if (!rc && c->admin_listen[0])
        rc = listen_parse("server.admin_listen", c->admin_listen, &admin, err);
    if (!rc && c->admin_listen[0] && !memcmp(&a.addr, &admin.addr, sizeof a.addr) && !listen_takes_free_port(&a))
        rc = deq_fail(err, DEQ_EINVAL, "server.admin_listen: %s is server.listen's address too", c->admin_listen);
    return rc;
}

static enum deq_rc open_listener(struct http *h, struct listener *l, bool admin, int given, char *ret_address,
                                 struct deq_err *err)
{
    l->http = h;
    l->admin = admin;
    l->inherited = given >= 0;
    l->fd = given;
    enum deq_rc rc = DEQ_OK;
    if (l->inherited)
        listen_name(given, ret_address);
    else
        rc = listen_open(admin ? "server.admin_listen" : "server.listen",
                         admin ? h->conf->admin_listen : h->conf->listen, &l->fd, ret_address, err);
    l->loopback = !rc && listen_is_loopback(l->fd);
    return rc;
}

static enum deq_rc serve_listener(struct http *h, struct listener *l, struct tls *tls, struct deq_err *err)
{
    const struct conf *c = h->conf;
    const bool admin = l->admin;
    l->tls = tls != NULL;
    const struct MHD_OptionItem options[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)on_error, NULL},
        {MHD_OPTION_LISTEN_SOCKET, l->fd, NULL},
        {MHD_OPTION_THREAD_POOL_SIZE, admin ? 0 : DEQ_MAX(c->http_threads, 2u), NULL},
        {MHD_OPTION_CONNECTION_LIMIT, admin ? ADMIN_CONNECTIONS : c->max_connections + SPARE_CONNECTIONS, NULL},
        {MHD_OPTION_PER_IP_CONNECTION_LIMIT, admin ? 0 : c->max_connections_per_address, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, http_silence_s(c), NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY, NULL},
        {MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, l},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, l},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)http_on_uri, NULL},
        {MHD_OPTION_UNESCAPE_CALLBACK, (intptr_t)keep_escapes, NULL},
        /* the last ones of TLS only */
        {tls ? MHD_OPTION_HTTPS_CERT_CALLBACK2 : MHD_OPTION_END, 0, tls_retrieve_function()},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)tls_priorities()},
        {MHD_OPTION_END, 0, NULL},
    };
    if (tls)
        tls_serve(tls);
    const unsigned flags =
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | (tls ? MHD_USE_TLS : 0u);
    l->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, l, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    return l->daemon ? DEQ_OK
                     : deq_fail(err, DEQ_EIO, "%s: the HTTP server does not start",
                                admin ? "server.admin_listen" : "server.listen");
}

enum deq_rc http_start(const struct conf *conf, const struct listen_inherited *given, struct metrics *m,
                       struct tls *tls, const struct http_handler *handler, struct http **ret, char *ret_address,
                       char *ret_admin, struct deq_err *err)
{
    struct http *h = DEQ_NEW(struct http);
    if (!h)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the server");
    h->conf = conf;
    h->metrics = m;
    h->tls = tls;
    h->handler = *handler;
    h->main.fd = h->admin.fd = -1;
    h->run_id = deq_now_ns() ^ deq_mix64((uint64_t)getpid() ^ deq_wall_ms());
    ret_admin[0] = 0;
    const bool worker = http_body_start(h);
    enum deq_rc rc = watch_start(conf, &h->watch, err);
    if (!rc && !worker)
        rc = deq_fail(err, DEQ_EIO, "cannot start a thread");
    if (!rc)
        rc = open_listener(h, &h->main, false, given->main, ret_address, err);
    if (!rc && !h->main.inherited)
        rc = serve_listener(h, &h->main, tls, err);
    if (!rc && (conf->admin_listen[0] || given->admin >= 0))
        rc = open_listener(h, &h->admin, true, given->admin, ret_admin, err);
    if (!rc && h->admin.fd >= 0)
        rc = serve_listener(h, &h->admin, NULL, err);
    if (rc) {
        http_stop(h);
        return rc;
    }
    *ret = h;
    return DEQ_OK;
}

enum deq_rc http_serve(struct http *h, struct deq_err *err)
{
    return h->main.daemon ? DEQ_OK : serve_listener(h, &h->main, h->tls, err);
}

bool http_inherited(const struct http *h)
{
    return h->main.inherited;
}

size_t http_connections(const struct http *h)
{
    return atomic_load(&h->connections);
}

void http_close_connections(struct http *h)
{
    atomic_store(&h->closing, true);
}

/* In the place of the C library's, for libmicrohttpd 0.9.75: MHD_quiesce_daemon and the daemon's own thread both take
 * the listening socket out of the epoll set, and whoever comes second ends the process ("Failed to remove listen FD
 * from epoll set"). What is not there any more has been removed. */
int epoll_ctl(int set, int op, int fd, struct epoll_event *event)
{
    const int failed = (int)syscall(SYS_epoll_ctl, set, op, fd, event);
    return failed && op == EPOLL_CTL_DEL && errno == ENOENT ? 0 : failed;
}

void http_stop_accepting(struct http *h)
{
    if (h->main.quiesced)
        return;
    (void)MHD_quiesce_daemon(h->main.daemon);
    if (!h->main.inherited) {
        (void)shutdown(h->main.fd, SHUT_RDWR); /* else new clients would connect and hang */
        listen_cleanup(h->conf->listen);       /* now, not later: another daemon may take the path meanwhile */
    }
    h->main.quiesced = true;
}

size_t http_open_exchanges(const struct http *h)
{
    return atomic_load(&h->exchanges);
}

static void stop_listener(struct listener *l, const char *address)
{
    if (l->daemon) {
        if (!l->quiesced)
            (void)MHD_quiesce_daemon(l->daemon); /* or it would close the socket, which is ours to close */
        MHD_stop_daemon(l->daemon);
    }
    if (l->fd >= 0) {
        close(l->fd);
        if (!l->quiesced && !l->inherited)
            listen_cleanup(address);
    }
}

void http_stop(struct http *h)
{
    if (!h)
        return;
    /* stopping with a sleeping connection aborts the process: none sleeps from now on */
    if (h->watch)
        watch_hang_up_all(h->watch);
    for (int tries = 0; tries < STOP_MS / 10 && atomic_load(&h->exchanges); tries++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    stop_listener(&h->main, h->conf->listen);
    stop_listener(&h->admin, h->conf->admin_listen);
    watch_stop(h->watch);
    http_body_stop(h);
    deq_free(h);
}
