#define _GNU_SOURCE
#include "server/net/watch.h"

#include <errno.h>
#include <linux/tcp.h> /* netinet/tcp.h lacks tcpi_bytes_received */
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/mem.h"
#include "server/net/linger.h"

/* DISPATCH_MS: within that, what libmicrohttpd has read has reached its handler, also on a busy machine */
enum { PERIOD_MS = 100, EVENTS = 64, REFUSED_MS = 1000, DISPATCH_MS = 300, GRACE_MS = 800, PROBE_MS = 5000 };

struct client {
    struct client *next, *prev;
    int fd;
    uint32_t generation; /* tells this socket from an earlier one with the same number */
    enum watch_phase phase;
    uint64_t deadline_ns;    /* of the phase; 0: none */
    uint64_t received_bytes; /* on this socket when it became idle */
    struct channel *channel; /* of the exchange in work */
    bool hangup;             /* the other side will send nothing more */
    bool interim;            /* 1xx answers may be written to it */
    bool local;              /* a unix socket */
    uint64_t probe_ns;       /* it half-closed: when it is to be found out whether it is there; 0: not yet looked at */
    uint64_t short_since_ns; /* it half-closed, and since then nothing lies unread and no request is there; 0: not so */
    bool refused, tls;
    bool last_answer;        /* is given: the connection ends when it is sent */
    char request_id[132];    /* of the exchange whose body is due */
};

struct watch {
    const struct conf *conf;
    int epoll;
    struct lingering *linger;
    pthread_t thread;
    bool started;
    _Atomic bool stopping;
    bool ended;             /* nobody is served any more; guarded by lock */
    pthread_mutex_t lock;   /* the clients and their channels */
    struct client *clients;
    struct client **by_fd;  /* [n_fds] */
    size_t n_fds;
    uint32_t generation;
};

static void set_deadline(struct client *cl, enum watch_phase phase, uint64_t timeout_ms)
{
    cl->deadline_ns = timeout_ms ? deq_now_ns() + timeout_ms * 1000000u : 0;
    cl->phase = phase;
}

static uint64_t received_bytes(int fd)
{
    struct tcp_info t = {0};
    socklen_t len = sizeof t;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &t, &len) == 0 ? t.tcpi_bytes_received : 0;
}

static bool set_descriptor(struct watch *w, int fd, struct client *cl)
{
    if ((size_t)fd >= w->n_fds) {
        const size_t n = DEQ_ROUND_UP((size_t)fd + 1, (size_t)256);
        struct client **p = deq_realloc(w->by_fd, w->n_fds * sizeof *p, n * sizeof *p);
        if (!p)
            return false;
        memset(p + w->n_fds, 0, (n - w->n_fds) * sizeof *p);
        w->by_fd = p;
        w->n_fds = n;
    }
    w->by_fd[fd] = cl;
    return true;
}

struct client *watch_add(struct watch *w, int fd, bool refused, bool tls)
{
    struct client *cl = DEQ_NEW(struct client);
    const int one = 1;
    const unsigned gone_ms = w->conf->stream_stall_ms;
    const int unread = (int)w->conf->stream_buffer_bytes;
    int domain = 0;
    socklen_t len = sizeof domain;
    if (!cl)
        return NULL;
    cl->local = getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &gone_ms, sizeof gone_ms);
    /* else the system would hold megabytes for every slow reader */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &unread, sizeof unread);
    pthread_mutex_lock(&w->lock);
    cl->fd = fd;
    cl->refused = refused;
    cl->tls = tls;
    cl->generation = ++w->generation;
    set_deadline(cl, WATCH_HEADERS, refused ? REFUSED_MS : w->conf->header_timeout_ms);
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLET, .data.u64 = (uint64_t)cl->generation << 32 | (uint32_t)fd};
    const bool ok = set_descriptor(w, fd, cl) && DEQ_SYS(ENOSPC, epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &ev)) == 0;
    if (ok) {
        cl->next = w->clients;
        if (w->clients)
            w->clients->prev = cl;
        w->clients = cl;
    }
    pthread_mutex_unlock(&w->lock);
    if (!ok) {
        deq_free(cl);
        return NULL;
    }
    return cl;
}

/* Its client has not closed, and may still be sending: it was given its last answer, or libmicrohttpd refused its head
 * without a word to us. */
static bool ends_early(const struct client *cl)
{
    struct pollfd p = {.fd = cl->fd, .events = POLLRDHUP};
    int unread = 0;
    if (poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR))
        return false;
    return cl->last_answer || cl->phase == WATCH_HEADERS || (ioctl(cl->fd, FIONREAD, &unread) == 0 && unread);
}

void watch_remove(struct watch *w, struct client *cl)
{
    pthread_mutex_lock(&w->lock);
    if (!w->ended && ends_early(cl))
        linger_add(w->linger, cl->fd, deq_now_ns());
    (void)epoll_ctl(w->epoll, EPOLL_CTL_DEL, cl->fd, NULL);
    w->by_fd[cl->fd] = NULL;
    if (cl->prev)
        cl->prev->next = cl->next;
    else
        w->clients = cl->next;
    if (cl->next)
        cl->next->prev = cl->prev;
    pthread_mutex_unlock(&w->lock);
    deq_free(cl);
}

