/* Sockets between clients and the daemon, with room for so many bytes that nobody has read; and epoll, for the watcher
 * of connections and for those that linger. Descriptors from FIRST on are these, others the system's. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/net/listen.h"
#include "tests/sim/sim.h"

enum { FIRST = 4096, FDS = 512, REGISTRATIONS = 512 };

struct registration {
    int fd;
    uint32_t events, told; /* told: of an edge-triggered one, what was */
    uint64_t data;
};

struct epoll {
    struct registration of[REGISTRATIONS];
    size_t n;
};

static struct {
    struct socket *socket;
    struct epoll *epoll;
    bool listens;
} fds[FDS];

int __real_close(int fd);
int __real_fcntl(int fd, int command, ...);
int __real_poll(struct pollfd *p, nfds_t n, int timeout_ms);
ssize_t __real_write(int fd, const void *bytes, size_t n);

static bool ours(int fd)
{
    return fd >= FIRST && fd < FIRST + FDS;
}

static int free_fd(void)
{
    for (int i = 0; i < FDS; i++)
        if (!fds[i].socket && !fds[i].epoll && !fds[i].listens)
            return FIRST + i;
    sim_fail("descriptors leak: all %d are taken", FDS);
}

struct socket *socket_of_fd(int fd)
{
    return ours(fd) ? fds[fd - FIRST].socket : NULL;
}

struct socket *socket_new(void *client)
{
    struct socket *s = sim_alloc(sizeof *s);
    s->fd = free_fd();
    s->refs = 2; /* the descriptor and the client */
    s->client = client;
    s->room = sim_one_in(2) ? sim_between(200, 3000) : sim_between(3000, 30000);
    fds[s->fd - FIRST].socket = s;
    return s;
}

void socket_unref(struct socket *s)
{
    if (--s->refs)
        return;
    free(s->in);
    free(s);
}

void socket_send(struct socket *s, const char *bytes, size_t n)
{
    if (s->n_in + n > s->cap_in)
        s->in = sim_realloc(s->in, s->cap_in = 2 * (s->n_in + n));
    memcpy(s->in + s->n_in, bytes, n);
    s->n_in += n;
    s->received += n;
}

bool socket_dead(const struct socket *s)
{
    return s->reset || s->shut_write;
}

void socket_wrote(struct socket *s)
{
    s->reset = s->reset || s->left;
}

static void forget(int fd)
{
    for (int i = 0; i < FDS; i++) {
        struct epoll *e = fds[i].epoll;
        for (size_t k = 0; e && k < e->n; k++)
            if (e->of[k].fd == fd)
                e->of[k--] = e->of[--e->n];
    }
}

void socket_close(int fd)
{
    struct socket *s = fds[fd - FIRST].socket;
    forget(fd);
    fds[fd - FIRST].socket = NULL;
    for (int i = 0; i < FDS; i++)
        if (fds[i].socket == s) { /* somebody holds it still */
            socket_unref(s);
            return;
        }
    s->closed = s->shut_read = s->shut_write = true;
    client_closed(s->client);
    socket_unref(s);
}

/* --- What the daemon calls --- */

enum deq_rc __wrap_listen_open(const char *option, const char *text, int *ret_fd, char ret_text[160],
                               struct deq_err *err)
{
    (void)option;
    (void)err;
    *ret_fd = free_fd();
    fds[*ret_fd - FIRST].listens = true;
    strncpy(ret_text, text, 159);
    ret_text[159] = 0;
    return DEQ_OK;
}

int __wrap_close(int fd)
{
    if (!ours(fd))
        return __real_close(fd);
    if (fds[fd - FIRST].socket) {
        socket_close(fd);
    } else if (fds[fd - FIRST].epoll) {
        free(fds[fd - FIRST].epoll);
        fds[fd - FIRST].epoll = NULL;
    } else if (fds[fd - FIRST].listens) {
        fds[fd - FIRST].listens = false;
    } else {
        sim_fail("descriptor %d is closed, which is not open", fd);
    }
    return 0;
}

int __wrap_fcntl(int fd, int command, ...)
{
    va_list ap;
    va_start(ap, command);
    void *const arg = va_arg(ap, void *);
    va_end(ap);
    if (!ours(fd))
        return __real_fcntl(fd, command, arg);
    if (command != F_DUPFD_CLOEXEC || !fds[fd - FIRST].socket)
        sim_fail("fcntl %d on a simulated descriptor", command);
    const int copy = free_fd();
    fds[copy - FIRST].socket = fds[fd - FIRST].socket;
    fds[copy - FIRST].socket->refs++;
    return copy;
}

int __wrap_shutdown(int fd, int how)
{
    struct socket *s = socket_of_fd(fd);
    if (!s) /* the listening one's, which mhd.c has been told about */
        return 0;
    s->shut_read = s->shut_read || how != SHUT_WR;
    s->shut_write = s->shut_write || how != SHUT_RD;
    if (how != SHUT_RD)
        client_closed(s->client);
    return 0;
}

static uint32_t state_of(int fd);

static uint32_t state_of_epoll(const struct epoll *e)
{
    for (size_t i = 0; i < e->n; i++)
        if (state_of(e->of[i].fd) & (e->of[i].events | EPOLLHUP | EPOLLERR))
            return EPOLLIN;
    return 0;
}

