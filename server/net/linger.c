#define _GNU_SOURCE
#include "server/net/linger.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/fault.h"
#include "core/base/mem.h"

enum { BLOCK_BYTES = 64 << 10, BLOCKS = 4 /* of a socket, then it is the next one's turn */ };

struct parting {
    int fd; /* our own descriptor of the socket; -1: none */
    uint64_t until_ns, bytes;
};

struct lingering {
    int epoll;
    pthread_mutex_t lock; /* the sockets */
    struct parting sockets[LINGER_SOCKETS];
    char block[BLOCK_BYTES];
};

enum deq_rc linger_new(struct lingering **ret, struct deq_err *err)
{
    struct lingering *l = DEQ_NEW(struct lingering);
    if (!l)
        return deq_fail(err, DEQ_ENOMEM, "no memory for sockets that are closed");
    for (size_t i = 0; i < LINGER_SOCKETS; i++)
        l->sockets[i].fd = -1;
    pthread_mutex_init(&l->lock, NULL);
    l->epoll = DEQ_SYS(EMFILE, epoll_create1(EPOLL_CLOEXEC));
    if (l->epoll < 0) {
        const int e = errno;
        linger_free(l);
        return deq_fail(err, DEQ_EIO, "epoll_create1: %s", strerror(e));
    }
    *ret = l;
    return DEQ_OK;
}

static void end(struct parting *p)
{
    close(p->fd); /* no other descriptor leads to it: it leaves the epoll by itself */
    p->fd = -1;
}

void linger_free(struct lingering *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < LINGER_SOCKETS; i++)
        if (l->sockets[i].fd >= 0)
            end(&l->sockets[i]);
    if (l->epoll >= 0)
        close(l->epoll);
    pthread_mutex_destroy(&l->lock);
    deq_free(l);
}

int linger_fd(const struct lingering *l)
{
    return l->epoll;
}

void linger_add(struct lingering *l, int fd, uint64_t now_ns)
{
    uint32_t i = 0;
    pthread_mutex_lock(&l->lock);
    while (i < LINGER_SOCKETS && l->sockets[i].fd >= 0)
        i++;
    const int own = i < LINGER_SOCKETS ? DEQ_SYS(EMFILE, fcntl(fd, F_DUPFD_CLOEXEC, 0)) : -1;
    if (own >= 0) {
        struct parting *p = &l->sockets[i];
        struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP, .data.u32 = i};
        *p = (struct parting){.fd = own, .until_ns = now_ns + LINGER_MS * 1000000ull};
        if (shutdown(own, SHUT_WR) || DEQ_SYS(ENOSPC, epoll_ctl(l->epoll, EPOLL_CTL_ADD, own, &ev)))
            end(p);
    }
    pthread_mutex_unlock(&l->lock);
}

/* False: the client has closed, or has sent as much as is read. */
static bool drain(struct lingering *l, struct parting *p)
{
    ssize_t n = 0;
    for (int k = 0; k < BLOCKS && (n = recv(p->fd, l->block, sizeof l->block, MSG_DONTWAIT)) > 0; k++)
        p->bytes += (uint64_t)n;
    return n && (n > 0 || errno == EAGAIN || errno == EINTR) && p->bytes < LINGER_BYTES;
}

void linger_drain(struct lingering *l, uint64_t now_ns)
{
    struct epoll_event ev[LINGER_SOCKETS];
    const int n = epoll_wait(l->epoll, ev, LINGER_SOCKETS, 0);
    pthread_mutex_lock(&l->lock);
    for (int k = 0; k < n; k++) {
        struct parting *p = &l->sockets[ev[k].data.u32];
        if (p->fd >= 0 && !drain(l, p))
            end(p);
    }
    for (size_t i = 0; i < LINGER_SOCKETS; i++)
        if (l->sockets[i].fd >= 0 && now_ns > l->sockets[i].until_ns)
            end(&l->sockets[i]);
    pthread_mutex_unlock(&l->lock);
}