void watch_phase(struct watch *w, struct client *cl, enum watch_phase phase)
{
    if (!cl)
        return;
    const struct conf *c = w->conf;
    pthread_mutex_lock(&w->lock);
    if (phase == WATCH_IDLE) {
        cl->received_bytes = received_bytes(cl->fd);
        /* the sum bounds a next request whose first bytes came along with this one */
        set_deadline(cl, phase, (uint64_t)c->idle_timeout_ms + c->header_timeout_ms);
    } else {
        const bool headers = phase == WATCH_HEADERS, body = phase == WATCH_BODY;
        set_deadline(cl, phase, headers ? c->header_timeout_ms : body ? c->body_timeout_ms : 0);
    }
    pthread_mutex_unlock(&w->lock);
}

void watch_body(struct watch *w, struct client *cl, const char *request_id, bool interim)
{
    if (!cl)
        return;
    pthread_mutex_lock(&w->lock);
    snprintf(cl->request_id, sizeof cl->request_id, "%s", request_id);
    cl->interim = interim && !cl->tls;
    set_deadline(cl, WATCH_BODY, w->conf->body_timeout_ms);
    pthread_mutex_unlock(&w->lock);
}

/* Caller holds the channel's lock, and the connection sleeps: nobody else writes to the socket, and nothing of this
 * answer is written yet. False: the client left. */
static bool probe(const struct client *cl)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    const ssize_t n = send(cl->fd, interim, sizeof interim - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n == (ssize_t)sizeof interim - 1 || (n < 0 && errno == EAGAIN);
}

/* The client sends nothing more; whether it reads is to be found out. Caller holds w->lock. Asked now and then until
 * its answer is there. */
static void half_closed(struct client *cl)
{
    struct channel *c = cl->channel;
    const uint64_t now = deq_now_ns();
    bool left = false, ping = false;
    pthread_mutex_lock(&c->lock);
    if (!c->dispatched || c->done || c->gone) {
        ; /* what may be written is not known yet, or nothing is to be found out */
    } else if (c->streaming || c->may_stream) {
        ping = !cl->probe_ns; /* once: streams are not silent for long */
        cl->probe_ns = now;
    } else if (!cl->probe_ns) {
        cl->probe_ns = now + GRACE_MS * 1000000ull;
    } else if (!cl->local && now >= cl->probe_ns && c->suspended) {
        left = !cl->interim || !probe(cl);
        cl->probe_ns = now + PROBE_MS * 1000000ull;
    }
    pthread_mutex_unlock(&c->lock);
    if (left)
        channel_hang_up(c);
    if (ping) {
        channel_start_stream(c);
        if (channel_streaming(c))
            channel_ping(c);
    }
}

void watch_last_answer(struct watch *w, struct client *cl)
{
    pthread_mutex_lock(&w->lock);
    cl->last_answer = true;
    pthread_mutex_unlock(&w->lock);
}

void watch_channel(struct watch *w, struct client *cl, struct channel *c)
{
    pthread_mutex_lock(&w->lock);
    cl->channel = c;
    cl->probe_ns = 0;
    if (c) {
        struct pollfd p = {.fd = cl->fd, .events = POLLRDHUP};
        const bool told = poll(&p, 1, 0) > 0; /* it left while its request was read: epoll has told already */
        cl->hangup = cl->hangup || told;
        if (w->ended || (told && p.revents & (POLLHUP | POLLERR)))
            channel_hang_up(c);
    }
    pthread_mutex_unlock(&w->lock);
}

void watch_hang_up_all(struct watch *w)
{
    pthread_mutex_lock(&w->lock);
    w->ended = true;
    for (struct client *cl = w->clients; cl; cl = cl->next)
        if (cl->channel)
            channel_hang_up(cl->channel);
    pthread_mutex_unlock(&w->lock);
}

/* Silent streams, and readers that are too slow: false, its client is to be dropped. */
static bool look_after(const struct watch *w, struct channel *c)
{
    pthread_mutex_lock(&c->lock);
    const uint64_t now = deq_now_ns(); /* behind the lock: the channel's times lie before it */
    const bool slow = channel_slow(c, now, w->conf->stream_stall_ms, w->conf->stream_min_rate);
    const bool silent =
        (c->streaming || c->may_stream) && !c->done && now - c->last_write_ns > w->conf->stream_ping_ms * 1000000ull;
    pthread_mutex_unlock(&c->lock);
    if (slow) {
        channel_hang_up(c);
    } else if (silent) {
        channel_start_stream(c); /* also while it waits in the queue: proxies cut what is silent for long */
        if (channel_streaming(c))
            channel_ping(c);
    }
    return !slow;
}

/* libmicrohttpd takes no answer in the middle of an upload; nothing else was written to the socket for this request, so
 * it may be said here. */