static uint32_t state_of(int fd)
{
    const struct socket *s = socket_of_fd(fd);
    if (!s)
        return ours(fd) && fds[fd - FIRST].epoll ? state_of_epoll(fds[fd - FIRST].epoll) : 0;
    const bool end = s->fin || s->reset || s->shut_read;
    return (s->n_in || end ? EPOLLIN : 0u) | (end ? EPOLLRDHUP : 0u) |
           (s->reset || (end && s->shut_write) ? EPOLLHUP : 0u) | (s->reset ? EPOLLERR : 0u);
}

int __wrap_epoll_create1(int flags)
{
    (void)flags;
    const int fd = free_fd();
    fds[fd - FIRST].epoll = sim_alloc(sizeof(struct epoll));
    return fd;
}

int __wrap_epoll_ctl(int epoll_fd, int how, int fd, struct epoll_event *ev)
{
    struct epoll *e = fds[epoll_fd - FIRST].epoll;
    size_t i = 0;
    while (i < e->n && e->of[i].fd != fd)
        i++;
    if (how == EPOLL_CTL_DEL) {
        if (i < e->n)
            e->of[i] = e->of[--e->n];
        return 0;
    }
    if (i < e->n || e->n == REGISTRATIONS)
        sim_fail("descriptor %d is in its epoll already", fd);
    e->of[e->n++] = (struct registration){.fd = fd, .events = ev->events, .data = ev->data.u64};
    return 0;
}

static uint32_t to_tell(const struct registration *r)
{
    const uint32_t now = state_of(r->fd) & (r->events | EPOLLHUP | EPOLLERR);
    return r->events & EPOLLET ? now & ~r->told : now;
}

static bool epoll_ready(const void *on)
{
    const struct epoll *e = on;
    for (size_t i = 0; i < e->n; i++)
        if (to_tell(&e->of[i]))
            return true;
    return false;
}

int __wrap_epoll_wait(int epoll_fd, struct epoll_event *ret, int max, int timeout_ms)
{
    struct epoll *e = fds[epoll_fd - FIRST].epoll;
    int n = 0;
    if (timeout_ms)
        thread_wait(epoll_ready, e, sim.now_ns + (uint64_t)timeout_ms * 1000000u);
    for (size_t i = 0; i < e->n && n < max; i++) {
        const uint32_t events = to_tell(&e->of[i]);
        if (!events)
            continue;
        e->of[i].told |= events;
        ret[n++] = (struct epoll_event){.events = events, .data.u64 = e->of[i].data};
    }
    return n;
}

int __wrap_poll(struct pollfd *p, nfds_t n, int timeout_ms)
{
    if (n != 1 || !ours(p->fd))
        return __real_poll(p, n, timeout_ms);
    p->revents = (short)(state_of(p->fd) & ((uint32_t)p->events | EPOLLHUP | EPOLLERR));
    return p->revents != 0;
}

int __wrap_ioctl(int fd, unsigned long what, ...)
{
    va_list ap;
    va_start(ap, what);
    int *const ret = va_arg(ap, int *);
    va_end(ap);
    if (what != FIONREAD || !socket_of_fd(fd))
        sim_fail("ioctl %lx on descriptor %d", what, fd);
    *ret = (int)socket_of_fd(fd)->n_in;
    return 0;
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
    const struct socket *s = socket_of_fd(fd);
    memset(value, 0, *len);
    if (level == SOL_SOCKET && name == SO_DOMAIN)
        *(int *)value = AF_INET;
    else if (s && level == IPPROTO_TCP && name == TCP_INFO)
        ((struct tcp_info *)value)->tcpi_bytes_received = s->received;
    return 0;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    (void)fd;
    (void)level;
    (void)name;
    (void)value;
    (void)len;
    return 0;
}

ssize_t __wrap_send(int fd, const void *bytes, size_t n, int flags)
{
    struct socket *s = socket_of_fd(fd);
    (void)bytes;
    (void)flags;
    if (socket_dead(s)) {
        errno = EPIPE;
        return -1;
    }
    if (s->room < n) {
        errno = EAGAIN;
        return -1;
    }
    s->interim++;
    socket_wrote(s);
    return (ssize_t)n;
}

ssize_t __wrap_recv(int fd, void *bytes, size_t max, int flags)
{
    struct socket *s = socket_of_fd(fd);
    const size_t n = DEQ_MIN(s->n_in, max);
    (void)flags;
    if (s->reset || (!n && !s->fin)) {
        errno = s->reset ? ECONNRESET : EAGAIN;
        return -1;
    }
    memcpy(bytes, s->in, n);
    memmove(s->in, s->in + n, s->n_in -= n);
    return (ssize_t)n;
}

/* The log, which is standard error, is part of what happened. */
ssize_t __wrap_write(int fd, const void *bytes, size_t n)
{
    if (fd != STDERR_FILENO)
        return __real_write(fd, bytes, n);
    for (size_t i = 0; i + 1 < n; i++)
        if (((const unsigned char *)bytes)[i] < 0x20)
            sim_fail("a control character in a line of the log");
    thread_maybe_switch();
    return (ssize_t)n;
}