static void say_timeout(const struct client *cl)
{
    char answer[600];
    static const char body[] = "{\"error\":{\"message\":\"the body did not come within server.body_timeout_ms\","
                               "\"type\":\"timeout_error\",\"param\":null,\"code\":\"request_timeout\"}}";
    const int n = snprintf(answer, sizeof answer,
                           "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\n"
                           "X-Request-Id: %s\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                           cl->request_id, sizeof body - 1, body);
    if (n > 0 && (size_t)n < sizeof answer)
        (void)!send(cl->fd, answer, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void tick(struct watch *w)
{
    const uint64_t now = deq_now_ns();
    for (struct client *cl = w->clients; cl; cl = cl->next) {
        /* libmicrohttpd does not tell that a further request began on an idle connection: its first bytes do */
        if (cl->phase == WATCH_IDLE && received_bytes(cl->fd) != cl->received_bytes)
            set_deadline(cl, WATCH_HEADERS, w->conf->header_timeout_ms);
        /* who half-closed in the middle of a request never ends it, and behind the last one sends no other;
         * libmicrohttpd may have read all there is and not have seen the end behind it */
        int unread = 0;
        const bool is_short =
            cl->hangup && cl->phase != WATCH_WORK && ioctl(cl->fd, FIONREAD, &unread) == 0 && !unread;
        if (!is_short)
            cl->short_since_ns = 0;
        else if (!cl->short_since_ns)
            cl->short_since_ns = now;
        /* not at once: what is read may be a whole request that libmicrohttpd is about to hand over */
        const bool cut_short = is_short && now - cl->short_since_ns > DISPATCH_MS * 1000000ull;
        if (cut_short || (cl->deadline_ns && now > cl->deadline_ns)) {
            if (!cut_short && cl->phase == WATCH_BODY && !cl->tls)
                say_timeout(cl);
            (void)shutdown(cl->fd, SHUT_RDWR);
            cl->deadline_ns = 0;
        }
        if (cl->channel && cl->hangup)
            half_closed(cl);
        if (cl->channel && !look_after(w, cl->channel))
            (void)shutdown(cl->fd, SHUT_RDWR); /* libmicrohttpd waits until it can write, which may be never */
    }
}

static void *watch_main(void *arg)
{
    struct watch *w = arg;
    struct epoll_event ev[EVENTS];
    uint64_t next_tick = deq_now_ns();
    while (!atomic_load(&w->stopping)) {
        const uint64_t now = deq_now_ns();
        const int wait_ms = next_tick > now ? (int)((next_tick - now) / 1000000) + 1 : 0;
        const int n = epoll_wait(w->epoll, ev, EVENTS, wait_ms);
        linger_drain(w->linger, deq_now_ns());
        pthread_mutex_lock(&w->lock);
        for (int i = 0; i < n; i++) {
            const uint32_t fd = (uint32_t)ev[i].data.u64;
            struct client *cl = fd < w->n_fds ? w->by_fd[fd] : NULL;
            if (!cl || cl->generation != (uint32_t)(ev[i].data.u64 >> 32))
                continue; /* of a socket that is gone, or of those that linger */
            cl->hangup = true;
            if (cl->channel && ev[i].events & (EPOLLHUP | EPOLLERR))
                channel_hang_up(cl->channel);
            else if (cl->channel)
                half_closed(cl);
        }
        if (deq_now_ns() >= next_tick) {
            tick(w);
            next_tick = deq_now_ns() + PERIOD_MS * 1000000ull;
        }
        pthread_mutex_unlock(&w->lock);
    }
    return NULL;
}

enum deq_rc watch_start(const struct conf *conf, struct watch **ret, struct deq_err *err)
{
    struct watch *w = DEQ_NEW(struct watch);
    if (!w)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the watcher");
    w->conf = conf;
    pthread_mutex_init(&w->lock, NULL);
    w->epoll = DEQ_SYS(EMFILE, epoll_create1(EPOLL_CLOEXEC));
    const enum deq_rc rc = linger_new(&w->linger, err);
    if (rc) {
        watch_stop(w);
        return rc;
    }
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = UINT64_MAX /* no client */};
    w->started = w->epoll >= 0 && DEQ_SYS(ENOSPC, epoll_ctl(w->epoll, EPOLL_CTL_ADD, linger_fd(w->linger), &ev)) == 0 &&
                 DEQ_THREAD(pthread_create(&w->thread, NULL, watch_main, w)) == 0;
    if (!w->started) {
        const int e = errno;
        watch_stop(w);
        return deq_fail(err, DEQ_EIO, "cannot start the watcher of connections: %s", strerror(e));
    }
    (void)pthread_setname_np(w->thread, "watch");
    *ret = w;
    return DEQ_OK;
}

void watch_stop(struct watch *w)
{
    if (!w)
        return;
    atomic_store(&w->stopping, true);
    if (w->started)
        pthread_join(w->thread, NULL);
    if (w->epoll >= 0)
        close(w->epoll);
    linger_free(w->linger);
    pthread_mutex_destroy(&w->lock);
    deq_free(w->by_fd);
    deq_free(w);
}
